//! [`Device`]: where buffers lie and kernels run.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use packscan_emulator::{Memory, Module};

use crate::cuda::{Cuda, CudaMemory};
use crate::kernel::{self, Variant};
use crate::launch::Record;
use crate::nvrtc::{self, Arch, Compile, Emit};
use crate::{Error, Result};

/// A machine that runs operators.
#[derive(Clone)]
pub enum Device {
    /// An NVIDIA GPU.
    Cuda(Arc<Cuda>),
    /// The PTX of the same kernels, on this CPU, watched.
    Emulator(Arc<Emulated>),
    /// The native CPU path of each operator.
    Cpu,
}

impl Device {
    /// The GPU with this number.
    ///
    /// # Errors
    /// [`Error::NoGpu`] where there is no driver or no such GPU.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::Cuda(Arc::new(Cuda::open(ordinal, None)?)))
    }

    /// An emulated GPU of the default architecture. The seed orders blocks and threads; results must not depend on it.
    pub fn emulator(seed: u64) -> Device {
        Device::Emulator(Arc::new(Emulated::new(seed, None)))
    }

    /// The same kind of device, with a fault injected into the text of every kernel that it compiles from now on.
    ///
    /// # Errors
    /// [`Error::FaultNeedsKernel`] on the CPU path, which compiles nothing; [`Error::NoGpu`] as for [`Device::cuda`].
    pub fn sabotaged(&self, edit: Edit) -> Result<Device> {
        match self {
            Device::Cuda(cuda) => Ok(Device::Cuda(Arc::new(Cuda::open(cuda.ordinal(), Some(edit))?))),
            Device::Emulator(emulated) => Ok(Device::Emulator(Arc::new(Emulated::new(emulated.seed(), Some(edit))))),
            Device::Cpu => Err(Error::FaultNeedsKernel { fault: edit.name.to_owned() }),
        }
    }

    /// Another device of the same kind, on the same GPU and with the same fault: launches and compilations on one do not wait for those of
    /// the other on the host.
    ///
    /// # Errors
    /// [`Error::NoGpu`] as for [`Device::cuda`].
    pub fn another(&self) -> Result<Device> {
        match self {
            Device::Cuda(cuda) => Ok(Device::Cuda(Arc::new(Cuda::open(cuda.ordinal(), cuda.edit().cloned())?))),
            Device::Emulator(emulated) => {
                Ok(Device::Emulator(Arc::new(Emulated::new(emulated.seed(), emulated.edit.clone()))))
            }
            Device::Cpu => Ok(Device::Cpu),
        }
    }

    /// The kind of device, as the command line names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Device::Cuda(_) => "cuda",
            Device::Emulator(_) => "emulator",
            Device::Cpu => "cpu",
        }
    }

    /// The architecture that kernels are compiled for; `None` on the CPU path.
    pub fn arch(&self) -> Option<Arch> {
        match self {
            Device::Cuda(cuda) => Some(cuda.arch()),
            Device::Emulator(_) => Some(Arch::default()),
            Device::Cpu => None,
        }
    }

    /// Checks a variant against its declaration and this device's limits.
    ///
    /// # Errors
    /// [`Error::Variant`] with every broken rule.
    pub fn check<V: Variant>(&self, variant: &V) -> Result<()> {
        kernel::check(variant, self.arch().unwrap_or_default())
    }

    /// Bytes of all buffers that are alive there. The CPU is one device for the whole process, a GPU or an emulator one for each time
    /// that it was opened.
    pub fn allocated_bytes(&self) -> usize {
        self.usage().now.load(Ordering::Relaxed)
    }

    /// The most that [`allocated_bytes`](Self::allocated_bytes) has been.
    pub fn peak_bytes(&self) -> usize {
        self.usage().peak.load(Ordering::Relaxed)
    }

    /// Buffers made there so far, those that are gone among them. What is to allocate nothing leaves it as it was.
    pub fn allocations(&self) -> usize {
        self.usage().made.load(Ordering::Relaxed)
    }

    pub(crate) fn usage(&self) -> &Usage {
        static CPU: Usage = Usage::new();
        match self {
            Device::Cuda(cuda) => cuda.usage(),
            Device::Emulator(emulated) => &emulated.usage,
            Device::Cpu => &CPU,
        }
    }

    /// Waits until everything launched there has run.
    ///
    /// # Errors
    /// [`Error::Cuda`] if something that was launched failed.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Device::Cuda(cuda) => cuda.synchronize(),
            Device::Emulator(_) | Device::Cpu => Ok(()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cuda(cuda) => write!(f, "{} ({})", cuda.name(), cuda.arch()),
            Device::Emulator(_) => write!(f, "the emulator ({})", Arch::default()),
            Device::Cpu => f.write_str("the CPU"),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the buffers of a device take, in bytes, and how many were ever made.
#[derive(Default)]
pub(crate) struct Usage {
    now: AtomicUsize,
    peak: AtomicUsize,
    made: AtomicUsize,
}

impl Usage {
    const fn new() -> Usage {
        Usage { now: AtomicUsize::new(0), peak: AtomicUsize::new(0), made: AtomicUsize::new(0) }
    }

    pub(crate) fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Arch {
    /// The most dynamic shared memory that one block can have, in bytes (CUDA C++ Programming Guide, compute capabilities). An
    /// architecture that is not listed gets what every one has.
    pub fn max_shared_bytes(self) -> usize {
        let kib = match self.number() {
            70 | 72 => 96,
            75 => 64,
            80 | 87 => 163,
            86 | 89 | 120..130 => 99,
            90 | 100..120 => 227,
            _ => 48,
        };
        kib * 1024
    }
}

/// A fault to inject into CUDA text: each pair is a passage that occurs in it and what replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// How the fault is named on the command line.
    pub name: &'static str,
    /// The kernel whose text it changes, by [`kernel::Spec::name`]; others stay as they are.
    pub kernel: &'static str,
    /// Passage of the kernel's own files, which of its occurrences there (from 0), and replacement.
    pub changes: Vec<(&'static str, usize, &'static str)>,
}

impl Edit {
    /// The text with the fault in it. The prelude, which other kernels have too, stays as it is.
    ///
    /// # Errors
    /// [`Error::FaultMissesText`] if a passage does not occur: the fault would inject nothing and the kernel would pass.
    fn apply(&self, text: &str) -> Result<String> {
        let (before, own) = text.split_at(text.find(kernel::BODIES).unwrap_or(0));
        let mut text = own.to_owned();
        for &(passage, occurrence, replacement) in &self.changes {
            let Some((at, _)) = text.match_indices(passage).nth(occurrence) else {
                return Err(Error::FaultMissesText { fault: self.name.to_owned(), passage: passage.to_owned() });
            };
            text.replace_range(at..at + passage.len(), replacement);
        }
        Ok(before.to_owned() + &text)
    }
}

/// The CUDA text that a device compiles for a variant: its source, with the device's fault if it has one.
pub(crate) fn text_for<V: Variant>(variant: &V, edit: Option<&Edit>) -> Result<String> {
    let text = kernel::source(variant);
    match edit {
        Some(edit) if edit.kernel == V::SPEC.name => edit.apply(&text),
        _ => Ok(text),
    }
}

/// The emulated GPU.
pub struct Emulated {
    seed: AtomicU64,
    edit: Option<Edit>,
    memory: Mutex<Memory>,
    modules: Mutex<HashMap<String, Arc<Module>>>,
    records: Mutex<Option<Vec<Record>>>,
    usage: Usage,
}

impl Emulated {
    fn new(seed: u64, edit: Option<Edit>) -> Emulated {
        Emulated {
            seed: seed.into(),
            edit,
            memory: Mutex::new(Memory::new()),
            modules: Mutex::default(),
            records: Mutex::default(),
            usage: Usage::default(),
        }
    }

    /// The seed of the next launch.
    pub fn seed(&self) -> u64 {
        self.seed.load(Ordering::Relaxed)
    }

    /// Orders blocks and threads of the launches to come by another seed.
    pub fn set_seed(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
    }

    /// Forgets the launches so far, and notes those to come.
    pub fn record(&self) {
        *self.records() = Some(Vec::new());
    }

    /// The launches since [`record`](Self::record), in order; none are noted after that.
    pub fn take_records(&self) -> Vec<Record> {
        self.records().take().unwrap_or_default()
    }

    /// Notes a launch, if launches are noted.
    pub(crate) fn note(&self, record: impl FnOnce() -> Record) {
        if let Some(records) = self.records().as_mut() {
            records.push(record());
        }
    }

    fn records(&self) -> MutexGuard<'_, Option<Vec<Record>>> {
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The parsed PTX of a variant, compiled on first use.
    pub(crate) fn module<V: Variant>(&self, variant: &V) -> Result<Arc<Module>> {
        let id = variant.to_string();
        let mut modules = self.modules.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(module) = modules.get(&id) {
            return Ok(module.clone());
        }
        let source = text_for(variant, self.edit.as_ref())?;
        let request = Compile { name: &id, source: &source, arch: Arch::default(), emit: Emit::Ptx, options: &[] };
        let ptx = String::from_utf8_lossy(&nvrtc::compile_cached(&request)?.bytes).into_owned();
        let module = Module::parse(ptx.trim_end_matches('\0'));
        let module = Arc::new(module.map_err(|source| Error::Ptx { id: id.clone(), source: Box::new(source) })?);
        modules.insert(id, module.clone());
        Ok(module)
    }
}

/// The bytes of a buffer.
pub(crate) enum Storage {
    Cuda(CudaMemory),
    Emulator { device: Arc<Emulated>, address: u64 },
    Cpu(HostMemory),
}

impl Storage {
    pub(crate) fn unwritten(device: &Device, bytes: usize) -> Result<Storage> {
        Ok(match device {
            Device::Cuda(cuda) => Storage::Cuda(CudaMemory::unwritten(cuda, bytes)?),
            Device::Emulator(emulated) => {
                let address = emulated.memory().allocate(bytes, "buffer");
                Storage::Emulator { device: emulated.clone(), address }
            }
            Device::Cpu => Storage::Cpu(HostMemory::unwritten(bytes)?),
        })
    }

    /// Replaces the bytes from `offset` on.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        match self {
            Storage::Cuda(memory) => memory.write(offset, from)?,
            Storage::Emulator { device, address } => device.memory().write(*address + offset as u64, from),
            Storage::Cpu(memory) => memory.write(offset, from),
        }
        Ok(())
    }

    /// The bytes from `offset` on.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        match self {
            Storage::Cuda(memory) => memory.read(offset, to)?,
            Storage::Emulator { device, address } => device.memory().read(*address + offset as u64, to),
            Storage::Cpu(memory) => memory.read(offset, to),
        }
        Ok(())
    }

    /// Fills `bytes` bytes from `offset` on with zeros.
    pub(crate) fn zero(&self, offset: usize, bytes: usize) -> Result<()> {
        match self {
            Storage::Cuda(memory) => memory.zero(offset, bytes)?,
            Storage::Emulator { device, address } => {
                device.memory().write(*address + offset as u64, &vec![0; bytes]);
            }
            Storage::Cpu(memory) => memory.zero(offset, bytes),
        }
        Ok(())
    }

    pub(crate) fn fence_holds(&self) -> Result<bool> {
        match self {
            Storage::Cuda(memory) => memory.fence_holds(),
            Storage::Emulator { .. } => Ok(true),
            Storage::Cpu(memory) => Ok(memory.fence_holds()),
        }
    }

    /// The address that a kernel is given.
    pub(crate) fn address(&self) -> u64 {
        match self {
            Storage::Cuda(memory) => memory.address(),
            Storage::Emulator { address, .. } => *address,
            Storage::Cpu(memory) => memory.pointer() as u64,
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Storage::Emulator { device, address } = self {
            device.memory().free(*address);
        }
    }
}

/// What lies on both sides of a buffer, so that a write beside it is seen.
pub(crate) const FENCE: u8 = 0xA5;
/// Bytes of fence on each side, and the alignment of every buffer.
pub(crate) const FENCE_BYTES: usize = 256;

/// Host memory that operators write through shared references, as devices do. It is not `Sync`: one thread at a time drives a buffer, and
/// an operator shares rows out to its own threads (`host::Rows`).
pub(crate) struct HostMemory {
    /// Fence, contents, fence; in 16-byte units so that every element type is aligned.
    units: Box<[UnsafeCell<u128>]>,
    bytes: usize,
}

impl HostMemory {
    fn unwritten(bytes: usize) -> Result<HostMemory> {
        let count = bytes.saturating_add(2 * FENCE_BYTES).div_ceil(16);
        let mut units = Vec::new();
        units.try_reserve_exact(count).map_err(|_| Error::HostMemory { bytes })?;
        units.extend((0..count).map(|_| UnsafeCell::new(u128::from_ne_bytes([FENCE; 16]))));
        let memory = HostMemory { units: units.into_boxed_slice(), bytes };
        // SAFETY: `bytes` bytes follow the first fence, and nobody else has the pointer yet.
        unsafe { memory.pointer().write_bytes(0xFF, bytes) };
        Ok(memory)
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        self.units.as_ptr().cast_mut().cast::<u8>().wrapping_add(FENCE_BYTES)
    }

    fn write(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= self.bytes);
        // SAFETY: the contents are `bytes` long; one thread uses the memory (it is not `Sync`), and no slice outlives an operator.
        unsafe { self.pointer().add(offset).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.bytes);
        // SAFETY: as in `write`.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(self.pointer().add(offset), to.len()) };
    }

    fn zero(&self, offset: usize, bytes: usize) {
        assert!(offset + bytes <= self.bytes);
        // SAFETY: as in `write`.
        unsafe { self.pointer().add(offset).write_bytes(0, bytes) };
    }

    fn fence_holds(&self) -> bool {
        let fence = |at: usize, len: usize| {
            // SAFETY: within the units, and outside the contents, which alone are ever written.
            unsafe { std::slice::from_raw_parts(self.units.as_ptr().cast::<u8>().add(at), len) }
        };
        let end = FENCE_BYTES + self.bytes;
        let after = fence(end, self.units.len() * 16 - end);
        fence(0, FENCE_BYTES).iter().chain(after).all(|&byte| byte == FENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::HostMemory;

    #[test]
    fn memory_that_the_host_does_not_have_is_an_error() {
        // More than can be addressed, so that no system promises it.
        let error = HostMemory::unwritten(1 << 62).err().expect("no machine has so much").to_string();
        assert!(error.starts_with("the CPU has no memory for 4611686018428 MB more; take a smaller model"), "{error}");
    }
}
