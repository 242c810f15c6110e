//! `packscan verify`: every property of every variant, wherever it can run.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use packscan::kernels::selective_scan::{Problem, default_variant};
use packscan::runtime::Edit;
use packscan::runtime::cache::Cache;
use packscan::runtime::kernel;
use packscan::runtime::nvrtc::{Arch, Nvrtc};
use packscan::{Device, Dtype, Packed};
use packscan_verify::{Case, Job, Level, Outcome, Plan, operators};

use crate::error::{Error, Result};
use crate::report::Report;
use crate::{Verdict, output, parse};

/// What to verify, where and how thoroughly.
#[derive(Debug, Args)]
pub struct Verify {
    /// Operator, or all.
    #[arg(long, default_value = "all", value_parser = parse::operator_or_all)]
    op: String,
    /// State size, N; may be repeated [default: 1 3 8 16 24 64 128 256 1024, with --fault 16]
    #[arg(long, value_name = "N")]
    state: Vec<u32>,
    /// Type of the activations, f32, f16 or bf16; may be repeated [default: all]
    #[arg(long, value_parser = parse::dtype)]
    dtype: Vec<Dtype>,
    /// Where [default: all that are there, with --fault the emulator]
    #[arg(long, value_enum)]
    device: Option<Kind>,
    /// Random cases for each variant, besides the fixed ones [default: 12, with --quick 3]
    #[arg(long, value_name = "K", value_parser = parse::whole::<u32>)]
    cases: Option<u32>,
    /// Seed of the random cases.
    #[arg(long, default_value_t = 1, value_parser = parse::whole::<u64>)]
    seed: u64,
    /// Small cases and fewer variants: done in two minutes.
    #[arg(long)]
    quick: bool,
    /// Break every kernel in this way first, to see that it is noticed; `list` shows the ways.
    #[arg(long, value_name = "NAME")]
    fault: Option<String>,
    /// Only the variant with this id.
    #[arg(long, value_name = "ID", conflicts_with_all = ["op", "state", "dtype"])]
    variant: Option<String>,
    /// Only this case of the variant, as a failure prints it.
    #[arg(long, requires = "variant", conflicts_with_all = ["cases", "seed", "quick"])]
    case: Option<Case>,
}

/// Where to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The compiled PTX, run and watched on this CPU
    Emulator,
    /// The GPU
    Cuda,
    /// The native CPU path of each operator
    Cpu,
    /// All that are there
    All,
}

/// One variant on one device.
struct Task {
    job: Box<dyn Job>,
    plan: Plan,
}

impl Verify {
    /// Runs the suites and prints what they found; bad if a property failed, escaped if a fault was not caught.
    pub fn run(&self) -> Result<Verdict> {
        if self.fault.as_deref() == Some("list") {
            output::results(faults())?;
            return Ok(Verdict::Good);
        }
        let fault = self.fault.as_deref().map(operators::fault).transpose()?;
        self.check_input()?;
        fault.as_ref().map_or(Ok(()), |fault| self.check_fault(fault))?;
        let devices = self.devices(fault.as_ref())?;
        if devices.iter().any(|device| device.arch().is_some()) {
            provide_compiler()?;
        }
        if let Some(fault) = &fault {
            output::note(&format!("fault {} injected into every {} kernel", fault.name, fault.kernel));
        }
        let tasks = self.tasks(&devices, fault.as_ref())?;
        let outcomes = self.run_tasks(&tasks);
        if let Some((id, what)) = outcomes.iter().find_map(|o| Some((o.id.clone(), o.error.clone()?))) {
            return Err(Error::Suite { id, what });
        }
        let rows = std::iter::zip(tasks.iter().map(|task| &task.plan.device), outcomes).collect();
        let report = Report { rows, fault: fault.as_ref().map(|fault| fault.name) };
        output::results(report.to_string())?;
        Ok(report.verdict())
    }

    /// Everything that can be said before anything runs.
    fn check_input(&self) -> Result<()> {
        let arch = Arch::default();
        for state in self.states() {
            kernel::check(&default_variant(&problem(state)), arch)?;
        }
        if let Some(id) = &self.variant {
            operators::job(id)?;
        }
        if let Some(case) = &self.case {
            check_size(case)?;
        }
        Ok(())
    }

    /// That what is asked for has the kernel that the fault is in.
    fn check_fault(&self, fault: &Edit) -> Result<()> {
        let pass = operators::PASSES.iter().find(|pass| pass.kernel == fault.kernel).expect("a fault is in a pass");
        let (asked, has) = match &self.variant {
            Some(id) => (format!("--variant {id}"), id.split('-').next() == Some(fault.kernel)),
            None => (format!("--op {}", self.op), self.op == "all" || self.op == pass.operator),
        };
        let Edit { name: fault, kernel, .. } = *fault;
        if has { Ok(()) } else { Err(Error::FaultElsewhere { fault, kernel, asked, operator: pass.operator }) }
    }

    fn states(&self) -> Vec<u32> {
        match (self.state.is_empty(), &self.fault) {
            (false, _) => self.state.clone(),
            (true, None) => operators::STATES.to_vec(),
            (true, Some(_)) => vec![33],
        }
    }

    fn devices(&self, fault: Option<&Edit>) -> Result<Vec<Device>> {
        let default = if fault.is_some() { Kind::Emulator } else { Kind::All };
        let devices = match self.device.unwrap_or(default) {
            Kind::Emulator => vec![Device::emulator(0)],
            Kind::Cpu => vec![Device::Cpu],
            Kind::Cuda => vec![Device::cuda(0)?],
            Kind::All => {
                let mut all = vec![Device::emulator(0), Device::Cpu];
                match Device::cuda(0) {
                    Ok(cuda) => all.push(cuda),
                    Err(packscan::Error::NoGpu { why, .. }) => output::note(&format!("cuda: skipped, {why}")),
                    Err(error) => return Err(error.into()),
                }
                all
            }
        };
        let Some(fault) = fault else { return Ok(devices) };
        devices.iter().map(|device| Ok(device.sabotaged(fault.clone())?)).collect()
    }

    fn plan(&self, device: &Device) -> Plan {
        Plan {
            states: self.states(),
            dtypes: if self.dtype.is_empty() { operators::DTYPES.to_vec() } else { self.dtype.clone() },
            device: device.clone(),
            cases: self.cases.unwrap_or(if self.quick { 3 } else { 12 }),
            seed: self.seed,
            level: if self.quick { Level::Quick } else { Level::Full },
            fault: None,
        }
    }

    /// Every suite on every device.
    fn tasks(&self, devices: &[Device], fault: Option<&Edit>) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        for device in devices {
            let plan = Plan { fault: fault.map(|fault| fault.kernel), ..self.plan(device) };
            let jobs = match &self.variant {
                Some(id) => vec![operators::job(id)?],
                None => operators::jobs(&self.op, &plan)?,
            };
            if jobs.is_empty() {
                return Err(Error::NothingToVerify { device: device.to_string() });
            }
            tasks.extend(jobs.into_iter().map(|job| Task { job, plan: plan.clone() }));
        }
        Ok(tasks)
    }

    /// The suites side by side, each on a device of its own: also on a GPU, where most of the time is the book's. Outcomes in the order of
    /// the tasks.
    fn run_tasks(&self, tasks: &[Task]) -> Vec<Outcome> {
        let count = |task: &Task| if self.case.is_some() { 1 } else { task.job.count(&task.plan) };
        let progress = Progress::new(tasks.len(), tasks.iter().map(count).sum());
        let outcomes: Vec<OnceLock<Outcome>> = tasks.iter().map(|_| OnceLock::new()).collect();
        let run = |i: usize| {
            let task = &tasks[i];
            let part = progress.start(task, count(task));
            let outcome = outcomes[i].get_or_init(|| match &self.case {
                Some(case) => task.job.replay(&task.plan.device, case),
                None => task.job.run(&task.plan, &|| part.case_done()),
            });
            part.finish(outcome);
        };
        let next = AtomicUsize::new(0);
        let workers = thread::available_parallelism().map_or(1, Into::into).min(tasks.len());
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let indices = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
                    indices.take_while(|&i| i < tasks.len()).for_each(run);
                });
            }
        });
        progress.bar.finish_and_clear();
        outcomes.into_iter().filter_map(OnceLock::into_inner).collect()
    }
}

/// Finds or fetches NVRTC and says which, and makes sure that what it compiles can be kept.
fn provide_compiler() -> Result<()> {
    let nvrtc = Nvrtc::get()?;
    Cache::open_default()?;
    let (major, minor) = nvrtc.version();
    output::note(&format!("NVRTC {major}.{minor}: {} ({})", nvrtc.path().display(), nvrtc.origin()));
    Ok(())
}

fn problem(state: u32) -> Problem {
    Problem {
        channels: 64,
        state: state as usize,
        io: Dtype::F32,
        softplus: false,
        bias: false,
        skip: false,
        gate: false,
        initial: false,
        last: false,
        checkpoints: false,
    }
}

/// Values of the largest tensor of a case, beyond which nothing is learned.
const MOST_VALUES: u128 = 1 << 28;

fn check_size(case: &Case) -> Result<()> {
    let lengths: Vec<usize> = case.sequences.iter().map(|sequence| sequence.0).collect();
    let tokens = Packed::from_lengths(&lengths)?.tokens() as u128;
    // A state of every channel, at the largest state size, is a tensor too.
    let values = (tokens * (case.channels as u128 + 16 * case.padding as u128)).max(1024 * case.channels as u128);
    if values > MOST_VALUES {
        return Err(Error::CaseTooLarge { case: case.to_string(), values, most: MOST_VALUES });
    }
    Ok(())
}

/// The faults, each as the change that it makes.
fn faults() -> String {
    let mut out = String::new();
    for fault in operators::faults() {
        out += fault.name;
        for (passage, occurrence, replacement) in fault.changes {
            let place = if occurrence > 0 { format!("   // occurrence {}", occurrence + 1) } else { String::new() };
            for (sign, text, note) in [('-', passage, place.as_str()), ('+', replacement, "")] {
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    out += &format!("\n    {sign} {}{note}", line.trim());
                }
            }
        }
        out += "\n\n";
    }
    out += "packscan verify --fault NAME makes the change in every kernel; it must then fail.\n";
    out
}

/// How far the suites are: a bar on a terminal, a line for each variant elsewhere.
struct Progress {
    bar: ProgressBar,
    variants: usize,
    variants_done: AtomicUsize,
}

impl Progress {
    fn new(variants: usize, cases: usize) -> Progress {
        let style = ProgressStyle::with_template("{wide_msg}\n{bar:40} {pos}/{len} cases, {prefix}, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(cases as u64).with_style(style);
        let progress = Progress { bar, variants, variants_done: AtomicUsize::new(0) };
        progress.show_variants(0);
        progress
    }

    fn show_variants(&self, done: usize) {
        self.bar.set_prefix(format!("{done}/{} variants", self.variants));
    }

    fn start(&self, task: &Task, cases: usize) -> Part<'_> {
        let name = format!("{}: {}", task.plan.device.kind(), task.job.id());
        self.bar.set_message(name.clone());
        Part { progress: self, name, cases, done: AtomicUsize::new(0) }
    }
}

/// One suite under way.
struct Part<'a> {
    progress: &'a Progress,
    name: String,
    cases: usize,
    done: AtomicUsize,
}

impl Part<'_> {
    /// Shrinking runs more cases than were promised; they move nothing.
    fn case_done(&self) {
        if self.done.fetch_add(1, Ordering::Relaxed) < self.cases {
            self.progress.bar.inc(1);
        }
    }

    fn finish(self, outcome: &Outcome) {
        let Part { progress, name, cases, done } = self;
        progress.bar.inc(cases.saturating_sub(done.into_inner()) as u64);
        let variants_done = 1 + progress.variants_done.fetch_add(1, Ordering::Relaxed);
        progress.show_variants(variants_done);
        if progress.bar.is_hidden() {
            let verdict = match outcome {
                Outcome { error: Some(_), .. } => "error",
                Outcome { failure: Some(_), .. } => "FAILED",
                _ => "ok",
            };
            let seconds = outcome.time.as_secs_f64();
            output::note(&format!("{variants_done}/{} {name}: {verdict}, {seconds:.1} s", progress.variants));
        }
    }
}
