//! What `kernel!` writes compiles without a warning, and says what the declaration says.

#![deny(warnings, missing_docs, unused_qualifications)]

use packscan_runtime::kernel::{Access, Extents, Owner, Variant, broken, source};
use packscan_runtime::{Buffer, Device, Dtype};

packscan_macros::kernel! {
    /// Multiplies every row by the weight of its sequence,
    /// and adds a bias.
    ///
    /// Not part of the summary.
    pub kernel Scale = "scale" in "macros/tests" from ["scale.cuh"] {
        variant {
            /// Channels of a block.
            channels: "c" in 32..=1024,
            /// Neighbouring elements of a load.
            vec: "v" in [1, 2, 4],
            /// Type of the activations.
            io: dtype in [F32, Bf16],
            /// Add a bias to each channel.
            bias: flag "bias",
            /// Keep some rows.
            keep: flag "keep",
        }
        derived {
            lanes = channels / vec,
            threads = lanes.max(32),
        }
        rules {
            lanes.is_multiple_of(32), channels: "{lanes} lanes are no {} warps", lanes / 32, "take {}", 32 * vec;
            vec * io.bytes() <= 8, vec: "a load moves 8 bytes at most", "take 2";
        }
        dims {
            /// Channels.
            d: "D",
            /// Layers.
            layers: "Y",
        }
        tensors {
            /// Input.
            x: in io [T, D] strided by vec,
            /// Weight of each sequence.
            weight: in f32 [S],
            /// Bias of each channel.
            bias_of: in f32 [D] if bias,
            /// Boundaries of the sequences.
            cu_seqlens: structure u32 [S + 1],
            /// The sequence of each token.
            seq_idx: structure u32 [T],
            /// Result.
            out: out io [T, D] strided,
            /// Every so many rows.
            kept: out io [T / (lanes + 1), D + 1, layers * 2] if keep,
            /// Sums.
            sums: inout f32 [layers, D],
        }
        launch { grid: [D.div_ceil(channels), T], threads: threads, shared: 4 * channels }
    }
}

packscan_macros::kernel! {
    /// Neither variants nor options, and a name that the caller keeps to itself.
    kernel Plain = "scale" in "macros/tests" from ["scale.cuh"] {
        tensors {
            /// Result.
            out: out f32 [16],
        }
        launch { grid: [1], threads: 32 }
    }
}

packscan_macros::kernel! {
    /// Its parameters have the names that the generated code uses.
    pub kernel Hygiene = "scale" in "macros/tests" from ["scale.cuh"] {
        variant {
            /// Like the arguments of `bind`.
            args: "a" in 1..=4,
            /// Like the extents of `bind`.
            extents: "e" in 1..=4,
            /// Like the argument of `from_values`.
            values: "v" in 1..=4,
            /// Like the result of `broken_rules`.
            broken: "b" in 1..=4,
            /// Like a condition of `broken_rules`.
            holds: "h" in 1..=4,
        }
        rules {
            broken > 1 && holds > 1, broken: "{broken} is no more than 1", "take 2";
            values > 1, values: "{values} is no more than 1", "take 2";
        }
        tensors {
            /// Result.
            out: out f32 [args, extents],
        }
        launch { grid: [extents, args], threads: 32 }
    }
}

const SCALE: Scale = Scale { channels: 256, vec: 4, io: Dtype::Bf16, bias: false, keep: true };

#[test]
fn ids_read_back_with_every_choice_of_flags() {
    for (bias, keep, id) in [
        (false, false, "scale-c256-v4-bf16"),
        (true, false, "scale-c256-v4-bf16-bias"),
        (false, true, "scale-c256-v4-bf16-keep"),
        (true, true, "scale-c256-v4-bf16-bias-keep"),
    ] {
        let variant = Scale { bias, keep, ..SCALE };
        assert_eq!(variant.to_string(), id);
        assert_eq!(id.parse::<Scale>().expect("it is an id"), variant);
    }
    assert_eq!("scale".parse::<Plain>().expect("it is an id"), Plain {});
    assert!("scale-v4-c256-bf16".parse::<Scale>().is_err());
}

#[test]
fn a_broken_rule_names_field_value_rule_and_cure() {
    assert_eq!(broken(&SCALE), []);
    let wrong = Scale { channels: 100, io: Dtype::F32, ..SCALE };
    let said: Vec<String> = broken(&wrong).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "channels is 100, but 25 lanes are no 0 warps; take 128",
            "vec is 4, but a load moves 8 bytes at most; take 2"
        ]
    );
    let hygiene = Hygiene { args: 1, extents: 2, values: 1, broken: 2, holds: 1 };
    assert_eq!(broken(&hygiene).iter().map(|rule| rule.field).collect::<Vec<_>>(), ["broken", "values"]);
}

#[test]
fn tensors_are_bound_to_their_extents_and_owners() {
    let memory = Buffer::from_slice(&Device::Cpu, &[0.0f32]).expect("one number fits");
    let x = memory.view();
    let args = ScaleArgs {
        d: 100,
        layers: 3,
        x,
        weight: x,
        bias_of: None,
        cu_seqlens: x,
        seq_idx: x,
        out: x,
        kept: Some(x),
        sums: x,
    };
    let dims = Scale::dims(&args);
    assert_eq!(dims, [100, 3]);
    let extents = Extents { tokens: 131, sequences: 5, dims: &dims };
    let bound = SCALE.bind(&args, extents);
    let seen: Vec<_> = bound
        .iter()
        .map(|b| (b.tensor.name, b.dtype, [b.rows, b.cols, b.multiple], b.owner, b.wanted, b.view.is_some()))
        .collect();
    let (f32, u32, bf16) = (Dtype::F32, Dtype::U32, Dtype::Bf16);
    let expected = [
        ("x", bf16, [131, 100, 4], Owner::TokenEvery(1), true, true),
        ("weight", f32, [5, 1, 1], Owner::Sequence, true, true),
        ("bias_of", f32, [100, 1, 1], Owner::Nobody, false, false),
        ("cu_seqlens", u32, [6, 1, 1], Owner::Nobody, true, true),
        ("seq_idx", u32, [131, 1, 1], Owner::Nobody, true, true),
        ("out", bf16, [131, 100, 1], Owner::TokenEvery(1), true, true),
        ("kept", bf16, [3, 101 * 6, 1], Owner::TokenEvery(65), true, true),
        ("sums", f32, [3, 100, 1], Owner::Nobody, true, true),
    ];
    assert_eq!(seen, expected);
    assert_eq!(SCALE.grid(extents), [1, 131, 1]);
    assert_eq!((SCALE.threads(), SCALE.shared_bytes()), (64, 1024));
    let plain = Plain {};
    assert_eq!(plain.bind(&PlainArgs { out: x }, extents).len(), 1);
    assert_eq!((plain.grid(extents), plain.shared_bytes()), ([1, 1, 1], 0));
}

#[test]
fn the_declaration_is_data() {
    let spec = Scale::SPEC;
    assert_eq!(spec.doc, "Multiplies every row by the weight of its sequence, and adds a bias.");
    assert_eq!(spec.dims, ["d", "layers"]);
    assert_eq!(spec.sources[0].path, "macros/tests/scale.cuh");
    let tensors: Vec<_> = spec.tensors.iter().map(|t| (t.name, t.shape, t.access, t.strided)).collect();
    assert_eq!(tensors[0], ("x", "[T, D]", Access::In, true));
    assert_eq!(tensors[3], ("cu_seqlens", "[S + 1]", Access::Structure, false));
    assert_eq!(tensors[6], ("kept", "[T / (lanes + 1), D + 1, layers * 2]", Access::Out, false));
    assert_eq!(tensors[7], ("sums", "[layers, D]", Access::InOut, false));
}

#[test]
fn the_text_has_the_constants_and_the_arguments() {
    let text = SCALE.source();
    assert_eq!(text, source(&SCALE));
    for line in [
        "constexpr unsigned CHANNELS = 256;",
        "constexpr unsigned LANES = 64;",
        "constexpr bool BIAS = false;",
        "using io_t = bf16;",
        "#line 1 \"macros/tests/scale.cuh\"",
        "    const io_t* x; // [T, D]",
        "    long long x_stride;",
        "    float* sums; // [layers, D]",
        "    unsigned layers;",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn check_asks_the_device() {
    let wrong = Scale { vec: 3, ..SCALE };
    let error = wrong.check(&Device::Cpu).expect_err("3 is no choice").to_string();
    assert!(error.contains("vec is 3"), "{error}");
}
