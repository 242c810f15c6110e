//! The one path from typed arguments to a running kernel.

use packscan_emulator as emulator;

use crate::device::Storage;
use crate::kernel::{Access, Bound, Extents, LaunchConfig, Owner, Variant};
use crate::{Device, DevicePacked, Error, Packed, Result};

/// What a launch left behind besides its outputs.
#[derive(Debug, Default)]
pub struct Launched {
    /// What the emulator counted; `None` on a GPU, or where the grid had no block.
    pub counts: Option<emulator::Counts>,
}

/// A launch that an emulator noted, after [`Emulated::record`](crate::Emulated::record).
#[derive(Clone, Debug)]
pub struct Record {
    /// The variant.
    pub id: String,
    /// Its CUDA text.
    pub source: String,
    /// Grid, block and shared memory.
    pub config: LaunchConfig,
    /// Name of each tensor and how many bytes of it move at least: all, and those of one that is updated in place both ways.
    pub tensors: Vec<(&'static str, usize)>,
    /// Instructions of its PTX, each once.
    pub instructions: usize,
    /// What the emulator counted.
    pub counts: emulator::Counts,
}

/// Checks a call and runs it on the device of its pack. On a GPU it returns before the kernel has finished.
///
/// # Errors
/// [`Error::Variant`] and [`Error::Tensor`] for what the caller gave; compiling; [`Error::Emulated`] for what the emulator saw;
/// [`Error::Cuda`].
pub fn launch<V: Variant>(variant: &V, packed: &DevicePacked, args: &V::Args<'_>) -> Result<Launched> {
    let tensors = check_call(variant, packed, args)?;
    let dims = V::dims(args);
    let extents = extents(packed.packed(), &dims);
    let config =
        LaunchConfig { grid: variant.grid(extents), threads: variant.threads(), shared_bytes: variant.shared_bytes() };
    if config.grid.contains(&0) {
        return Ok(Launched::default());
    }
    let mut arguments = arguments(&tensors, extents);
    match packed.device() {
        Device::Cuda(cuda) => {
            cuda.launch(variant, config, &mut arguments)?;
            Ok(Launched::default())
        }
        Device::Emulator(emulated) => {
            let module = emulated.module(variant)?;
            let symbol = crate::kernel::symbol(&variant.to_string());
            let ptx = |source| Error::Ptx { id: variant.to_string(), source: Box::new(source) };
            let owners: Vec<Option<Vec<u32>>> = tensors.iter().map(|t| owners(t, packed)).collect();
            let views: Vec<emulator::View<'_>> =
                std::iter::zip(&tensors, &owners).filter_map(|(t, o)| declared(t, o.as_deref())).collect();
            let kernel = module.kernel(&symbol).map_err(ptx)?;
            let launch = emulator::Launch {
                shared_bytes: config.shared_bytes as u32,
                views: &views,
                seed: emulated.seed(),
                ..emulator::Launch::new(
                    kernel,
                    config.grid.map(|n| n as u32),
                    [config.threads as u32, 1, 1],
                    &arguments,
                )
            };
            let counts = emulated.memory().launch(&launch);
            let counts = counts.map_err(|fault| Error::Emulated { id: variant.to_string(), fault: Box::new(fault) })?;
            emulated.note(|| Record {
                id: variant.to_string(),
                source: crate::kernel::source(variant),
                config,
                tensors: tensors.iter().filter(|t| t.view.is_some()).map(|t| (t.tensor.name, bytes_of(t))).collect(),
                instructions: kernel.instructions(),
                counts: counts.clone(),
            });
            Ok(Launched { counts: Some(counts) })
        }
        Device::Cpu => Err(Error::NoKernelOnCpu { id: variant.to_string() }),
    }
}

fn bytes_of(t: &Bound<'_>) -> usize {
    let ways = if matches!(t.tensor.access, Access::InOut) { 2 } else { 1 };
    ways * t.rows * t.cols * t.dtype.bytes()
}

/// Checks everything that the declaration of a kernel says about a call, and returns its tensors. The native CPU paths call it too.
///
/// # Errors
/// [`Error::Variant`], [`Error::Size`] and [`Error::Tensor`].
pub fn check_call<'a, V: Variant>(variant: &V, packed: &DevicePacked, args: &V::Args<'a>) -> Result<Vec<Bound<'a>>> {
    packed.device().check(variant)?;
    let dims = V::dims(args);
    let extents = extents(packed.packed(), &dims);
    check_sizes(variant, extents)?;
    let tensors = variant.bind(args, extents);
    let wrong = |t: &Bound<'_>, got: String, rule: String| Error::Tensor {
        id: variant.to_string(),
        tensor: t.tensor.name,
        shape: t.tensor.shape,
        got,
        rule,
    };
    for t in &tensors {
        match (&t.view, t.wanted) {
            (Some(view), true) => {
                if !std::ptr::eq(view.buffer, packed.cu_seqlens())
                    && !same_device(view.buffer.device(), packed.device())
                {
                    let got = format!("it is on {}", view.buffer.device());
                    return Err(wrong(t, got, format!("the pack is on {}; put both on one device", packed.device())));
                }
                check_extent(t).map_err(|(got, rule)| wrong(t, got, rule))?;
            }
            (None, false) => {}
            (None, true) => {
                return Err(wrong(t, "it was left out".into(), "the variant has the option that needs it".into()));
            }
            (Some(_), false) => {
                let rule =
                    "the variant does not have the option that uses it; leave it out or choose another variant".into();
                return Err(wrong(t, "it was given".into(), rule));
            }
        }
    }
    check_overlaps(&tensors).map_err(|(t, other)| {
        let rule = format!("what a kernel writes must overlap no other argument; give {other} memory of its own");
        wrong(t, format!("it overlaps {other}"), rule)
    })?;
    Ok(tensors)
}

/// Blocks along x, y and z that a grid can have.
const MAX_GRID: [usize; 3] = [(1 << 31) - 1, 65_535, 65_535];

/// Every size fits the 32 bits that a kernel is given, and the grid the hardware.
fn check_sizes<V: Variant>(variant: &V, extents: Extents<'_>) -> Result<()> {
    let too_large = |size: &str, value: usize, most: usize| Error::Size {
        id: variant.to_string(),
        size: size.to_owned(),
        value,
        most,
    };
    for (name, &value) in std::iter::zip(V::SPEC.dims, extents.dims) {
        if value > u32::MAX as usize {
            return Err(too_large(name, value, u32::MAX as usize));
        }
    }
    for (axis, (value, most)) in std::iter::zip(["x", "y", "z"], std::iter::zip(variant.grid(extents), MAX_GRID)) {
        if value > most {
            return Err(too_large(&format!("blocks along {axis}"), value, most));
        }
    }
    Ok(())
}

/// Whether buffers of both can be given to one launch.
pub(crate) fn same_device(a: &Device, b: &Device) -> bool {
    match (a, b) {
        (Device::Cuda(a), Device::Cuda(b)) => a.ordinal() == b.ordinal(),
        (Device::Emulator(a), Device::Emulator(b)) => std::sync::Arc::ptr_eq(a, b),
        (Device::Cpu, Device::Cpu) => true,
        _ => false,
    }
}

/// Bytes of the widest access that a kernel makes.
const WHOLE_ACCESS: usize = 16;

/// Type, shape, stride and alignment of one tensor; an error is what it has and what it must have.
fn check_extent(t: &Bound<'_>) -> Result<(), (String, String)> {
    let Some(view) = &t.view else { return Ok(()) };
    if view.buffer.dtype() != t.dtype {
        return Err((format!("it holds {}", view.buffer.dtype()), format!("it must hold {}", t.dtype)));
    }
    if view.is_empty() && t.rows * t.cols == 0 {
        return Ok(());
    }
    if view.rows * view.cols != t.rows * t.cols || (t.tensor.strided && view.shape() != (t.rows, t.cols)) {
        let got = format!("it has {} rows of {}", view.rows, view.cols);
        return Err((got, format!("it must have {} rows of {}", t.rows, t.cols)));
    }
    if !t.tensor.strided && view.stride != view.cols && view.rows > 1 {
        let got = format!("its rows of {} lie {} apart", view.cols, view.stride);
        return Err((got, "it must be contiguous; copy it".into()));
    }
    if t.tensor.strided && view.stride < view.cols && view.rows > 1 {
        let got = format!("its rows of {} lie {} apart", view.cols, view.stride);
        return Err((got, "rows must not overlap; take a stride of at least the row's length".into()));
    }
    let bytes = t.dtype.bytes();
    if t.tensor.strided && view.stride * bytes > u32::MAX as usize {
        let got = format!("its rows lie {} elements apart", view.stride);
        return Err((got, "rows lie less than 4 GiB apart; copy it".into()));
    }
    if !t.tensor.strided && !(view.offset * bytes).is_multiple_of(WHOLE_ACCESS) {
        let got = format!("it starts {} elements into its buffer", view.offset);
        return Err((got, format!("a contiguous tensor starts at a multiple of {WHOLE_ACCESS} bytes; copy it")));
    }
    let multiple = t.multiple;
    for (what, value) in [("start", view.offset), ("stride", view.stride), ("row length", view.cols)] {
        if t.tensor.strided && !value.is_multiple_of(multiple) {
            let got = format!("its {what} is {value} elements");
            return Err((got, format!("this variant moves {multiple} at a time; take one with a smaller vec")));
        }
    }
    Ok(())
}

fn check_overlaps<'b, 'a>(tensors: &'b [Bound<'a>]) -> Result<(), (&'b Bound<'a>, &'static str)> {
    for (i, written) in tensors.iter().enumerate() {
        if !matches!(written.tensor.access, Access::Out | Access::InOut) {
            continue;
        }
        let Some(view) = &written.view else { continue };
        for (j, other) in tensors.iter().enumerate() {
            if i != j && other.view.as_ref().is_some_and(|o| o.overlaps(view)) {
                return Err((written, other.tensor.name));
            }
        }
    }
    Ok(())
}

fn extents<'a>(packed: &Packed, dims: &'a [usize]) -> Extents<'a> {
    Extents { tokens: packed.tokens(), sequences: packed.sequences(), dims }
}

/// The bytes of the CUDA `Args` struct: the fields of `kernel::arguments`, in its order and with C's alignment.
fn arguments(tensors: &[Bound<'_>], extents: Extents<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for t in tensors {
        let address = t.view.as_ref().map_or(0, |view| view.row_address(0));
        bytes.extend(address.to_ne_bytes());
        if t.tensor.strided {
            bytes.extend(t.view.as_ref().map_or(0, |v| v.stride as u64).to_ne_bytes());
        }
    }
    for &extent in [extents.tokens, extents.sequences].iter().chain(extents.dims) {
        bytes.extend((extent as u32).to_ne_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The sequence of each row, where rows belong to sequences.
fn owners(t: &Bound<'_>, packed: &DevicePacked) -> Option<Vec<u32>> {
    let owner = |s: u32| packed.owner(s as usize);
    match t.owner {
        Owner::Nobody => None,
        Owner::TokenEvery(n) => Some(packed.packed().seq_idx().into_iter().step_by(n).map(owner).collect()),
        Owner::Sequence => Some((0..packed.packed().sequences() as u32).map(owner).collect()),
    }
}

/// What the emulator is told about a tensor.
fn declared<'a>(t: &Bound<'a>, owner: Option<&'a [u32]>) -> Option<emulator::View<'a>> {
    let view = t.view.as_ref()?;
    debug_assert!(matches!(view.buffer.storage(), Storage::Emulator { .. }));
    let bytes = t.dtype.bytes();
    let stride = if t.tensor.strided { view.stride } else { t.cols };
    Some(emulator::View {
        name: t.tensor.name,
        address: view.row_address(0),
        rows: t.rows,
        row_bytes: t.cols * bytes,
        stride_bytes: stride * bytes,
        access: match t.tensor.access {
            Access::In | Access::Structure => emulator::Access::Read,
            Access::Out => emulator::Access::Write,
            Access::InOut => emulator::Access::ReadWrite,
        },
        owner,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{ElementOf, Tensor};
    use crate::{Buffer, Dtype};

    static OUT: Tensor = Tensor {
        name: "out",
        doc: "",
        shape: "[T, D]",
        access: Access::Out,
        element: ElementOf::Fixed(Dtype::F32),
        strided: true,
    };

    fn bound<'a>(view: crate::View<'a>, rows: usize, cols: usize, multiple: usize) -> Bound<'a> {
        let owner = Owner::TokenEvery(1);
        Bound { tensor: &OUT, view: Some(view), wanted: true, dtype: Dtype::F32, rows, cols, multiple, owner }
    }

    #[test]
    fn extents_are_checked() {
        let buffer = Buffer::unwritten(&Device::Cpu, Dtype::F32, 24).unwrap();
        let rows = buffer.rows(4).unwrap();
        let halves = [rows.columns(0, 3).unwrap(), rows.columns(3, 3).unwrap()];
        assert!(check_extent(&bound(rows, 4, 6, 2)).is_ok());
        assert!(check_extent(&bound(rows, 3, 8, 1)).is_err(), "same count, other rows");
        assert!(check_extent(&bound(halves[1], 4, 3, 1)).is_ok());
        assert!(check_extent(&bound(halves[1], 4, 3, 2)).is_err(), "starts at an odd element");
    }

    #[test]
    fn halves_of_one_buffer_do_not_overlap() {
        let buffer = Buffer::unwritten(&Device::Cpu, Dtype::F32, 24).unwrap();
        let rows = buffer.rows(4).unwrap();
        let (left, right) = (rows.columns(0, 3).unwrap(), rows.columns(3, 3).unwrap());
        assert!(check_overlaps(&[bound(left, 4, 3, 1), bound(right, 4, 3, 1)]).is_ok());
        assert!(check_overlaps(&[bound(left, 4, 3, 1), bound(rows, 4, 6, 1)]).is_err());
        assert!(check_overlaps(&[bound(left, 4, 3, 1), bound(rows.columns(2, 3).unwrap(), 4, 3, 1)]).is_err());
    }
}
