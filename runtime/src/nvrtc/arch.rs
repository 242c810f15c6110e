//! GPU architectures by their NVIDIA names.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A compute capability, `sm_90`, or one with its architecture-specific instructions, `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    number: u32,
    suffix: Option<char>,
}

impl Arch {
    /// The architecture of a compute capability, major times ten plus minor, without architecture-specific instructions.
    pub const fn new(number: u32) -> Self {
        Arch { number, suffix: None }
    }

    /// Compute capability, major times ten plus minor: 90.
    pub const fn number(self) -> u32 {
        self.number
    }

    /// The virtual architecture for which PTX is made, `compute_90`.
    pub(super) fn compute(self) -> String {
        self.to_string().replace("sm_", "compute_")
    }
}

/// The architecture that the emulator stands for: sm_90.
impl Default for Arch {
    fn default() -> Self {
        Arch::new(90)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.suffix {
            Some(suffix) => f.pad(&format!("sm_{}{suffix}", self.number)),
            None => f.pad(&format!("sm_{}", self.number)),
        }
    }
}

/// Reads `sm_90`, `sm_90a`, `sm_100f` and the same without `sm_`.
impl FromStr for Arch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::Unknown {
            what: "GPU architecture",
            got: text.to_owned(),
            known: "sm_ and a compute capability without its dot, from sm_50 up: sm_80, sm_90, sm_90a, sm_120"
                .to_owned(),
        };
        let name = text.strip_prefix("sm_").unwrap_or(text);
        let digits = name.trim_end_matches(['a', 'f']);
        let suffix = match &name[digits.len()..] {
            "" => None,
            "a" => Some('a'),
            "f" => Some('f'),
            _ => return Err(unknown()),
        };
        if !matches!(digits.len(), 2 | 3) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(unknown());
        }
        let number = digits.parse().map_err(|_| unknown())?;
        if number < 50 { Err(unknown()) } else { Ok(Arch { number, suffix }) }
    }
}
