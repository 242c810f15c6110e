//! Reading names from the command line, with errors that list what there is.

use packscan::kernels::selective_scan::Forward;
use packscan::runtime::kernel::{Domain, Variant};
use packscan::{Dtype, Error};
use packscan_verify::operators;

/// The type of activations.
pub fn dtype(text: &str) -> Result<Dtype, Error> {
    let known = operators::DTYPES.iter().map(Dtype::to_string).collect::<Vec<_>>();
    let dtype = text.parse().ok().filter(|dtype| operators::DTYPES.contains(dtype));
    dtype.ok_or_else(|| unknown("data type", text, &known))
}

/// An operator by its name.
pub fn operator(text: &str) -> Result<String, Error> {
    one_of("operator", text, &operators::names())
}

/// An operator or all of them.
pub fn operator_or_all(text: &str) -> Result<String, Error> {
    one_of("operator", text, &[&["all"], operators::names().as_slice()].concat())
}

/// An operator or the matrix products.
pub fn operator_or_gemm(text: &str) -> Result<String, Error> {
    one_of("operator", text, &[operators::names().as_slice(), &["gemm"]].concat())
}

/// The options of a variant that are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options(Vec<&'static str>);

impl Options {
    /// Whether the option with this tag is on.
    pub fn has(&self, tag: &str) -> bool {
        self.0.contains(&tag)
    }
}

/// `all`, `none`, or tags with commas between them.
pub fn options(text: &str) -> Result<Options, Error> {
    let flags = Forward::SPEC.parameters.iter().filter(|parameter| matches!(parameter.domain, Domain::Flag));
    let tags: Vec<&'static str> = flags.map(|parameter| parameter.tag).collect();
    let find = |word: &str| {
        let known = || unknown("option", word, &[&["all", "none"], &tags[..]].concat());
        tags.iter().copied().find(|tag| *tag == word).ok_or_else(known)
    };
    Ok(Options(match text {
        "all" => tags,
        "none" => Vec::new(),
        words => words.split(',').map(find).collect::<Result<_, _>>()?,
    }))
}

/// A number of tokens or channels that a pass can be predicted for.
pub fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ 1..=0x7fff_ffff) => Ok(size),
        _ => Err("it must be a whole number from 1 to 2147483647".to_owned()),
    }
}

/// A whole number that the type holds.
pub fn whole<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    let number = text.parse::<u64>().ok().and_then(|number| N::try_from(number).ok());
    number.ok_or_else(|| format!("it must be a whole number from 0 to {}", u64::MAX >> (64 - 8 * size_of::<N>())))
}

/// A time in seconds.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1.0..1e6).contains(&seconds) => Ok(seconds),
        _ => Err("it must be a number of seconds from 1 to 999999".to_owned()),
    }
}

/// A size in bytes, or with KB, MB, GB or TB of a thousand each, or KiB, MiB, GiB or TiB of 1024 each.
pub fn bytes(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, f64); 9] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("", 1.0),
    ];
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).unwrap_or((text, 1.0));
    let size = digits.trim().parse::<f64>().map(|number| number * unit);
    match size {
        Ok(size) if (1.0..1e18).contains(&size) => Ok(size as usize),
        _ => Err("a size is a number above 0, as it is or with KB, MB, GB, KiB, MiB or GiB: 5GB".to_owned()),
    }
}

/// One of some names.
pub fn one_of(what: &'static str, text: &str, known: &[&str]) -> Result<String, Error> {
    if known.contains(&text) { Ok(text.to_owned()) } else { Err(unknown(what, text, known)) }
}

fn unknown<T: AsRef<str>>(what: &'static str, got: &str, known: &[T]) -> Error {
    let known = known.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    Error::Unknown { what, got: got.to_owned(), known }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_tags() {
        let some = options("gate,final").unwrap();
        assert!(some.has("gate") && some.has("final") && !some.has("skip"));
        assert!(options("all").unwrap().has("checkpoints"));
        assert_eq!(options("none").unwrap(), Options(Vec::new()));
        let error = options("gate,speed").unwrap_err().to_string();
        assert!(error.contains("\"speed\"") && error.contains("all, none, softplus"), "{error}");
    }

    #[test]
    fn whole_numbers_are_those_that_the_type_holds() {
        assert_eq!((whole("0"), whole("18446744073709551615")), (Ok(0u32), Ok(u64::MAX)));
        for wrong in ["-3", "1.5", "many", "", "4294967296"] {
            assert_eq!(whole::<u32>(wrong).unwrap_err(), "it must be a whole number from 0 to 4294967295");
        }
    }

    #[test]
    fn sizes_have_units() {
        let sizes = ["12", "3KB", "50GB", "1.5 GiB"].map(|text| bytes(text).unwrap());
        assert_eq!(sizes, [12, 3000, 50_000_000_000, 1_610_612_736]);
        for wrong in ["", "GB", "-1", "0", "5XB", "99999999999999GB", "NaN"] {
            assert!(bytes(wrong).unwrap_err().contains("5GB"), "{wrong}");
        }
    }

    #[test]
    fn integers_are_no_activations() {
        assert_eq!(dtype("u32").unwrap_err().to_string(), "unknown data type \"u32\"; known: f32, f16, bf16");
        assert_eq!(dtype("bf16").unwrap(), Dtype::Bf16);
    }
}
