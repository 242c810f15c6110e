//! Which of cuBLASLt's algorithms multiplies products of a kind, where that is not left to cuBLASLt.

use std::fmt;
use std::str::FromStr;

use super::Gemm;

/// An algorithm by its name among those that one cuBLASLt offers for one number of tokens. Its id is `lt130100-t16384-a66-t209-s35`, or
/// `lt130100-first` for whatever cuBLASLt itself thinks best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Of cuBLASLt: another one's algorithms are others.
    pub(super) version: usize,
    /// For how many tokens it is offered, and its name there; `None` for the first.
    pub(super) offered: Option<(usize, String)>,
}

impl Choice {
    /// Whether it may stand for products of so many tokens: of twice as many at most, and of more than half.
    pub(super) fn is_near(&self, tokens: usize) -> bool {
        self.offered.as_ref().is_some_and(|(offered, _)| tokens > offered / 2 && tokens <= 2 * offered)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.offered {
            Some((tokens, name)) => write!(f, "lt{}-t{tokens}-{name}", self.version),
            None => write!(f, "lt{}-first", self.version),
        }
    }
}

impl FromStr for Choice {
    type Err = ();

    fn from_str(id: &str) -> Result<Choice, ()> {
        let (version, rest) = id.strip_prefix("lt").and_then(|id| id.split_once('-')).ok_or(())?;
        let offered = match rest {
            "first" => None,
            _ => {
                let (tokens, name) = rest.strip_prefix('t').and_then(|rest| rest.split_once('-')).ok_or(())?;
                Some((tokens.parse().map_err(|_| ())?, name.to_owned()))
            }
        };
        Ok(Choice { version: version.parse().map_err(|_| ())?, offered })
    }
}

impl Gemm<'_> {
    /// What products have in common that differ in their tokens alone, `n8192-k2048-nt-bf16-bf16`: extents, what is transposed, types.
    /// Tokens are the sum's terms where `a` is transposed, as in the gradient of a weight, and the rows of `a` elsewhere.
    pub fn kind(&self) -> String {
        let Gemm { m, n, k, a, b, c, .. } = self;
        let letter = |transposed| if transposed { 't' } else { 'n' };
        let sizes = if a.transposed { format!("m{m}-n{n}") } else { format!("n{n}-k{k}") };
        let (io, out) = (a.view.buffer.dtype(), c.buffer.dtype());
        format!("{sizes}-{}{}-{io}-{out}", letter(a.transposed), letter(b.transposed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_what_they_are_of() {
        let name = "a66-t209-s35-k1-r0-z0-o4-i0-c3".to_owned();
        let choice = Choice { version: 130_100, offered: Some((16_384, name)) };
        assert_eq!(choice.to_string(), "lt130100-t16384-a66-t209-s35-k1-r0-z0-o4-i0-c3");
        for choice in [choice.clone(), Choice { version: 120_800, offered: None }] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for wrong in ["", "lt", "lt1-", "lt1-t-a", "lt1-t5", "ltx-first", "lt1-x5-a", "1-first"] {
            assert_eq!(wrong.parse::<Choice>(), Err(()), "{wrong}");
        }
        for (tokens, near) in [(8192, false), (8193, true), (16_384, true), (32_768, true), (32_769, false)] {
            assert_eq!(choice.is_near(tokens), near, "{tokens}");
        }
    }
}
