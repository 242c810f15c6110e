//! A device as what tunes: a GPU, and for tests the emulator.

use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use packscan_runtime::nvrtc::{Arch, Compile, Emit, compile_cached};
use packscan_runtime::occupancy::{Block, Limits, occupancy};
use packscan_runtime::predict::{GPUS, Gpu, Prediction, Problem as Predicted, Samples};
use packscan_runtime::{Cuda, Device, Packed};
use packscan_verify::cost::Cost;
use packscan_verify::{Job, Level, Plan, operators};

use crate::candidates::{Slot, carrying};
use crate::tune::{Floor, Hardware, Promise, Stopwatch};
use crate::workload::{Bench, Machine, Problem, Workload, like, timing};
use crate::{Error, Result};

/// A device, and the sizes that are tuned for.
pub struct Tuning<'a> {
    device: &'a Device,
    problem: &'a Problem,
    driver: String,
    gpu: Gpu,
    lost: Mutex<Vec<String>>,
}

/// Random cases of a quick suite, besides the fixed ones: as many as `verify --quick` has.
const CASES: u32 = 3;

impl<'a> Tuning<'a> {
    /// A device on which kernels run.
    ///
    /// # Errors
    /// If the driver does not say how many multiprocessors there are.
    pub fn new(device: &'a Device, problem: &'a Problem) -> Result<Tuning<'a>> {
        let (driver, gpu) = match device {
            Device::Cuda(cuda) => (
                Cuda::driver(),
                Gpu { arch: cuda.arch(), multiprocessors: cuda.multiprocessors()?, ..like(cuda).clone() },
            ),
            Device::Emulator(_) | Device::Cpu => (Cuda::driver(), GPUS[0].clone()),
        };
        Ok(Tuning { device, problem, driver, gpu, lost: Mutex::default() })
    }

    fn arch(&self) -> Arch {
        self.device.arch().unwrap_or_default()
    }

    /// The size of a call of a kernel, as costs are predicted for it.
    fn predicted(&self, kernel: &str) -> Result<Predicted> {
        let Problem { lengths, width, channels, vocabulary, logits_rows, parameters, .. } = self.problem;
        let (rows, channels) = match kernel.split('_').next().unwrap_or_default() {
            "rms" | "embedding" => (None, *width),
            "cross" => (Some(*logits_rows), *vocabulary),
            // Their tensors have no rows.
            "adamw" | "grad" => (Some(parameters.div_ceil(4096)), 4096),
            _ => (None, *channels),
        };
        let packed = rows.map_or_else(|| Packed::from_lengths(lengths), |rows| Packed::from_lengths(&[rows]))?;
        Ok(Predicted { packed, channels })
    }

    /// What the emulator's counts and the compiler's numbers say together; all launches of the pass.
    fn predict(&self, job: &dyn Job, kernel: &str) -> Result<Option<Promise>, String> {
        let cost = match Cost::of(job) {
            Ok(cost) => cost,
            // A kernel that goes astray there is not let near the GPU, whose context would be lost with it.
            Err(error @ packscan_runtime::Error::Emulated { .. }) => return Err(error.to_string()),
            // What the emulator cannot run, such as an instruction that it does not know, can still be timed.
            Err(_) => return Ok(None),
        };
        let problem = self.predicted(kernel).map_err(|error| error.to_string())?;
        let launches = cost.predict(&self.gpu, &problem).map_err(|error| error.to_string())?;
        if let Some(own) = cost.launches.first() {
            self.check_room(own)?;
        }
        let ms = launches.iter().map(|launch| launch.ms).sum();
        let limit = |own: &Prediction| own.limit().0.map_or_else(|| "memory".to_owned(), |unit| unit.to_string());
        Ok(launches.first().map(|own| Promise { ms, limit: limit(own) }))
    }

    /// That a multiprocessor holds a block at all, with the registers that the compiler gave it.
    fn check_room(&self, own: &Samples) -> Result<(), String> {
        let config = own.runs[0].config;
        let resources = own.machine(&self.gpu).map_err(|error| error.to_string())?.resources;
        let block = Block {
            threads: config.threads,
            registers: resources.registers as usize,
            shared_bytes: config.shared_bytes + resources.shared_bytes as usize,
        };
        match Limits::of(self.arch()).map(|limits| occupancy(&limits, &block)) {
            Some(full) if full.blocks == 0 => {
                let limits = full.limited_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
                Err(format!("no block of it fits a multiprocessor, for its {limits}"))
            }
            _ => Ok(()),
        }
    }

    /// After something failed: whether the device still runs anything.
    fn look_for_life(&self, id: &str) {
        if self.device.synchronize().is_err() {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
        }
    }

    fn suite(&self, id: &str) -> Result<(), String> {
        let job = operators::job(id).map_err(|error| error.to_string())?;
        let (states, dtypes) = (Vec::new(), Vec::new());
        let (level, device) = (Level::Quick, self.device.clone());
        let plan = Plan { states, dtypes, device, cases: CASES, seed: 1, level, fault: None };
        let outcome = job.run(&plan, &|| ());
        match (outcome.failure, outcome.error) {
            (Some((case, failure)), _) => Err(format!("{failure}, on {case}")),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }
}

impl Hardware for Tuning<'_> {
    fn driver(&self) -> &str {
        &self.driver
    }

    fn compile(&self, slot: &Slot, id: &str) -> Result<Option<Promise>, String> {
        let job = operators::job(id).map_err(|error| error.to_string())?;
        let source = job.source();
        let request = Compile { name: id, source: &source, arch: self.arch(), emit: Emit::Cubin, options: &[] };
        compile_cached(&request).map_err(|error| error.to_string())?;
        self.predict(&*job, slot.kernel)
    }

    fn verify(&self, id: &str) -> Result<(), String> {
        self.suite(id).inspect_err(|_| self.look_for_life(id))
    }

    fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stopwatch(&self) -> Result<Box<dyn Stopwatch + '_>> {
        let machine = match self.device {
            Device::Cuda(cuda) => Some(Machine::of(cuda, self.device)?),
            Device::Emulator(_) | Device::Cpu => None,
        };
        Ok(Box::new(Launches { tuning: self, bench: None, machine }))
    }
}

/// Launches at the sizes that are tuned for.
struct Launches<'a> {
    tuning: &'a Tuning<'a>,
    /// The operator whose variants were launched last, and the buffers that they share.
    bench: Option<(String, Rc<Bench>)>,
    machine: Option<Machine>,
}

impl Launches<'_> {
    /// A variant with its inputs. Those of another operator are given back first.
    fn workload(&mut self, id: &str) -> Result<Box<dyn Workload>> {
        let operator = id.split(['-', '_']).next().unwrap_or_default();
        let bench = match self.bench.take() {
            Some((name, bench)) if name == operator => bench,
            before => {
                drop(before);
                Bench::new(self.tuning.device, self.tuning.problem.clone())?
            }
        };
        self.bench = Some((operator.to_owned(), bench.clone()));
        bench.workload(id)
    }

    /// Why a variant is out.
    fn failed(&self, id: &str, error: &Error) -> String {
        self.tuning.look_for_life(id);
        error.to_string()
    }
}

impl Stopwatch for Launches<'_> {
    fn launch(&mut self, id: &str, launches: usize) -> Result<Vec<f64>, String> {
        let mut launch = || {
            let mut workload = self.workload(id)?;
            Ok(timing::samples(self.tuning.device, launches, || workload.run())?)
        };
        launch().map_err(|error: Error| self.failed(id, &error))
    }

    fn confirm(&mut self, id: &str) -> Result<(), String> {
        let mut check = || self.workload(id)?.check();
        check().map_err(|error| self.failed(id, &error))?;
        let carrying = carrying(id).map_or(Ok(()), |carrying| self.tuning.suite(&carrying));
        carrying.inspect_err(|_| self.tuning.look_for_life(id))
    }

    fn floor(&mut self, id: &str) -> Option<Floor> {
        let bound = self.workload(id).ok()?.floor().on(self.machine.as_ref()?);
        Some(Floor { ms: bound.ms, limit: bound.limit.to_string() })
    }
}
