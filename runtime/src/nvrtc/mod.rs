//! NVRTC, NVIDIA's run-time compiler: found or fetched once a process, then called from any thread.
//!
//! The search is in [`find`](mod@find): a setting, the loader path, the CUDA toolkit, the active Python's packages, packscan's cache.
//! If NVRTC is in none of them, the pinned wheel is fetched through `pip`, unless `PACKSCAN_OFFLINE` forbids it.

mod api;
mod arch;
mod fetch;
pub mod find;
mod once;
mod resources;

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fmt;
use std::path::{Path, PathBuf};

pub use arch::Arch;
pub(crate) use fetch::has_wheel;
pub(crate) use once::Once;
pub use resources::Resources;

use crate::cache::{Cache, CacheKey};
use crate::{Error, Result};
use api::{Api, Part};
use find::{Environment, Found, Library, Origin};

/// The options of every compilation, before the caller's.
///
/// `--fmad=false`: a multiplication and an addition are fused where a kernel says so and nowhere else, so that a result
/// does not depend on what the compiler saw around it.
const OPTIONS: [&str; 4] = ["-lineinfo", "--fmad=false", "--std=c++17", "-default-device"];

/// What a compilation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Emit {
    /// Text for the emulator and for reading.
    Ptx,
    /// Machine code of one architecture.
    Cubin,
}

/// One compilation.
#[derive(Clone, Copy, Debug)]
pub struct Compile<'a> {
    /// Id of the variant, for messages.
    pub name: &'a str,
    /// CUDA text.
    pub source: &'a str,
    /// For which GPU.
    pub arch: Arch,
    /// What to make.
    pub emit: Emit,
    /// Options of `nvcc`'s kind that follow packscan's own.
    pub options: &'a [&'a str],
}

impl Compile<'_> {
    fn all_options(&self) -> Vec<String> {
        let mut out = match self.emit {
            Emit::Ptx => vec![format!("--gpu-architecture={}", self.arch.compute())],
            Emit::Cubin => vec![format!("--gpu-architecture={}", self.arch), "--ptxas-options=-v".to_owned()],
        };
        out.extend(OPTIONS.iter().chain(self.options).map(|option| (*option).to_owned()));
        out
    }
}

/// What a compilation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// PTX (without a closing zero) or cubin.
    pub bytes: Vec<u8>,
    /// Warnings and, for a cubin, what the kernel uses.
    pub log: String,
}

impl Compiled {
    /// Registers, spills and memory of a cubin; `None` for PTX.
    pub fn resources(&self) -> Option<Resources> {
        Resources::parse(&self.log)
    }

    /// Length of the log, log, bytes: the form in which the cache keeps it.
    fn pack(&self) -> Vec<u8> {
        let length = (self.log.len() as u64).to_le_bytes();
        [&length, self.log.as_bytes(), &self.bytes].concat()
    }

    fn unpack(packed: &[u8]) -> Option<Self> {
        let (length, rest) = packed.split_first_chunk()?;
        let (log, bytes) = rest.split_at_checked(u64::from_le_bytes(*length).try_into().ok()?)?;
        Some(Compiled { log: String::from_utf8(log.to_vec()).ok()?, bytes: bytes.to_vec() })
    }
}

/// A loaded NVRTC. Its functions may be called from several threads at once.
pub struct Nvrtc {
    api: Api,
    version: (u32, u32),
    path: PathBuf,
    origin: Origin,
    /// The library that NVRTC opens by bare name when it compiles: once loaded, it is found wherever it lies.
    _builtins: Option<libloading::Library>,
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Nvrtc { version, path, origin, .. } = self;
        f.debug_struct("Nvrtc")
            .field("version", version)
            .field("path", path)
            .field("origin", origin)
            .finish_non_exhaustive()
    }
}

impl Nvrtc {
    /// The NVRTC of this process: the first call finds or fetches it. A failed search is repeated by the next call.
    ///
    /// # Errors
    /// [`Error::NoNvrtc`] if it is nowhere and is not fetched, and all errors of [`Nvrtc::provide`].
    pub fn get() -> Result<&'static Nvrtc> {
        static NVRTC: Once<Nvrtc> = Once::new();
        NVRTC.get(Nvrtc::provide)
    }

    /// Finds NVRTC in an environment, or fetches it into the environment's cache folder.
    ///
    /// # Errors
    /// [`Error::Setting`] if `PACKSCAN_NVRTC` is wrong, [`Error::Library`] if what was found cannot be used,
    /// [`Error::NoNvrtc`] if it was not found and may not or could not be fetched, [`Error::Checksum`] if what was
    /// fetched is not the pinned file, [`Error::CacheFolder`] if it cannot be stored.
    pub fn provide(environment: &Environment) -> Result<Self> {
        let search = find::find(Library::Nvrtc, environment)?;
        let found = match search.found {
            Some(found) => found,
            None => find::load(Library::Nvrtc, fetch::fetch(environment, &search.looked)?, Origin::Cache)?,
        };
        Nvrtc::open(found)
    }

    fn open(found: Found) -> Result<Self> {
        let Found { path, origin, loaded } = found;
        let api = Api::bind(loaded).map_err(|error| Library::Nvrtc.unusable(path.clone(), error))?;
        let version = api.version().map_err(|error| Library::Nvrtc.unusable(path.clone(), error))?;
        let builtins = path.parent().map(|folder| folder.join(builtins_file(version))).filter(|file| file.is_file());
        // SAFETY: it is NVRTC's own companion, which asks nothing of the process that loads it.
        let builtins = builtins.and_then(|file| unsafe { libloading::Library::new(file) }.ok());
        Ok(Nvrtc { api, version, path, origin, _builtins: builtins })
    }

    /// Its version, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The file from which it was loaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In which of the places it was found.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Compiles CUDA text.
    ///
    /// # Errors
    /// [`Error::Compile`] with NVRTC's log if the text, an option or the architecture is not understood.
    pub fn compile(&self, compile: &Compile<'_>) -> Result<Compiled> {
        Ok(self.compile_with_ptx(compile, false)?.0)
    }

    /// The same, and for machine code also the PTX that NVRTC makes on the way, if it is wanted.
    fn compile_with_ptx(&self, compile: &Compile<'_>, wanted: bool) -> Result<(Compiled, Option<Compiled>)> {
        let failed = |log| Error::Compile { id: compile.name.to_owned(), log };
        let program = self.api.program(compile.name, compile.source).map_err(failed)?;
        let outcome = program.compile(&compile.all_options());
        let log = program.read(Part::Log).map_err(failed)?;
        let log = String::from_utf8_lossy(&log).trim_end().to_owned();
        if let Err(title) = outcome {
            return Err(failed(if log.is_empty() { title } else { log }));
        }
        let ptx = || program.read(Part::Ptx).map(|bytes| without_folder(&bytes)).map_err(failed);
        match compile.emit {
            Emit::Ptx => Ok((Compiled { bytes: ptx()?, log }, None)),
            Emit::Cubin => {
                let ptx = wanted.then(ptx).transpose()?.map(|bytes| Compiled { bytes, log: String::new() });
                Ok((Compiled { bytes: program.read(Part::Cubin).map_err(failed)?, log }, ptx))
            }
        }
    }

    /// Everything that decides what [`Nvrtc::compile`] makes.
    fn key(&self, compile: &Compile<'_>) -> CacheKey {
        let mut parts = compile.all_options();
        parts.push(format!("{:?} NVRTC {}.{}", compile.emit, self.version.0, self.version.1));
        parts.push(compile.source.to_owned());
        CacheKey::new(&parts)
    }
}

/// PTX whose `.file` directives hold the paths that `#line` gave, without the current folder that NVRTC puts before them: what is
/// compiled must not depend on where.
fn without_folder(ptx: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(ptx);
    match std::env::current_dir() {
        Ok(folder) => text.replace(&format!("\"{}/", folder.display()), "\"").into_bytes(),
        Err(_) => ptx.to_vec(),
    }
}

/// Compiles with the process's NVRTC, or takes what an earlier compilation of the same text, options, version,
/// architecture and kind left in the cache.
///
/// # Errors
/// Those of [`Nvrtc::get`], [`Nvrtc::compile`] and [`Cache::get_or_build`].
pub fn compile_cached(compile: &Compile<'_>) -> Result<Compiled> {
    let nvrtc = Nvrtc::get()?;
    let cache = Cache::open_default()?;
    let packed = cache.get_or_build(&nvrtc.key(compile), || Ok(nvrtc.compile(compile)?.pack()))?;
    match Compiled::unpack(&packed) {
        Some(compiled) => Ok(compiled),
        None => nvrtc.compile(compile),
    }
}

/// Leaves both the machine code and the PTX of a text in the cache, for the price of the first. Warnings are in the log of the machine code.
///
/// # Errors
/// Those of [`compile_cached`].
pub fn compile_both(name: &str, source: &str, arch: Arch) -> Result<()> {
    let cubin = Compile { name, source, arch, emit: Emit::Cubin, options: &[] };
    let (nvrtc, cache) = (Nvrtc::get()?, Cache::open_default()?);
    let mut ptx = None;
    cache.get_or_build(&nvrtc.key(&cubin), || {
        let (made, on_the_way) = nvrtc.compile_with_ptx(&cubin, true)?;
        ptx = on_the_way;
        Ok(made.pack())
    })?;
    if let Some(ptx) = ptx {
        cache.get_or_build(&nvrtc.key(&Compile { emit: Emit::Ptx, ..cubin }), || Ok(ptx.pack()))?;
    }
    Ok(())
}

/// The NVRTC of an environment, if it is anywhere; fetches nothing.
///
/// # Errors
/// [`Error::Setting`] and [`Error::Library`], as for [`Nvrtc::provide`].
pub fn find_without_download(environment: &Environment) -> Result<Option<Nvrtc>> {
    find::find(Library::Nvrtc, environment)?.found.map(Nvrtc::open).transpose()
}

fn builtins_file((major, minor): (u32, u32)) -> String {
    if cfg!(windows) {
        format!("nvrtc-builtins64_{major}{minor}{DLL_SUFFIX}")
    } else {
        format!("{DLL_PREFIX}nvrtc-builtins{DLL_SUFFIX}.{major}.{minor}")
    }
}
