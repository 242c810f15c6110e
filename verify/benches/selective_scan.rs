//! Times the selective scan on a GPU, after checking a slice of the result with the book.
//!
//! `cargo bench -p packscan-verify --bench selective_scan -- [--tokens T] [--channels D] [--state N] [--sequences S] [--segment L] [ID ...]`
//!
//! Sequence lengths are log-normal (mu 6.2, sigma 0.8), clipped to 57..=2048, the last cut to fill the pack: natural text. Without
//! ids the hand-picked variants of both passes run. With `--sequences` the pack is so many equal ones; with `--segment` they are cut into
//! segments of so many tokens, and ids of `selective_scan_state` replace the hand-picked one for the passes after them. Each time is the median of 20 launches between two events, in milliseconds.

mod memory_bound;

use half::bf16;
use memory_bound::natural_lengths;
use packscan_kernels::selective_scan::split::{self, Scratch, Split};
use packscan_kernels::selective_scan::{self as scan, Backward, Forward, Problem, State, Workspace, default_join};
use packscan_kernels::selective_scan::{default_backward, default_variant};
use packscan_reference::selective_scan as book;
use packscan_reference::{Bounded, Io};
use packscan_runtime::kernel::Variant;
use packscan_runtime::{Buffer, Cuda, Device, DevicePacked, Dtype, Packed, Segments};
use packscan_verify::Random;

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

/// What is timed.
struct Size {
    tokens: usize,
    channels: usize,
    state: usize,
    sequences: Option<usize>,
    segment: Option<usize>,
    ids: Vec<String>,
}

fn main() -> AnyResult<()> {
    let size = arguments()?;
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let Device::Cuda(cuda) = &device else { unreachable!("opened as a GPU") };
    let lengths = match size.sequences {
        Some(sequences) => vec![size.tokens / sequences; sequences],
        None => natural_lengths(size.tokens),
    };
    let packed = Packed::from_lengths(&lengths)?;
    let problem = Problem {
        channels: size.channels,
        state: size.state,
        io: Dtype::Bf16,
        softplus: true,
        bias: true,
        skip: true,
        gate: true,
        initial: false,
        last: false,
        checkpoints: true,
    };
    let mut data = Data::new(&device, &packed, &size)?;
    let on_device = packed.on(&device)?;
    println!("{} x {}, N = {}, {} sequences, {device}", size.tokens, size.channels, size.state, packed.sequences());
    let floors = Floors::new(cuda, &size)?;
    println!("floors: special functions {:.3} ms, memory {:.3} ms", floors.special_ms, floors.memory_ms);
    let ids = match size.ids.is_empty() {
        true => vec![default_variant(&problem).to_string(), default_backward(&problem).to_string()],
        false => size.ids,
    };
    for id in &ids {
        if id.starts_with("selective_scan_state") {
            let state: State = id.parse()?;
            data.states.retain(|known| known.reverse != state.reverse);
            data.states.push(state);
            continue;
        }
        let measured = match id.starts_with("selective_scan_bwd") {
            true => id.parse().map_err(Into::into).and_then(|v| data.measure_backward(cuda, &on_device, &v)),
            false => id.parse().map_err(Into::into).and_then(|v| data.measure(cuda, &on_device, &v)),
        };
        match measured {
            Ok(Times { median, least, most, blocks }) => {
                println!("{median:8.3} ms ({least:.3} to {most:.3}, {blocks} blocks a multiprocessor)  {id}");
            }
            Err(error) => println!("       - {id}: {error}"),
        }
    }
    Ok(())
}

/// What 20 launches took, in milliseconds, and how many blocks share a multiprocessor.
struct Times {
    median: f32,
    least: f32,
    most: f32,
    blocks: usize,
}

impl Times {
    fn of<V: Variant>(
        cuda: &Cuda,
        variant: &V,
        mut launch: impl FnMut() -> packscan_runtime::Result<()>,
    ) -> AnyResult<Times> {
        let mut times = (0..20).map(|_| cuda.time_ms(&mut launch)).collect::<Result<Vec<f32>, _>>()?;
        times.sort_by(f32::total_cmp);
        let blocks = cuda.blocks_per_multiprocessor(variant)?;
        Ok(Times { median: times[times.len() / 2], least: times[0], most: times[times.len() - 1], blocks })
    }
}

fn arguments() -> AnyResult<Size> {
    let mut size = Size { tokens: 65_536, channels: 4096, state: 16, sequences: None, segment: None, ids: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().ok_or(format!("{word} needs a number"))?.parse::<usize>().map_err(|e| e.to_string());
        match word.as_str() {
            "--bench" => {}
            "--tokens" => size.tokens = number()?,
            "--channels" => size.channels = number()?,
            "--state" => size.state = number()?,
            "--sequences" => size.sequences = Some(number()?),
            "--segment" => size.segment = Some(number()?),
            _ => size.ids.push(word),
        }
    }
    Ok(size)
}

/// The least time that the hardware could need.
struct Floors {
    special_ms: f64,
    memory_ms: f64,
}

impl Floors {
    /// Exponentials: N states, softplus, and two results of silu, at 16 a clock of each multiprocessor at 1.98 GHz. Memory: u, delta, z and
    /// out once, at the 4.28 TB/s that a copy reaches on an H200.
    fn new(cuda: &Cuda, size: &Size) -> AnyResult<Floors> {
        let elements = (size.tokens * size.channels) as f64;
        let rate = cuda.multiprocessors()? as f64 * 16.0 * 1.98e9;
        let special_ms = elements * (size.state as f64 + 3.0) / rate * 1e3;
        Ok(Floors { special_ms, memory_ms: elements * 8.0 / 4.28e12 * 1e3 })
    }
}

/// The inputs, on the device and, for the book, on the host.
struct Data {
    activations: [Buffer; 3],
    projections: [Buffer; 2],
    parameters: [Buffer; 3],
    out: Buffer,
    host: [Vec<bf16>; 5],
    host_parameters: [Vec<f32>; 3],
    lengths: Vec<usize>,
    channels: usize,
    state: usize,
    segment: Option<usize>,
    states: Vec<State>,
}

/// What a cut keeps between launches.
struct Cut {
    segments: Segments,
    entering: Buffer,
    scratch: Scratch,
}

impl Data {
    fn new(device: &Device, packed: &Packed, size: &Size) -> AnyResult<Data> {
        let (t, d, n) = (packed.tokens(), size.channels, size.state);
        let ranges = [
            ("u", d, -2.0, 2.0),
            ("delta", d, -6.0, 2.0),
            ("z", d, -5.0, 5.0),
            ("b", n, -1.0, 1.0),
            ("c", n, -1.0, 1.0),
        ];
        let host = ranges.map(|(name, cols, low, high)| repeated(name, t * cols, low, high));
        let mut rates = Random::new(0, "a");
        let mut other = Random::new(0, "parameters");
        let host_parameters = [
            (0..d * n).map(|_| -rates.between(-3.0, 2.5).exp()).collect::<Vec<f32>>(),
            (0..d).map(|_| other.between(-1.0, 1.0)).collect(),
            (0..d).map(|_| other.between(0.0, 0.2)).collect(),
        ];
        let buffer = |i: usize| Buffer::from_slice(device, &host[i]);
        let parameter = |i: usize| Buffer::from_slice(device, &host_parameters[i]);
        Ok(Data {
            activations: [buffer(0)?, buffer(1)?, buffer(2)?],
            projections: [buffer(3)?, buffer(4)?],
            parameters: [parameter(0)?, parameter(1)?, parameter(2)?],
            out: Buffer::unwritten(device, Dtype::Bf16, t * d)?,
            lengths: packed.lengths(),
            host,
            host_parameters,
            channels: d,
            state: n,
            segment: size.segment,
            states: Vec::new(),
        })
    }

    fn inputs(&self, t: usize) -> AnyResult<scan::Inputs<'_>> {
        Ok(scan::Inputs {
            u: self.activations[0].rows(t)?,
            delta: self.activations[1].rows(t)?,
            a: self.parameters[0].rows(self.channels)?,
            b: self.projections[0].rows(t)?,
            c: self.projections[1].rows(t)?,
            d_skip: Some(self.parameters[1].view()),
            delta_bias: Some(self.parameters[2].view()),
            z: Some(self.activations[2].rows(t)?),
            initial_state: None,
        })
    }

    /// Room for a cut, if one was asked for.
    fn cut(&self, packed: &DevicePacked) -> AnyResult<Option<Cut>> {
        let Some(segment) = self.segment else { return Ok(None) };
        let (device, d, n) = (packed.device(), self.channels, self.state);
        let segments = Segments::new(packed.packed(), segment, device)?;
        let rows = segments.pack().packed().sequences();
        let entering = Buffer::unwritten(device, Dtype::F32, rows * d * n)?;
        Ok(Some(Cut { segments, entering, scratch: Scratch::new(device, rows, d, n)? }))
    }

    /// The cut of one call; `picked` unless another variant was named.
    fn split<'a>(&self, cut: &'a Cut, picked: State) -> Split<'a> {
        let state = self.states.iter().find(|known| known.reverse == picked.reverse).copied().unwrap_or(picked);
        let Cut { segments, entering, scratch } = cut;
        Split { segments, state, join: default_join(self.state as u32), entering: entering.view(), scratch }
    }

    fn measure(&self, cuda: &Cuda, packed: &DevicePacked, variant: &Forward) -> AnyResult<Times> {
        let t = packed.packed().tokens();
        let chunks = t.div_ceil(variant.chunk as usize);
        let checkpoints = Buffer::unwritten(packed.device(), Dtype::F32, chunks * self.channels * self.state)?;
        let inputs = self.inputs(t)?;
        let outputs =
            scan::Outputs { out: self.out.rows(t)?, final_state: None, checkpoints: Some(checkpoints.rows(chunks)?) };
        let cut = self.cut(packed)?;
        let launch = || match &cut {
            Some(cut) => {
                let split = self.split(cut, State::for_forward(variant, self.channels));
                split::forward(packed, variant, None, &inputs, &outputs, &split).map(drop)
            }
            None => scan::forward(packed, variant, None, &inputs, &outputs).map(drop),
        };
        launch()?;
        self.check(t)?;
        Times::of(cuda, variant, launch)
    }

    /// The backward pass with its sums of parts. `z` serves as the gradient of the result too: any numbers do.
    fn measure_backward(&self, cuda: &Cuda, packed: &DevicePacked, variant: &Backward) -> AnyResult<Times> {
        let (t, d, n) = (packed.packed().tokens(), self.channels, self.state);
        let chunks = t.div_ceil(variant.chunk as usize);
        let floats = |len| Buffer::from_f32(packed.device(), Dtype::F32, &vec![0.0; len]);
        let checkpoints = Buffer::unwritten(packed.device(), Dtype::F32, chunks * d * n)?;
        let inputs = self.inputs(t)?;
        let outputs =
            scan::Outputs { out: self.out.rows(t)?, final_state: None, checkpoints: Some(checkpoints.rows(chunks)?) };
        let forward = Forward { chunk: variant.chunk, checkpoints: true, ..self.forward(variant) };
        let cut = self.cut(packed)?;
        match &cut {
            Some(cut) => {
                let split = self.split(cut, State::for_forward(&forward, d));
                split::forward(packed, &forward, None, &inputs, &outputs, &split)?
            }
            None => scan::forward(packed, &forward, None, &inputs, &outputs)?,
        };

        let activation = |cols| Buffer::unwritten(packed.device(), Dtype::Bf16, t * cols);
        let (du, ddelta, dz, db, dc) = (activation(d)?, activation(d)?, activation(d)?, activation(n)?, activation(n)?);
        let (da, dd_skip, ddelta_bias) = (floats(d * n)?, floats(d)?, floats(d)?);
        let upstream =
            scan::Upstream { out: self.activations[2].rows(t)?, final_state: None, checkpoints: checkpoints.view() };
        let gradients = scan::Gradients {
            u: du.rows(t)?,
            delta: ddelta.rows(t)?,
            a: da.rows(d)?,
            b: db.rows(t)?,
            c: dc.rows(t)?,
            d_skip: Some(dd_skip.view()),
            delta_bias: Some(ddelta_bias.view()),
            z: Some(dz.rows(t)?),
            initial_state: None,
        };
        let mut workspace = Workspace::new(cut.as_ref().map_or(packed, |cut| cut.segments.pack()), variant, d, None)?;
        let mut launch = || match &cut {
            Some(cut) => {
                let split = self.split(cut, State::for_backward(variant, d));
                let workspace = &mut workspace;
                split::backward(packed, variant, &inputs, &upstream, &gradients, workspace, &split).map(drop)
            }
            None => scan::backward(packed, variant, &inputs, &upstream, &gradients, &mut workspace).map(drop),
        };
        launch()?;
        self.check_backward(t, [&du, &ddelta, &dz])?;
        Times::of(cuda, variant, launch)
    }

    /// A forward variant for the same problem.
    fn forward(&self, v: &Backward) -> Forward {
        default_variant(&Problem {
            channels: self.channels,
            state: self.state,
            io: v.io,
            softplus: v.softplus,
            bias: v.bias,
            skip: v.skip,
            gate: v.gate,
            initial: v.initial,
            last: false,
            checkpoints: true,
        })
    }

    /// Compares four channels of the result, over all tokens, with the book.
    fn check(&self, t: usize) -> AnyResult<()> {
        let slice = Slice::new(self, t);
        let (pack, inputs) = (book::Pack::fresh(&self.lengths), slice.inputs());
        let want = match self.segment {
            Some(segment) => book::forward_in_segments(&pack, &inputs, segment),
            None => book::forward(&pack, &inputs),
        };
        slice.compare("out", &self.out, &want.out)
    }

    /// The same for the gradients of activations.
    fn check_backward(&self, t: usize, got: [&Buffer; 3]) -> AnyResult<()> {
        let slice = Slice::new(self, t);
        let upstream = book::Upstream { out: &slice.z, final_state: None };
        let (pack, inputs) = (book::Pack::fresh(&self.lengths), slice.inputs());
        let want = match self.segment {
            Some(segment) => book::backward_in_segments(&pack, &inputs, &upstream, segment),
            None => book::backward(&pack, &inputs, &upstream),
        };
        slice.compare("du", got[0], &want.u)?;
        slice.compare("ddelta", got[1], &want.delta)?;
        slice.compare("dz", got[2], &want.z.unwrap_or_default())
    }
}

/// Four channels of the inputs, as the book takes them.
struct Slice {
    channels: [usize; 4],
    d: usize,
    state: usize,
    u: Vec<Bounded>,
    delta: Vec<Bounded>,
    z: Vec<Bounded>,
    b: Vec<Bounded>,
    c: Vec<Bounded>,
    a: Vec<Bounded>,
    skip: Vec<Bounded>,
    bias: Vec<Bounded>,
}

impl Slice {
    fn new(data: &Data, t: usize) -> Slice {
        let d = data.channels;
        let channels = [0, 1, d / 2, d - 1];
        let exact = |x: f32| Bounded { value: x.into(), error: 0.0 };
        let slice = |values: &[bf16]| -> Vec<Bounded> {
            (0..t).flat_map(|t| channels.map(|c| exact(values[t * d + c].to_f32()))).collect()
        };
        let of_channels = |values: &[f32], cols: usize| -> Vec<Bounded> {
            channels.iter().flat_map(|c| &values[c * cols..][..cols]).map(|&x| exact(x)).collect()
        };
        let whole = |values: &[bf16]| -> Vec<Bounded> { values.iter().map(|x| exact(x.to_f32())).collect() };
        let [a, skip, bias] = &data.host_parameters;
        Slice {
            channels,
            d,
            state: data.state,
            u: slice(&data.host[0]),
            delta: slice(&data.host[1]),
            z: slice(&data.host[2]),
            b: whole(&data.host[3]),
            c: whole(&data.host[4]),
            a: of_channels(a, data.state),
            skip: of_channels(skip, 1),
            bias: of_channels(bias, 1),
        }
    }

    fn inputs(&self) -> book::Inputs<'_, Bounded> {
        book::Inputs {
            channels: self.channels.len(),
            states: self.state,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: &self.b,
            c: &self.c,
            d_skip: Some(&self.skip),
            delta_bias: Some(&self.bias),
            z: Some(&self.z),
            softplus: true,
        }
    }

    fn compare(&self, name: &str, got: &Buffer, want: &[Bounded]) -> AnyResult<()> {
        let got = got.to_vec::<bf16>()?;
        for (i, want) in want.iter().enumerate() {
            let (t, channel) = (i / self.channels.len(), self.channels[i % self.channels.len()]);
            let (got, want) = (got[t * self.d + channel].to_f64(), want.rounded_to(Io::Bf16));
            if !(want.error.is_finite() && want.allows(got)) {
                let place = format!("{name}, token {t}, channel {channel}");
                return Err(format!("wrong at {place}: got {got}, want {} within {}", want.value, want.error).into());
            }
        }
        Ok(())
    }
}

/// `len` random numbers; those past four million repeat the first with a shift, so that no two rows are alike.
fn repeated(name: &str, len: usize, low: f32, high: f32) -> Vec<bf16> {
    let mut random = Random::new(0, name);
    let period = len.min(4_000_037);
    let first: Vec<bf16> = (0..period).map(|_| bf16::from_f32(random.between(low, high))).collect();
    first.iter().cycle().take(len).copied().collect()
}
