//! The tuning file of a GPU: which variant was the fastest where, and what was known when it was found.
//!
//! It lies in packscan's cache folder, `tuned/nvidia-h200.toml`. It is written under another name and renamed, by one process at a time, and
//! what others wrote meanwhile stays. An entry holds for one driver and for one text of its kernel: what was found with others is passed over.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fs4::FileExt;
use packscan_runtime::cache::CacheKey;
use packscan_verify::operators;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{Error, Result};

/// Of the file; a later packscan that knows more writes another number.
const FORMAT: u32 = 1;

/// In place of a kernel, for a matrix product: its problem is a [kind](packscan_runtime::Gemm::kind), its variant an algorithm of cuBLASLt's,
/// its digest the [prefix](crate::prefix()) that the ids of that cuBLASLt have.
pub const PRODUCT: &str = "gemm";

/// What is asked for: a kernel for a problem and about so many tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The kernel.
    pub kernel: String,
    /// Sizes, types and options, in words.
    pub problem: String,
    /// Tokens of a pack; all numbers up to the same power of two share an entry.
    pub tokens: usize,
}

impl Key {
    /// The key of packs of up to `tokens`.
    pub fn new(kernel: &str, problem: &str, tokens: usize) -> Key {
        Key { kernel: kernel.to_owned(), problem: problem.to_owned(), tokens: tokens.next_power_of_two() }
    }
}

/// The fastest variant for a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Of the [`Key`].
    pub kernel: String,
    /// Of the [`Key`].
    pub problem: String,
    /// Of the [`Key`].
    pub tokens: usize,
    /// The driver with which it was timed.
    pub driver: String,
    /// What was compiled, as [`digest`] has it.
    pub digest: String,
    /// The variant.
    pub id: String,
    /// Median of its launches.
    pub ms: f64,
    /// From the fastest quarter of them to the slowest.
    pub spread_ms: f64,
    /// The second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<RunnerUp>,
    /// Candidates that did not compile, did not verify, could not be timed or were not confirmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
}

/// The second of a race.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerUp {
    /// The variant.
    pub id: String,
    /// Median of its launches.
    pub ms: f64,
}

/// A candidate that may not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// The variant.
    pub id: String,
    /// Why.
    pub reason: String,
}

impl Tuned {
    /// Whether it answers a key.
    pub fn is_for(&self, key: &Key) -> bool {
        (&self.kernel, &self.problem, self.tokens) == (&key.kernel, &key.problem, key.tokens)
    }

    /// Whether its kernel is still the text that was timed. Of a product, whether the id is of the cuBLASLt that was timed.
    pub fn is_fresh(&self) -> bool {
        if self.kernel == PRODUCT {
            return !self.digest.is_empty() && self.id.starts_with(&self.digest);
        }
        digest(&self.id).is_some_and(|digest| digest == self.digest)
    }
}

/// What decides what a variant computes and how fast: the code that is compiled, and the packscan that verified it. `None` for an id
/// that names no variant any more.
pub fn digest(id: &str) -> Option<String> {
    let source = operators::job(id).ok()?.source();
    Some(CacheKey::new(&[env!("CARGO_PKG_VERSION"), &code(&source)]).to_string())
}

/// The lines of a kernel's text without comments, indentation and where they stand, none of which reaches the machine code.
fn code(source: &str) -> String {
    let bare = source.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    bare.filter(|line| !line.is_empty() && !line.starts_with("#line")).collect::<Vec<_>>().join("\n")
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// [`FORMAT`]
    format: u32,
    /// Product name of the GPU.
    pub gpu: String,
    /// The fastest variants.
    #[serde(default)]
    pub tuned: Vec<Tuned>,
}

impl Contents {
    /// Nothing yet.
    pub fn empty(gpu: &str) -> Contents {
        Contents { format: FORMAT, gpu: gpu.to_owned(), tuned: Vec::new() }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Contents, String> {
        let contents: Contents = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        match contents.format {
            FORMAT => Ok(contents),
            format => Err(format!("its format is {format}, but this packscan knows {FORMAT}")),
        }
    }

    /// As TOML.
    pub fn text(&self) -> String {
        toml::to_string(self).expect("entries are words and numbers")
    }

    /// Adds entries; each takes the place of the one for the same key and driver.
    pub fn merge(&mut self, new: &[Tuned]) {
        let same = |a: &Tuned, b: &Tuned| {
            (&a.kernel, &a.problem, a.tokens, &a.driver) == (&b.kernel, &b.problem, b.tokens, &b.driver)
        };
        self.tuned.retain(|old| !new.iter().any(|new| same(old, new)));
        self.tuned.extend_from_slice(new);
        let order = |t: &Tuned| (t.kernel.clone(), t.problem.clone(), t.tokens, t.driver.clone());
        self.tuned.sort_by_key(order);
    }
}

/// What lies where a tuning file belongs.
enum State {
    Nothing,
    Whole(Contents),
    /// Of another GPU.
    Foreign(String),
    /// No tuning file, and why not.
    Broken(String),
}

/// The tuning file of one GPU.
#[derive(Clone, Debug)]
pub struct TuningFile {
    path: PathBuf,
    gpu: String,
}

impl TuningFile {
    /// That of a GPU in packscan's cache folder `cache`, there or not.
    pub fn of(cache: &Path, gpu: &str) -> TuningFile {
        let letters = gpu.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
        let name: String = letters.collect();
        TuningFile { path: cache.join("tuned").join(format!("{name}.toml")), gpu: gpu.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds, and what is to be said of it. A file that cannot be understood is set aside, and one of another GPU is passed over:
    /// both count as none.
    ///
    /// # Errors
    /// [`Error::Store`] for one that cannot be read or set aside.
    pub fn read(&self) -> Result<(Contents, Option<String>)> {
        match self.state()? {
            State::Nothing => Ok((Contents::empty(&self.gpu), None)),
            State::Whole(contents) => Ok((contents, None)),
            State::Foreign(gpu) => {
                let said = format!("{} is of {gpu}, not of {}, and is passed over", self.path.display(), self.gpu);
                Ok((Contents::empty(&self.gpu), Some(said)))
            }
            State::Broken(_) => {
                let _lock = self.lock()?;
                self.read_to_replace()
            }
        }
    }

    /// Adds entries to those that are there, whoever wrote them; gives what is to be said of those.
    ///
    /// # Errors
    /// [`Error::Store`]; the file is then as it was.
    pub fn add(&self, new: &[Tuned]) -> Result<Option<String>> {
        let _lock = self.lock()?;
        let (mut contents, said) = self.read_to_replace()?;
        contents.merge(new);
        let folder = self.path.parent().expect("it is in a folder");
        let written = || {
            let mut temporary = NamedTempFile::new_in(folder)?;
            temporary.write_all(contents.text().as_bytes())?;
            temporary.as_file().sync_all()?;
            temporary.persist(&self.path).map_err(|error| error.error)
        };
        written().map_err(|source| Error::file("written", &self.path, source))?;
        Ok(said)
    }

    /// Reads while nobody writes, and sets aside what may not be overwritten: what is broken now is no half of what another process does.
    fn read_to_replace(&self) -> Result<(Contents, Option<String>)> {
        let why = match self.state()? {
            State::Nothing => return Ok((Contents::empty(&self.gpu), None)),
            State::Whole(contents) => return Ok((contents, None)),
            State::Foreign(gpu) => format!("is of {gpu}, not of {}", self.gpu),
            State::Broken(why) => format!("is no tuning file ({})", why.lines().next().unwrap_or_default()),
        };
        let aside = self.set_aside()?;
        let said = format!("{} {why}; it is now {}, and tuning begins anew", self.path.display(), aside.display());
        Ok((Contents::empty(&self.gpu), Some(said)))
    }

    fn state(&self) -> Result<State> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Nothing),
            Err(source) => return Err(Error::file("read", &self.path, source)),
        };
        let text = String::from_utf8(bytes).map_err(|error| error.to_string());
        Ok(match text.and_then(|text| Contents::parse(&text)) {
            Ok(contents) if contents.gpu == self.gpu => State::Whole(contents),
            Ok(contents) => State::Foreign(contents.gpu),
            Err(why) => State::Broken(why),
        })
    }

    /// Renames the file to `NAME.corrupt-SECONDS`, or the next free number.
    fn set_aside(&self) -> Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let name = |n: u64| PathBuf::from(format!("{}.corrupt-{}", self.path.display(), now + n));
        let free = (0..).map(name).find(|path| !path.exists()).expect("some number is free");
        fs::rename(&self.path, &free).map_err(|source| Error::file("set aside", &self.path, source))?;
        Ok(free)
    }

    /// Waits until no other process changes files of this folder.
    fn lock(&self) -> Result<File> {
        let folder = self.path.parent().expect("it is in a folder");
        let path = folder.join("lock");
        let locked = || {
            fs::create_dir_all(folder)?;
            let file = File::create(&path)?;
            FileExt::lock(&file)?;
            Ok(file)
        };
        locked().map_err(|source| Error::file("locked", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn a_comment_is_no_code() {
        let (short, long) = ("int a;\nint b;\n", "// What.\n#line 1 \"x\"\n    int a; // a number\n\nint b;\n");
        assert_eq!(code(short), code(long));
        assert_ne!(code(short), code("int a;\nint c;\n"));
    }
}
