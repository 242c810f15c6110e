//! The compiler from end to end: what it writes, and that it reports every mistake at once.

use super::*;

/// A declaration with one of everything, in which the marked parts can be replaced.
const SCALE: &str = r#"
    /// Multiplies every row by the weight of its sequence.
    ///
    /// Second paragraph.
    pub kernel Scale = "scale" in "kernels/src/scale" from ["scale.cuh"] {
        variant {
            /// Channels of a block.
            channels: "c" in 32..=1024,
            /// Elements that one load moves.
            vec: "v" in [1, 2, 4],
            /// Type of the activations.
            io: dtype in [F32, Bf16],
            /// Add a bias to each channel.
            bias: flag "bias",
        }
        derived { lanes = channels / vec, threads = lanes.max(32) }
        rules {
            lanes % 32 == 0, channels: "a block of {channels} is no {} warps", lanes / 32, "take {}", 32 * vec;
            vec <= 4, vec: "no load is wider", "take 4";
        }
        dims {
            /// Channels.
            d: "D",
        }
        tensors {
            /// Input.
            x: in io [T, D] strided by vec,
            /// Weights.
            weight: in f32 [S],
            /// Bias.
            bias_of: in f32 [D] if bias,
            /// What there is in its place.
            scale: in f32 [D] if !bias,
            /// Boundaries.
            cu_seqlens: structure u32 [S + 1],
            /// States.
            kept: out io [T / lanes, D + 1, vec] strided,
            /// Sums.
            sums: inout f32 [lanes, D],
        }
        launch { grid: [D.div_ceil(channels), T], threads: threads, shared: 4 * channels }
    }
"#;

fn expansion(declaration: &str) -> syn::Result<String> {
    let tokens = expand(declaration.parse().expect("tokens"))?;
    let file = syn::parse2(tokens).expect("the expansion is a list of items");
    Ok(prettyplease::unparse(&file))
}

fn mistakes(declaration: &str) -> Vec<String> {
    let errors = expansion(declaration).expect_err("the declaration is wrong");
    errors.into_iter().map(|error| error.to_string()).collect()
}

#[test]
fn one_of_everything() {
    insta::assert_snapshot!(expansion(SCALE).expect("the declaration is right"));
}

#[test]
fn nothing_optional() {
    let declaration = r#"
        /// Zeros.
        kernel Zero = "zero" in "k" from ["a.cuh", "b.cuh"] {
            tensors {
                /// Result.
                out: out f32 [16],
            }
            launch { grid: [1], threads: 32 }
        }
    "#;
    insta::assert_snapshot!(expansion(declaration).expect("the declaration is right"));
}

#[test]
fn a_tensor_may_be_there_where_a_flag_is_off() {
    let text = expansion(&SCALE.replace("if bias", "if !bias")).expect("the declaration is right");
    assert!(text.contains("wanted: !self.bias,") && text.contains("given exactly when `bias` is off."), "{text}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let wrong = SCALE
        .replace("32..=1024", "1024..=32")
        .replace("Bf16]", "Bf61]")
        .replace("flag \"bias\"", "flag \"c\"")
        .replace("weight: in", "weight: inn")
        .replace("if bias", "if biass")
        .replace("threads: threads, ", "");
    let mistakes = mistakes(&wrong);
    let expected = [
        "the tag `c` of `bias` is taken by `channels`: rename one of them",
        "missing `threads`: how many has a block?",
        "the range 1024..=32 is empty: write 32..=1024",
        "unknown type `Bf61` (did you mean `Bf16`?): there are `F32`, `F16`, `Bf16` and `U32`",
        "unknown access `inn` (did you mean `in`?): accesses are `in`, `out`, `inout` and `structure`",
        "no flag is named `biass` (did you mean `bias`?): the declaration has `bias`",
    ];
    assert_eq!(mistakes, expected);
}

#[test]
fn only_what_an_expression_uses_is_bound() {
    let text = expansion(SCALE).expect("the declaration is right");
    let threads = text.split("fn threads").nth(1).expect("it has threads");
    let threads = threads.split("fn ").next().unwrap_or_default();
    assert!(threads.contains("let lanes: usize = channels / vec;"), "{threads}");
    assert!(!threads.contains("let io"), "{threads}");
}
