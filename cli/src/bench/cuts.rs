//! Which cuts of the scan along time are timed.

use packscan::kernels::selective_scan::State;
use packscan_tune::report::CutInto;
use packscan_tune::workload::{Bench, Cut};

use crate::error::{Error, Result};
use crate::output;

/// A word of `--cut`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// As the trainer would.
    Auto,
    /// Sequences stay whole.
    None,
    /// Into segments of so many tokens.
    Into(usize),
}

/// A word of `--cut`.
pub fn parse(text: &str) -> Result<Asked, String> {
    match text {
        "auto" => Ok(Asked::Auto),
        "none" => Ok(Asked::None),
        number => crate::parse::size(number).map(Asked::Into).map_err(|why| format!("{why}, or auto or none")),
    }
}

/// What every pass of the scan is timed with: each cut, and of its direction each variant that finds states.
#[derive(Debug)]
pub struct Cuts {
    asked: Vec<Asked>,
    states: Vec<State>,
}

impl Cuts {
    /// Those that were asked for, with the variants whose ids were named among the operators.
    pub fn new(asked: &[Asked], states: Vec<State>) -> Result<Cuts> {
        let asked = if asked.is_empty() { vec![Asked::None] } else { asked.to_vec() };
        if let Some(state) = states.first().filter(|_| !asked.iter().any(|&cut| cut != Asked::None)) {
            return Err(Error::NothingCut { id: state.to_string() });
        }
        Ok(Cuts { asked, states })
    }

    /// The cuts of a pass; other operators run once, as they are.
    pub fn of(&self, id: &str, bench: &Bench) -> Result<Vec<Option<Cut>>> {
        let reverse = match id.split('-').next() {
            Some("selective_scan_fwd") => false,
            Some("selective_scan_bwd") => true,
            _ => return Ok(vec![None]),
        };
        let named: Vec<Option<State>> =
            self.states.iter().filter(|s| s.reverse == reverse).copied().map(Some).collect();
        let states = if named.is_empty() { vec![None] } else { named };
        let mut cuts = Vec::new();
        for asked in &self.asked {
            let segment = match asked {
                Asked::None => None,
                Asked::Into(tokens) => Some(*tokens),
                Asked::Auto => {
                    let segment = bench.segment_for(id)?;
                    let told = segment.map_or("not cut".to_owned(), |tokens| format!("cut into {tokens} tokens"));
                    output::note(&format!("auto: {told}"));
                    segment
                }
            };
            match segment {
                Some(segment) => cuts.extend(states.iter().map(|&state| Some(Cut { segment, state }))),
                None => cuts.push(None),
            }
        }
        Ok(cuts)
    }
}

/// ` cut 256`, after the id of what runs.
pub fn told(cut: Option<&CutInto>) -> String {
    let Some(CutInto { segment, state }) = cut else { return String::new() };
    let by = state.as_ref().map(|state| format!(" by {state}")).unwrap_or_default();
    format!(" cut {segment}{by}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cuts() {
        assert_eq!(["auto", "none", "256"].map(parse), [Ok(Asked::Auto), Ok(Asked::None), Ok(Asked::Into(256))]);
        for wrong in ["0", "-1", "all", ""] {
            assert!(parse(wrong).unwrap_err().contains("or auto or none"), "{wrong}");
        }
    }

    #[test]
    fn a_row_tells_its_cut() {
        let cut = CutInto { segment: 256, state: None };
        assert_eq!(told(Some(&cut)), " cut 256");
        assert_eq!(told(Some(&CutInto { state: Some("that".to_owned()), ..cut })), " cut 256 by that");
        assert_eq!(told(None), "");
    }
}
