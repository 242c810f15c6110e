//! What is installed, what is missing, and what that means.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{DriverError, result, sys};

use crate::cache;
use crate::nvrtc::find::{self, Environment, Library, Origin};
use crate::nvrtc::{self, Arch};
use crate::{Error, Result};

/// What `packscan doctor` shows. Each part that is an error or absent is followed by its cure when shown.
#[derive(Debug)]
pub struct Report {
    /// The NVIDIA driver and its GPUs, or why there is none.
    pub driver: Result<Driver, String>,
    /// The compiler; `Ok(None)` if it is nowhere.
    pub nvrtc: Result<Option<Installed>>,
    /// Matrix products on the GPU; `Ok(None)` if they are nowhere.
    pub cublaslt: Result<Option<Installed>>,
    /// Sums over several GPUs; `Ok(None)` if they are nowhere.
    pub nccl: Result<Option<Installed>>,
    /// The folder for compiled kernels and fetched libraries.
    pub cache: CacheState,
    /// Where `pip` would come from.
    pub python: Option<PythonState>,
    /// Whether `PACKSCAN_OFFLINE` forbids to fetch.
    pub offline: bool,
}

/// The NVIDIA driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it runs, major and minor.
    pub cuda: (u32, u32),
    /// The GPUs, by ordinal.
    pub gpus: Vec<Gpu>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its product name.
    pub name: String,
    /// Its compute capability.
    pub arch: Arch,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// Its memory.
    pub memory_bytes: u64,
}

/// A library that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its file.
    pub path: PathBuf,
    /// Its version, major and minor.
    pub version: (u32, u32),
    /// In which of the places it was found.
    pub origin: Origin,
}

/// packscan's cache folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheState {
    /// The folder.
    pub folder: PathBuf,
    /// What its files take.
    pub bytes: u64,
    /// Why it cannot be written, if it cannot.
    pub problem: Option<String>,
}

/// The active Python.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonState {
    /// The command that starts it.
    pub program: PathBuf,
    /// Its version, `3.11.7`.
    pub version: String,
    /// Whether it has `pip`.
    pub pip: bool,
}

impl Report {
    /// Looks at the machine of this process. Fetches nothing.
    ///
    /// # Errors
    /// [`Error::CacheFolder`] if no cache folder is set and no home folder is known; whatever else is wrong is in the
    /// report.
    pub fn gather() -> Result<Self> {
        Ok(Report { driver: driver(), ..Report::without_driver(&Environment::current()?) })
    }

    /// All but the driver, in an environment of one's own.
    fn without_driver(environment: &Environment) -> Self {
        Report {
            driver: Err("not looked for".to_owned()),
            nvrtc: nvrtc(environment),
            cublaslt: cublaslt(environment),
            nccl: nccl(environment),
            cache: cache_state(&environment.cache),
            python: environment.python().map(|python| PythonState {
                pip: has_pip(&python.program),
                program: python.program,
                version: python.version,
            }),
            offline: environment.offline,
        }
    }

    /// Whether kernels can run in the emulator: NVRTC is there or can be fetched, and the cache folder can be written.
    pub fn emulator_can_run(&self) -> bool {
        let compiler = match &self.nvrtc {
            Ok(Some(_)) => true,
            Ok(None) => self.nvrtc_can_be_fetched(),
            Err(_) => false,
        };
        compiler && self.cache.problem.is_none()
    }

    /// Whether kernels can run on a GPU: there is one, and what the emulator needs is there too.
    pub fn gpu_can_run(&self) -> bool {
        self.emulator_can_run() && self.driver.as_ref().is_ok_and(|driver| !driver.gpus.is_empty())
    }

    fn nvrtc_can_be_fetched(&self) -> bool {
        !self.offline && nvrtc::has_wheel() && self.python.as_ref().is_some_and(|python| python.pip)
    }
}

fn driver() -> Result<Driver, String> {
    // SAFETY: this only tries to load the NVIDIA driver's library.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver".to_owned());
    }
    let ask = || -> Result<Driver, DriverError> {
        let mut cuda = 0;
        // SAFETY: the pointer is to an integer that outlives the call; this function may precede cuInit.
        unsafe { sys::cuDriverGetVersion(&mut cuda) }.result()?;
        let cuda = (cuda as u32 / 1000, cuda as u32 % 1000 / 10);
        let gpus = match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Vec::new(),
            other => {
                other?;
                (0..result::device::get_count()?).map(gpu).collect::<Result<_, _>>()?
            }
        };
        Ok(Driver { cuda, gpus })
    };
    ask().map_err(|error| format!("the NVIDIA driver does not start: {error}"))
}

fn gpu(ordinal: i32) -> Result<Gpu, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: `device` comes from `get`.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) }.map(|value| value as u32);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Gpu {
        name: result::device::get_name(device)?,
        arch: Arch::new(major * 10 + minor),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }? as u64,
    })
}

fn nvrtc(environment: &Environment) -> Result<Option<Installed>> {
    let found = nvrtc::find_without_download(environment)?;
    Ok(found.map(|nvrtc| Installed { path: nvrtc.path().to_owned(), version: nvrtc.version(), origin: nvrtc.origin() }))
}

fn cublaslt(environment: &Environment) -> Result<Option<Installed>> {
    let Some(found) = find::find(Library::CublasLt, environment)?.found else { return Ok(None) };
    // SAFETY: the type is that of cublasLt.h.
    let version = match unsafe { found.loaded.get::<unsafe extern "C" fn() -> usize>(b"cublasLtGetVersion") } {
        // SAFETY: the function takes nothing and may be called at any time.
        Ok(version) => unsafe { version() },
        Err(error) => return Err(Library::CublasLt.unusable(found.path, error)),
    };
    // cublasLt.h: major * 10000 + minor * 100 + patch.
    let version = (version as u32 / 10_000, version as u32 / 100 % 100);
    Ok(Some(Installed { path: found.path, version, origin: found.origin }))
}

fn nccl(environment: &Environment) -> Result<Option<Installed>> {
    let Some(found) = find::find(Library::Nccl, environment)?.found else { return Ok(None) };
    let mut version = 0i32;
    // SAFETY: the type is that of nccl.h.
    match unsafe { found.loaded.get::<unsafe extern "C" fn(*mut i32) -> i32>(b"ncclGetVersion") } {
        // SAFETY: the place outlives the call, which may come at any time.
        Ok(get_version) => unsafe { get_version(&mut version) },
        Err(error) => return Err(Library::Nccl.unusable(found.path, error)),
    };
    // nccl.h, since 2.9: major * 10000 + minor * 100 + patch.
    let version = (version as u32 / 10_000, version as u32 / 100 % 100);
    Ok(Some(Installed { path: found.path, version, origin: found.origin }))
}

fn cache_state(folder: &Path) -> CacheState {
    let written = fs::create_dir_all(folder).and_then(|()| tempfile::tempfile_in(folder));
    let problem = written.err().map(|error| error.to_string());
    CacheState { folder: folder.to_owned(), bytes: cache::folder_bytes(folder), problem }
}

fn has_pip(python: &Path) -> bool {
    Command::new(python).args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success())
}

/// One line of the report, and what to do if something is wrong.
struct Row {
    name: &'static str,
    text: String,
    cure: Option<String>,
}

/// Of a library that is needed for one purpose only.
fn library_row(name: &'static str, state: &Result<Option<Installed>>, purpose: &str, cure: &str) -> Row {
    let (text, cure) = match state {
        Ok(Some(installed)) => (installed.to_string(), None),
        Ok(None) => ("not found".to_owned(), Some(format!("needed to {purpose}, by nothing else; pip install {cure}"))),
        Err(error) => broken(error),
    };
    Row { name, text, cure }
}

impl Report {
    fn rows(&self) -> Vec<Row> {
        let mut rows = self.driver_rows();
        rows.push(self.nvrtc_row());
        rows.push(library_row(
            "cuBLASLt",
            &self.cublaslt,
            "train on a GPU",
            "nvidia-cublas, or PACKSCAN_CUBLASLT=FILE",
        ));
        rows.push(library_row("NCCL", &self.nccl, "train on several GPUs", "nvidia-nccl-cu13, or PACKSCAN_NCCL=FILE"));
        let CacheState { folder, bytes, problem } = &self.cache;
        rows.push(Row {
            name: "cache",
            text: match problem {
                None => format!("{}, {}", folder.display(), cache::readable(*bytes)),
                Some(problem) => format!("{} cannot be written: {problem}", folder.display()),
            },
            cure: problem
                .is_some()
                .then(|| "no kernel can be compiled; set PACKSCAN_CACHE to another folder".to_owned()),
        });
        rows.push(match &self.python {
            Some(PythonState { program, version, pip }) => Row {
                name: "Python",
                text: format!("{version} ({}), {} pip", program.display(), if *pip { "with" } else { "without" }),
                cure: None,
            },
            None => Row { name: "Python", text: "none".to_owned(), cure: None },
        });
        let word = |can| if can { "yes" } else { "no" };
        let text = format!("emulator: {}, GPU: {}", word(self.emulator_can_run()), word(self.gpu_can_run()));
        rows.push(Row { name: "kernels run on", text, cure: None });
        rows
    }

    fn driver_rows(&self) -> Vec<Row> {
        const WITHOUT: &str = "kernels run in the emulator, operators on the CPU";
        let driver = match &self.driver {
            Ok(driver) => driver,
            Err(why) => {
                let cure = format!("{WITHOUT}; a GPU needs NVIDIA's driver");
                return vec![Row { name: "GPU", text: why.clone(), cure: Some(cure) }];
            }
        };
        let text = format!("for CUDA up to {}.{}", driver.cuda.0, driver.cuda.1);
        let mut rows = vec![Row { name: "driver", text, cure: None }];
        if driver.gpus.is_empty() {
            let cure = format!("{WITHOUT}; if there is a GPU, look at CUDA_VISIBLE_DEVICES and nvidia-smi");
            rows.push(Row { name: "GPU", text: "none".to_owned(), cure: Some(cure) });
        }
        for (ordinal, Gpu { name, arch, multiprocessors, memory_bytes }) in driver.gpus.iter().enumerate() {
            let memory = cache::readable(*memory_bytes);
            let text = format!("{ordinal}: {name}, {arch}, {multiprocessors} multiprocessors, {memory}");
            rows.push(Row { name: "GPU", text, cure: None });
        }
        rows
    }

    fn nvrtc_row(&self) -> Row {
        let (text, cure) = match &self.nvrtc {
            Ok(Some(installed)) => (installed.to_string(), self.nvrtc_too_new(installed)),
            Ok(None) if self.nvrtc_can_be_fetched() => {
                ("not there yet".to_owned(), Some("packscan fetches it from PyPI when it first compiles".to_owned()))
            }
            Ok(None) => {
                let why = if self.offline { ", or unset PACKSCAN_OFFLINE" } else { "" };
                let cure =
                    format!("no kernel can be compiled; pip install nvidia-cuda-nvrtc, or PACKSCAN_NVRTC=FILE{why}");
                ("not found".to_owned(), Some(cure))
            }
            Err(error) => broken(error),
        };
        Row { name: "NVRTC", text, cure }
    }

    fn nvrtc_too_new(&self, installed: &Installed) -> Option<String> {
        let (driver, major) = (self.driver.as_ref().ok()?.cuda.0, installed.version.0);
        let cure = || {
            format!(
                "newer than the driver, which may refuse its kernels; update the driver, \
                 or set PACKSCAN_NVRTC to the NVRTC of a CUDA {driver} toolkit"
            )
        };
        (major > driver).then(cure)
    }
}

/// An error says what is wrong and what helps, in this order.
fn broken(error: &Error) -> (String, Option<String>) {
    let text = error.to_string();
    match text.rsplit_once("; ") {
        Some((text, cure)) => (text.to_owned(), Some(cure.to_owned())),
        None => (text, None),
    }
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Installed { path, version: (major, minor), origin } = self;
        write!(f, "{major}.{minor}, {} ({origin})", path.display())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        for Row { name, text, cure } in rows {
            writeln!(f, "{name:width$}  {text}")?;
            if let Some(cure) = cure {
                writeln!(f, "{:width$}    {cure}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(cache: &Path) -> Environment {
        Environment {
            nvrtc: None,
            cublaslt: None,
            nccl: None,
            loader: false,
            toolkits: Vec::new(),
            pythons: Vec::new(),
            cache: cache.to_owned(),
            offline: true,
        }
    }

    #[test]
    fn a_bare_machine_is_told_what_to_do() {
        let cache = tempfile::tempdir().unwrap();
        let report =
            Report { driver: Err("no NVIDIA driver".to_owned()), ..Report::without_driver(&bare(cache.path())) };
        assert!(!report.emulator_can_run() && !report.gpu_can_run());
        let shown = report.to_string();
        for part in [
            "no NVIDIA driver",
            "pip install nvidia-cuda-nvrtc",
            "unset PACKSCAN_OFFLINE",
            "nvidia-cublas",
            "nvidia-nccl",
        ] {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
    }

    #[test]
    fn a_wrong_setting_is_shown_with_its_cure() {
        let cache = tempfile::tempdir().unwrap();
        let wrong = cache.path().join("nowhere");
        let report = Report::without_driver(&Environment { nvrtc: Some(wrong), ..bare(cache.path()) });
        assert!(matches!(report.nvrtc, Err(Error::Setting { .. })));
        assert!(report.to_string().contains("PACKSCAN_NVRTC is "), "{report}");
    }

    #[test]
    fn a_cache_that_cannot_be_written_stops_everything() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let mut report = Report::without_driver(&bare(&file.join("cache")));
        assert!(report.cache.problem.is_some());
        report.nvrtc = Ok(Some(Installed { path: "libnvrtc.so".into(), version: (13, 0), origin: Origin::Loader }));
        assert!(!report.emulator_can_run());
        assert!(report.to_string().contains("PACKSCAN_CACHE"), "{report}");
    }

    #[test]
    fn one_row_a_gpu_and_a_warning_if_the_compiler_is_newer_than_the_driver() {
        let cache = tempfile::tempdir().unwrap();
        let gpu = Gpu {
            name: "NVIDIA H200".to_owned(),
            arch: Arch::new(90),
            multiprocessors: 132,
            memory_bytes: 150_754_820_096,
        };
        let report = Report {
            driver: Ok(Driver { cuda: (12, 8), gpus: vec![gpu.clone(), gpu] }),
            nvrtc: Ok(Some(Installed { path: "libnvrtc.so".into(), version: (13, 0), origin: Origin::Loader })),
            ..Report::without_driver(&bare(cache.path()))
        };
        assert!(report.gpu_can_run());
        let shown = report.to_string();
        assert!(shown.contains("1: NVIDIA H200, sm_90, 132 multiprocessors, 151 GB"), "{shown}");
        assert!(shown.contains("newer than the driver"), "{shown}");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let report = Report::gather().unwrap();
        assert!(report.to_string().lines().count() >= 6, "{report}");
    }
}
