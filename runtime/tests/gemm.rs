//! Products against a naive f64 loop, element by element, on every device that is here.

use half::{bf16, f16};
use packscan_runtime::{Buffer, Device, Dtype, Error, Gemm, GemmContext, Operand, View};

/// A product to try.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    io: Dtype,
    out: Dtype,
    a_transposed: bool,
    b_transposed: bool,
    accumulate: bool,
    /// Every tensor is some columns of a wider one.
    strided: bool,
    /// Which of cuBLASLt's algorithms, where it has so many.
    choice: usize,
}

/// Elements beside the named columns of a strided tensor: two before, three after.
const MARGIN: [usize; 2] = [2, 3];

/// Types of the operands and of the result.
const TYPES: [(Dtype, Dtype); 5] = [
    (Dtype::F32, Dtype::F32),
    (Dtype::F16, Dtype::F16),
    (Dtype::F16, Dtype::F32),
    (Dtype::Bf16, Dtype::Bf16),
    (Dtype::Bf16, Dtype::F32),
];

/// Every type, transposition, stride and mode of one shape.
fn cases(m: usize, n: usize, k: usize) -> impl Iterator<Item = Case> {
    TYPES.into_iter().flat_map(move |(io, out)| {
        (0..16).map(move |bits| Case {
            m,
            n,
            k,
            io,
            out,
            a_transposed: bits & 1 != 0,
            b_transposed: bits & 2 != 0,
            accumulate: bits & 4 != 0,
            strided: bits & 8 != 0 && m * n * k > 0,
            choice: 0,
        })
    })
}

/// A matrix of random numbers in `[-1, 1)`, rounded to its type, perhaps columns of a wider one.
struct Matrix {
    buffer: Buffer,
    rows: usize,
    cols: usize,
    before: usize,
}

impl Matrix {
    fn random(device: &Device, dtype: Dtype, (rows, cols): (usize, usize), strided: bool, seed: u64) -> Matrix {
        let [before, after] = if strided { MARGIN } else { [0; 2] };
        let values = numbers(rows * (before + cols + after), seed);
        let buffer = Buffer::from_f32(device, dtype, &values).expect("there is room");
        Matrix { buffer, rows, cols, before }
    }

    fn view(&self) -> View<'_> {
        let rows = self.buffer.rows(self.rows).expect("made of whole rows");
        if self.rows == 0 { rows } else { rows.columns(self.before, self.cols).expect("as wide as made") }
    }

    fn operand(&self, transposed: bool) -> Operand<'_> {
        if transposed { Operand::transposed(self.view()) } else { Operand::plain(self.view()) }
    }

    fn width(&self) -> usize {
        self.buffer.len().checked_div(self.rows).unwrap_or(0)
    }

    fn values(&self) -> Values {
        let all = self.buffer.to_f32().expect("it can be read");
        Values { all, width: self.width(), before: self.before }
    }
}

/// A matrix on the host.
struct Values {
    all: Vec<f32>,
    width: usize,
    before: usize,
}

impl Values {
    fn at(&self, row: usize, col: usize, transposed: bool) -> f64 {
        let (row, col) = if transposed { (col, row) } else { (row, col) };
        self.all[row * self.width + self.before + col].into()
    }
}

/// xorshift64*, in `[-1, 1)`.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
            bits as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Half the distance from 1 to the next number, and half that between the smallest numbers.
fn rounding(dtype: Dtype) -> (f64, f64) {
    match dtype {
        Dtype::F32 => (2f64.powi(-24), 2f64.powi(-150)),
        Dtype::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        Dtype::Bf16 => (2f64.powi(-8), 2f64.powi(-134)),
        Dtype::U32 => unreachable!("no product holds u32"),
    }
}

/// The error of one f32 operation of a sum, relative to its terms.
///
/// On the CPU that is half a unit in the last place. A tensor core adds a block of `p` products to a sum by aligning all `p + 1`
/// to the largest and cutting off what lies below its last place (2^-23), so a block costs at most `(p + 1) * 2^-23`, which is at most
/// `p * 2^-22`.
fn operation_error(device: &Device) -> f64 {
    match device {
        Device::Cuda(_) => 2f64.powi(-22),
        Device::Emulator(_) | Device::Cpu => 2f64.powi(-24),
    }
}

/// Runs a case, compares every element with the f64 loop, and shows that nothing beside `c` was touched.
///
/// The bound: a term passes at most `k` roundings on its way into a sum of `k` products, in whatever order they are added, one for the
/// factor `alpha`, one for the addition to `c`, and the result is rounded to its type (Higham, Accuracy and Stability, section 3.1). Where
/// a GPU adds to a `c` in half precision, the product is rounded to that type before it is added.
fn check(device: &Device, context: &GemmContext, case: Case) {
    let Case { m, n, k, io, out, a_transposed, b_transposed, accumulate, strided, choice } = case;
    let alpha = if k % 2 == 0 { 1.0 } else { -0.37 };
    let turned = |rows, cols, transposed| if transposed { (cols, rows) } else { (rows, cols) };
    let a = Matrix::random(device, io, turned(m, k, a_transposed), strided, 1);
    let b = Matrix::random(device, io, turned(k, n, b_transposed), strided, 2);
    let mut c = Matrix::random(device, out, (m, n), strided, 3);
    if !accumulate && !strided {
        c.buffer = Buffer::unwritten(device, out, m * n).expect("there is room");
    }
    let old = c.values();
    let gemm = Gemm { m, n, k, a: a.operand(a_transposed), b: b.operand(b_transposed), c: c.view(), alpha, accumulate };
    if choice > 0 {
        let names = context.algorithms(&gemm, choice + 1).expect("it can be asked");
        let Some(name) = names.get(choice) else { return };
        context.choose([(gemm.kind().as_str(), name.as_str())]);
        assert_eq!(context.algorithm(&gemm).expect("it can be asked").as_ref(), Some(name), "{case:?}");
    }
    gemm.run(context).unwrap_or_else(|error| panic!("{case:?} on {device}: {error}"));
    let got = c.values();

    let (a, b) = (a.values(), b.values());
    let error = operation_error(device) * (k + 2) as f64;
    let error = error / (1.0 - error);
    let (unit, least) = rounding(out);
    let rounds_product = accumulate && matches!(device, Device::Cuda(_));
    for row in 0..m {
        for col in 0..n {
            let products = (0..k).map(|i| a.at(row, i, a_transposed) * b.at(i, col, b_transposed));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let before = if accumulate { old.at(row, col, false) } else { 0.0 };
            let (alpha, got) = (f64::from(alpha), got.at(row, col, false));
            let want = alpha * sum + before;
            let computed = error * (alpha.abs() * size + before.abs());
            let product = if rounds_product { unit * (alpha * sum).abs() + least } else { 0.0 };
            let computed = computed + product;
            let bound = computed + unit * (want.abs() + computed) + least;
            let off = (got - want).abs();
            assert!(off <= bound, "{case:?} on {device}: [{row}, {col}] is {got}, not {want}: {off:e} > {bound:e}");
        }
    }
    let beside = |i: &usize| got.width > 0 && !(got.before..got.before + n).contains(&(i % got.width));
    for i in (0..got.all.len()).filter(beside) {
        assert_eq!(got.all[i].to_bits(), old.all[i].to_bits(), "{case:?} on {device}: wrote beside c, at {i}");
    }
    assert!(c.buffer.fence_holds().expect("it can be read"), "{case:?} on {device}: wrote outside of c");
}

/// A GPU with cuBLASLt, if both are here.
fn gpu() -> Option<(Device, GemmContext)> {
    let opened = Device::cuda(0).and_then(|device| Ok((device.clone(), GemmContext::new(&device)?)));
    opened.inspect_err(|error| println!("skipped: {error}")).ok()
}

fn every_device() -> Vec<(Device, GemmContext)> {
    let native = [Device::Cpu, Device::emulator(1)].map(|device| {
        let context = GemmContext::new(&device).expect("nothing needs to be found");
        (device, context)
    });
    native.into_iter().chain(gpu()).collect()
}

#[test]
fn every_layout_type_and_mode_is_within_the_bound() {
    for (device, context) in every_device() {
        // One element, vectors, odd sizes, sizes of one and of several tiles.
        for (m, n, k) in [(1, 1, 1), (1, 9, 5), (9, 1, 5), (5, 7, 1), (3, 5, 7), (33, 17, 29), (64, 48, 80)] {
            cases(m, n, k).for_each(|case| check(&device, &context, case));
        }
    }
}

#[test]
fn edges_of_tiles_and_panels_are_within_the_bound() {
    for (device, context) in every_device() {
        for (m, n, k) in [(257, 3, 1025), (3, 515, 130), (256, 256, 8), (2, 3, 2049)] {
            cases(m, n, k).for_each(|case| check(&device, &context, case));
        }
    }
}

#[test]
fn every_algorithm_that_can_be_chosen_is_within_the_bound() {
    let Some((device, context)) = gpu() else { return };
    for (m, n, k) in [(33, 17, 29), (64, 48, 80), (256, 256, 8), (160, 40, 1030)] {
        for choice in 1..8 {
            cases(m, n, k).for_each(|case| check(&device, &context, Case { choice, ..case }));
        }
    }
}

#[test]
fn a_choice_holds_for_its_kind_its_library_and_about_its_tokens() {
    for (device, context) in every_device() {
        let [a, b, c] = [1, 2, 3].map(|seed| Matrix::random(&device, Dtype::Bf16, (256, 64), false, seed));
        let product = |m| {
            let [a, b, c] = [(&a, m), (&b, 64), (&c, m)].map(|(of, rows)| of.view().rows_at(0, rows).expect("as many"));
            let (a, b) = (Operand::plain(a), Operand::plain(b));
            Gemm { m, n: 64, k: 64, a, b, c, alpha: 1.0, accumulate: false }
        };
        let algorithm = |m| context.algorithm(&product(m)).expect("it can be asked");
        let ids = context.algorithms(&product(200), 4).expect("it can be asked");
        let Some(version) = context.cublaslt_version() else {
            assert_eq!((ids.len(), algorithm(200)), (0, None), "{device}");
            continue;
        };
        let first = Some(format!("lt{version}-first"));
        assert_eq!(algorithm(200), first);
        for id in &ids {
            context.choose([("n64-k64-nn-bf16-bf16", id.as_str())]);
            assert_eq!(algorithm(200).as_ref(), Some(id));
            assert_eq!(algorithm(100), first, "{id} is for about 200 rows");
            // Its form for fewer rows runs, or is refused and leaves the first.
            assert!([Some(id.clone()), first.clone()].contains(&algorithm(199)), "{:?}", algorithm(199));
            product(199).run(&context).expect("it multiplies");
        }
        let other = ids[0].replacen(&version.to_string(), "1", 1);
        for (kind, id) in [("n64-k64-nn-bf16-bf16", &other), ("n64-k64-nt-bf16-bf16", &ids[0])] {
            context.choose([(kind, id.as_str())]);
            assert_eq!(algorithm(200), first, "{id} for {kind}");
        }
    }
}

#[test]
fn empty_products_overwrite_with_zero_or_leave_what_was() {
    for (device, context) in every_device() {
        for (m, n, k) in [(3, 4, 0), (0, 4, 5), (3, 0, 5), (0, 0, 0), (0, 4, 0)] {
            cases(m, n, k).for_each(|case| check(&device, &context, case));
        }
        // Zeros go to the named columns only.
        let rows = Matrix::random(&device, Dtype::Bf16, (6, 4), true, 3);
        let none = Buffer::unwritten(&device, Dtype::Bf16, 0).unwrap();
        let (a, b) = (Operand::plain(none.rows(6).unwrap()), Operand::plain(none.rows(0).unwrap()));
        let old = rows.buffer.to_f32().unwrap();
        Gemm { m: 6, n: 4, k: 0, a, b, c: rows.view(), alpha: 1.0, accumulate: false }.run(&context).unwrap();
        for (i, (new, old)) in rows.buffer.to_f32().unwrap().into_iter().zip(old).enumerate() {
            let named = (2..6).contains(&(i % rows.width()));
            assert_eq!(new, if named { 0.0 } else { old }, "element {i} on {device}");
        }
    }
}

/// The bits of a product of fixed operands.
fn bits(device: &Device, context: &GemmContext, case: Case) -> Vec<u32> {
    let Case { m, n, k, io, out, .. } = case;
    let a = Matrix::random(device, io, (k, m), false, 4);
    let b = Matrix::random(device, io, (k, n), false, 5);
    let c = Matrix::random(device, out, (m, n), false, 6);
    let gemm = Gemm { m, n, k, a: a.operand(true), b: b.operand(false), c: c.view(), alpha: 1.0, accumulate: true };
    gemm.run(context).expect("it multiplies");
    c.buffer.to_f32().expect("it can be read").into_iter().map(f32::to_bits).collect()
}

#[test]
fn repeated_calls_give_the_same_bits() {
    for (device, context) in every_device() {
        // Long sums of few results: where a library is tempted to split them.
        for (m, n, k) in [(40, 24, 3000), (160, 300, 1030)] {
            for case in cases(m, n, k).filter(|case| case.accumulate) {
                let first = bits(&device, &context, case);
                assert_eq!(first, bits(&device, &context, case), "{case:?} on {device}");
                let fresh = GemmContext::new(&device).expect("it was opened before");
                assert_eq!(first, bits(&device, &fresh, case), "{case:?} on {device}, a context of its own");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started");
        pool.install(|| {
            let context = GemmContext::new(&Device::Cpu).expect("nothing needs to be found");
            cases(300, 520, 1100).step_by(16).map(|case| bits(&Device::Cpu, &context, case)).collect::<Vec<_>>()
        })
    };
    let one = with_threads(1);
    assert_eq!(one, with_threads(2));
    assert_eq!(one, with_threads(5));
}

#[test]
fn a_row_of_nan_stays_in_its_row() {
    for (device, context) in every_device() {
        for (io, out) in TYPES {
            let (m, n, k) = (37, 19, 23);
            let mut values = numbers(m * k, 7);
            values[11 * k..12 * k].fill(f32::NAN);
            let a = Buffer::from_f32(&device, io, &values).unwrap();
            let b = Matrix::random(&device, io, (k, n), false, 8);
            let c = Buffer::unwritten(&device, out, m * n).unwrap();
            let (a, view) = (Operand::plain(a.rows(m).unwrap()), c.rows(m).unwrap());
            Gemm { m, n, k, a, b: b.operand(false), c: view, alpha: 1.0, accumulate: false }.run(&context).unwrap();
            for (i, value) in c.to_f32().unwrap().into_iter().enumerate() {
                assert_eq!(value.is_nan(), i / n == 11, "element {i} is {value} on {device}");
            }
        }
    }
}

#[test]
fn a_wrong_call_is_refused_by_name_with_a_cure() {
    let (device, other) = (Device::Cpu, Device::emulator(1));
    let context = GemmContext::new(&device).unwrap();
    let room = |dtype, len| Buffer::unwritten(&device, dtype, len).unwrap();
    let (a, b, c) = (room(Dtype::Bf16, 6), room(Dtype::Bf16, 12), room(Dtype::F32, 8));
    let (m, n, k) = (2, 4, 3);
    let rows = |buffer: &'static Buffer, rows| buffer.rows(rows).unwrap();
    let leak = |buffer| &*Box::leak(Box::new(buffer));
    let (a, b, c) = (leak(a), leak(b), leak(c));
    let right = Gemm {
        m,
        n,
        k,
        a: Operand::plain(rows(a, 2)),
        b: Operand::plain(rows(b, 3)),
        c: rows(c, 2),
        alpha: 1.0,
        accumulate: false,
    };
    right.run(&context).expect("this call is right");

    let (f16s, f32s, u32s) = (leak(room(Dtype::F16, 12)), leak(room(Dtype::F32, 12)), leak(room(Dtype::U32, 12)));
    let far = leak(Buffer::unwritten(&other, Dtype::Bf16, 6).unwrap());
    let whole = leak(room(Dtype::Bf16, 24));
    let halves = |start, cols| whole.rows(3).unwrap().columns(start, cols).unwrap();
    let wrong: [(&str, &[&str], Gemm<'_>); 11] = [
        ("a", &["[m, k]", "3 rows of 2", "2 rows of 3"], Gemm { a: Operand::plain(rows(a, 3)), ..right }),
        ("a", &["[k, m]", "2 rows of 3", "3 rows of 2"], Gemm { a: Operand::transposed(rows(a, 2)), ..right }),
        ("a", &["the emulator", "the CPU", "one device"], Gemm { a: Operand::plain(rows(far, 2)), ..right }),
        ("a", &["u32", "f32 or f16 or bf16"], Gemm { a: Operand::plain(rows(u32s, 3)), ..right }),
        ("b", &["f16", "must hold bf16"], Gemm { b: Operand::plain(rows(f16s, 3)), ..right }),
        ("b", &["[k, n]", "4 rows of 3", "transpose"], Gemm { b: Operand::plain(rows(b, 4)), ..right }),
        ("b", &["[n, k]", "3 rows of 4", "4 rows of 3"], Gemm { b: Operand::transposed(rows(b, 3)), ..right }),
        ("c", &["f16", "f32 or bf16"], Gemm { c: rows(f16s, 2), ..right }),
        ("c", &["[m, n]", "2 rows of 6", "2 rows of 4"], Gemm { c: rows(f32s, 2), ..right }),
        (
            "c",
            &["overlaps b", "memory of its own"],
            Gemm { b: Operand::plain(halves(0, 4)), c: halves(3, 4).rows_at(0, 2).unwrap(), ..right },
        ),
        ("alpha", &["NaN", "finite"], Gemm { alpha: f32::NAN, ..right }),
    ];
    for (name, parts, gemm) in wrong {
        let error = gemm.run(&context).expect_err("the call is wrong");
        assert!(matches!(&error, Error::Tensor { tensor, .. } if *tensor == name), "{error}");
        let text = error.to_string();
        for part in parts.iter().chain(&["gemm-m2-n4-k3"]) {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }
    let beside = Gemm { b: Operand::plain(halves(0, 4)), c: halves(4, 4).rows_at(0, 2).unwrap(), ..right };
    beside.run(&context).expect("columns that do not meet do not overlap");
}

#[test]
fn the_emulator_writes_only_the_columns_that_it_was_given() {
    let device = Device::emulator(1);
    let context = GemmContext::new(&device).unwrap();
    let ones = Buffer::from_f32(&device, Dtype::Bf16, &[1.0; 8]).unwrap();
    let wide = Buffer::unwritten(&device, Dtype::Bf16, 10).unwrap();
    let (a, b) = (Operand::plain(ones.rows(2).unwrap()), Operand::transposed(ones.rows(2).unwrap()));
    let c = wide.rows(2).unwrap().columns(1, 2).unwrap();
    Gemm { m: 2, n: 2, k: 4, a, b, c, alpha: 0.5, accumulate: false }.run(&context).unwrap();
    let expected = |i: usize| if matches!(i % 5, 1 | 2) { bf16::from_f32(2.0).to_bits() } else { 0xFFFF };
    let got: Vec<u16> = wide.to_vec::<bf16>().unwrap().into_iter().map(bf16::to_bits).collect();
    assert_eq!(got, (0..10).map(expected).collect::<Vec<_>>());
}

#[test]
fn results_are_rounded_once() {
    // 2049 is halfway between two f16 numbers and only a sum in f32 holds it: 2048 + 1 + 2^-4 must round up.
    let device = Device::Cpu;
    let context = GemmContext::new(&device).unwrap();
    let a = Buffer::from_f32(&device, Dtype::F16, &[2048.0, 1.0, 0.0625]).unwrap();
    let b = Buffer::from_f32(&device, Dtype::F16, &[1.0; 3]).unwrap();
    let c = Buffer::unwritten(&device, Dtype::F16, 1).unwrap();
    let (a, b) = (Operand::plain(a.rows(1).unwrap()), Operand::plain(b.rows(3).unwrap()));
    Gemm { m: 1, n: 1, k: 3, a, b, c: c.rows(1).unwrap(), alpha: 1.0, accumulate: false }.run(&context).unwrap();
    assert_eq!(c.to_vec::<f16>().unwrap()[0].to_f32(), 2050.0);
}
