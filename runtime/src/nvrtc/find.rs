//! Where CUDA's libraries may lie, looked at in a fixed order.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libloading::Library as Loaded;

use super::fetch;
use crate::cache;
use crate::{Error, Result};

/// A library that packscan loads at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The compiler of CUDA text.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Sums over several GPUs.
    Nccl,
}

impl Library {
    /// Its name as NVIDIA writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
            Library::Nccl => "NCCL",
        }
    }

    /// The variable that names it.
    pub const fn variable(self) -> &'static str {
        match self {
            Library::Nvrtc => "PACKSCAN_NVRTC",
            Library::CublasLt => "PACKSCAN_CUBLASLT",
            Library::Nccl => "PACKSCAN_NCCL",
        }
    }

    /// Its file names, the preferred one first.
    pub const fn files(self) -> &'static [&'static str] {
        match (self, cfg!(windows)) {
            (Library::Nvrtc, false) => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            (Library::Nvrtc, true) => &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"],
            (Library::CublasLt, false) => &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            (Library::CublasLt, true) => &["cublasLt64_13.dll", "cublasLt64_12.dll"],
            (Library::Nccl, false) => &["libnccl.so.2", "libnccl.so"],
            (Library::Nccl, true) => &["nccl.dll"],
        }
    }

    /// A function that it surely has.
    #[cfg(unix)]
    const fn symbol(self) -> &'static [u8] {
        match self {
            Library::Nvrtc => b"nvrtcVersion",
            Library::CublasLt => b"cublasLtGetVersion",
            Library::Nccl => b"ncclGetVersion",
        }
    }

    pub(crate) fn unusable(self, path: PathBuf, why: impl fmt::Display) -> Error {
        Error::Library { library: self.name(), path, why: why.to_string(), variable: self.variable() }
    }
}

/// The kind of place in which a library was found, in the order of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The variable of [`Library::variable`].
    Setting,
    /// Where the system's loader looks.
    Loader,
    /// The toolkit in `CUDA_HOME` or `CUDA_PATH`.
    Toolkit,
    /// The packages of the active Python.
    Python,
    /// The folder into which packscan fetches.
    Cache,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Setting => "named by its variable",
            Origin::Loader => "loader path",
            Origin::Toolkit => "CUDA toolkit",
            Origin::Python => "Python packages",
            Origin::Cache => "fetched by packscan",
        })
    }
}

/// What decides where a search looks; the process's own is [`Environment::current`].
#[derive(Clone, Debug)]
pub struct Environment {
    /// `PACKSCAN_NVRTC`, a file or a folder.
    pub nvrtc: Option<PathBuf>,
    /// `PACKSCAN_CUBLASLT`, a file or a folder.
    pub cublaslt: Option<PathBuf>,
    /// `PACKSCAN_NCCL`, a file or a folder.
    pub nccl: Option<PathBuf>,
    /// Whether the system's loader is asked.
    pub loader: bool,
    /// `CUDA_HOME` and `CUDA_PATH`.
    pub toolkits: Vec<PathBuf>,
    /// Python interpreters to try, the first that answers counts.
    pub pythons: Vec<PathBuf>,
    /// packscan's cache folder.
    pub cache: PathBuf,
    /// `PACKSCAN_OFFLINE`: nothing may be fetched.
    pub offline: bool,
}

impl Environment {
    /// The environment of this process.
    ///
    /// # Errors
    /// [`Error::CacheFolder`] if no cache folder is set and no home folder is known.
    pub fn current() -> Result<Self> {
        let path = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Ok(Environment {
            nvrtc: path(Library::Nvrtc.variable()),
            cublaslt: path(Library::CublasLt.variable()),
            nccl: path(Library::Nccl.variable()),
            loader: true,
            toolkits: ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(path).collect(),
            pythons: vec!["python3".into(), "python".into()],
            cache: cache::default_folder()?,
            offline: env::var_os("PACKSCAN_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0"),
        })
    }

    /// The first Python that answers.
    pub fn python(&self) -> Option<Python> {
        self.pythons.iter().find_map(|program| Python::ask(program))
    }

    fn setting(&self, library: Library) -> Option<&Path> {
        match library {
            Library::Nvrtc => self.nvrtc.as_deref(),
            Library::CublasLt => self.cublaslt.as_deref(),
            Library::Nccl => self.nccl.as_deref(),
        }
    }
}

/// A Python interpreter.
#[derive(Clone, Debug)]
pub struct Python {
    /// The command that starts it.
    pub program: PathBuf,
    /// Its version, `3.11.7`.
    pub version: String,
    /// The folders with its packages.
    pub packages: Vec<PathBuf>,
}

impl Python {
    fn ask(program: &Path) -> Option<Self> {
        const QUESTION: &str = "import site, sys, sysconfig\n\
            print('.'.join(map(str, sys.version_info[:3])))\n\
            print(sysconfig.get_path('purelib'))\n\
            print(sysconfig.get_path('platlib'))\n\
            print(site.getusersitepackages())";
        let answer =
            Command::new(program).args(["-I", "-c", QUESTION]).output().ok().filter(|out| out.status.success())?;
        let answer = String::from_utf8(answer.stdout).ok()?;
        let mut lines = answer.lines();
        let version = lines.next()?.to_owned();
        let mut packages: Vec<PathBuf> = lines.map(PathBuf::from).collect();
        packages.dedup();
        Some(Python { program: program.to_owned(), version, packages })
    }
}

/// A library that was found, loaded.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// The kind of place.
    pub origin: Origin,
    /// The library itself, unloaded with this value.
    pub loaded: Loaded,
}

/// The outcome of a search.
#[derive(Debug)]
pub struct Search {
    /// The library, if it is anywhere.
    pub found: Option<Found>,
    /// The places that were looked at, for people.
    pub looked: Vec<String>,
}

/// Looks for a library: setting, loader path, toolkit, Python packages, packscan's cache. Fetches nothing.
///
/// # Errors
/// [`Error::Setting`] if the library's variable is set to a place without it, [`Error::Library`] if a file that was
/// found cannot be loaded.
pub fn find(library: Library, environment: &Environment) -> Result<Search> {
    if let Some(value) = environment.setting(library) {
        let path = in_setting(library, value)?;
        return Ok(Search { found: Some(load(library, path, Origin::Setting)?), looked: Vec::new() });
    }
    let mut looked = Vec::new();
    if environment.loader {
        if let Some(found) = library.files().iter().find_map(|file| from_loader(library, file)) {
            return Ok(Search { found: Some(found), looked });
        }
        looked.push(format!("the loader path: {}", library.files().join(", ")));
    }
    for place in [toolkit_folders, python_folders, cache_folders] {
        let Place { origin, folders, name } = place(library, environment);
        if let Some(path) = first_file(library, &folders) {
            return Ok(Search { found: Some(load(library, path, origin)?), looked });
        }
        looked.push(name);
    }
    Ok(Search { found: None, looked })
}

fn in_setting(library: Library, value: &Path) -> Result<PathBuf> {
    let wrong = |why| Error::Setting { variable: library.variable(), value: value.to_owned(), why };
    if value.is_file() {
        return Ok(value.to_owned());
    }
    if !value.is_dir() {
        return Err(wrong("nothing is there".to_owned()));
    }
    first_file(library, &[value.to_owned()])
        .ok_or_else(|| wrong(format!("the folder has none of {}", library.files().join(", "))))
}

/// Folders of one origin.
struct Place {
    origin: Origin,
    folders: Vec<PathBuf>,
    /// For people.
    name: String,
}

fn toolkit_folders(_: Library, environment: &Environment) -> Place {
    let mut folders = Vec::new();
    for root in &environment.toolkits {
        folders.extend(["lib64", "lib", "bin/x64", "bin"].map(|folder| root.join(folder)));
        folders.extend(children(&root.join("targets")).into_iter().map(|target| target.join("lib")));
    }
    let name = match environment.toolkits.as_slice() {
        [] => "CUDA_HOME and CUDA_PATH: not set".to_owned(),
        roots => format!("CUDA_HOME and CUDA_PATH: {}", list(roots)),
    };
    Place { origin: Origin::Toolkit, folders, name }
}

fn python_folders(_: Library, environment: &Environment) -> Place {
    let Some(python) = environment.python() else {
        let name = format!("Python packages: none of {} answers", list(&environment.pythons));
        return Place { origin: Origin::Python, folders: Vec::new(), name };
    };
    let folders = python.packages.iter().flat_map(|folder| children(&folder.join("nvidia")));
    let folders = folders.flat_map(|package| ["lib", "bin/x86_64", "bin"].map(|folder| package.join(folder))).collect();
    let name = format!("packages of Python {}: nvidia/*/lib in {}", python.version, list(&python.packages));
    Place { origin: Origin::Python, folders, name }
}

fn cache_folders(library: Library, environment: &Environment) -> Place {
    let folder = fetch::folder(environment);
    let usable = library == Library::Nvrtc && fetch::is_whole(&folder);
    let folders = if usable { vec![folder.clone()] } else { Vec::new() };
    Place { origin: Origin::Cache, folders, name: format!("packscan's cache: {}", folder.display()) }
}

/// The sub-folders of a folder, in order of name; none if it is not there.
fn children(folder: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|p| p.is_dir()).collect();
    out.sort();
    out
}

fn first_file(library: Library, folders: &[PathBuf]) -> Option<PathBuf> {
    let candidates = library.files().iter().flat_map(|file| folders.iter().map(move |folder| folder.join(file)));
    candidates.into_iter().find(|path| path.is_file())
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

pub(super) fn load(library: Library, path: PathBuf, origin: Origin) -> Result<Found> {
    match open(path.as_os_str()) {
        Ok(loaded) => Ok(Found { path, origin, loaded }),
        Err(error) => Err(library.unusable(path, error)),
    }
}

fn open(file: &OsStr) -> Result<Loaded, libloading::Error> {
    // SAFETY: the file carries the name of an NVIDIA library or was named by the user as one; their initialisers ask
    // nothing of the process that loads them.
    unsafe { Loaded::new(file) }
}

fn from_loader(library: Library, file: &str) -> Option<Found> {
    let loaded = open(OsStr::new(file)).ok()?;
    let path = path_of(library, &loaded).unwrap_or_else(|| PathBuf::from(file));
    Some(Found { path, origin: Origin::Loader, loaded })
}

/// The file from which a library was loaded.
#[cfg(unix)]
fn path_of(library: Library, loaded: &Loaded) -> Option<PathBuf> {
    use std::ffi::CStr;
    use std::os::unix::ffi::OsStrExt;

    // SAFETY: the function is not called, only its address is taken.
    let function = unsafe { loaded.get::<unsafe extern "C" fn()>(library.symbol()) }.ok()?;
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: dladdr takes any address; `info` outlives the call.
    let known = unsafe { libc::dladdr(*function as *const libc::c_void, &mut info) } != 0;
    if !known || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr has set the name to a text that lives as long as the library, which is still loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The file from which a library was loaded: not known here.
#[cfg(not(unix))]
fn path_of(_: Library, _: &Loaded) -> Option<PathBuf> {
    None
}
