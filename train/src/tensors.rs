//! Files of tensors in the safetensors format, read and written a tensor at a time.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytemuck::{cast_slice, pod_read_unaligned};
use half::{bf16, f16};
use memmap2::Mmap;
use packscan_runtime::{Dtype, Element};
use safetensors::tensor::{Dtype as Stored, Metadata, SafeTensorError, SafeTensors, TensorInfo};

use crate::{Error, Result, files};

/// Of the tensors of a file, by name: the CRC-32 of their bytes.
pub(crate) type Checksums = BTreeMap<String, u32>;

/// What a folder has that says so of its files, by name; reading a tensor that is not what it says is an error.
pub(crate) const CHECKSUMS: &str = "checksums.json";

/// An open file, mapped: nothing is read before it is asked for.
#[derive(Debug)]
pub(crate) struct TensorFile {
    pub path: PathBuf,
    map: Mmap,
    metadata: Metadata,
    /// Bytes before the first tensor.
    start: usize,
    /// Where the folder has them.
    checksums: Checksums,
}

impl TensorFile {
    /// Opens a file whose header describes all of it.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let failed = |source| Error::file("read", path, source);
        let file = File::open(path).map_err(failed)?;
        // SAFETY: a mapping is only as constant as its file. Whoever writes such files here writes them under another name first and
        // renames them; whoever cuts one short that is in use ends this process.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|error| Error::saved(path, format!("{}; {CURE}", damage(&map, &error))))?;
        let said = path.with_file_name(CHECKSUMS);
        let said: BTreeMap<String, Checksums> = if said.is_file() { files::read_json(&said)? } else { BTreeMap::new() };
        let mut of_files = said.into_iter();
        let own = of_files.find(|(name, _)| path.file_name().is_some_and(|file| file == name.as_str()));
        let checksums = own.map(|own| own.1).unwrap_or_default();
        Ok(TensorFile { path: path.to_owned(), map, metadata, start: size_of::<u64>() + header, checksums })
    }

    /// The names of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Checks that a tensor is there with this shape, in a type that a model can have; `of` names whose shape that is.
    pub fn check(&self, name: &str, shape: &[usize], of: &'static str) -> Result<()> {
        let Some(info) = self.metadata.info(name) else {
            return Err(Error::saved(&self.path, format!("{name} is missing, which {of} has; it is of another model")));
        };
        if info.shape != shape {
            let (path, name) = (self.path.clone(), name.to_owned());
            return Err(Error::Shape { path, name, got: info.shape.clone(), of, want: shape.to_vec() });
        }
        self.dtype(name).map(|_| ())
    }

    /// The type of a tensor.
    pub fn dtype(&self, name: &str) -> Result<Dtype> {
        match self.metadata.info(name).map(|info| info.dtype) {
            Some(Stored::F32) => Ok(Dtype::F32),
            Some(Stored::F16) => Ok(Dtype::F16),
            Some(Stored::BF16) => Ok(Dtype::Bf16),
            Some(other) => {
                Err(Error::saved(&self.path, format!("{name} is of type {other}; save it as f32, f16 or bf16")))
            }
            None => Err(Error::saved(&self.path, format!("{name} is missing"))),
        }
    }

    /// A tensor's values, widened to f32, all of them finite: with another, nothing that is learnt or said would be.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        fn widened<T: Element>(bytes: &[u8]) -> Vec<f32> {
            bytes.chunks_exact(T::DTYPE.bytes()).map(|bytes| pod_read_unaligned::<T>(bytes).to_f32()).collect()
        }
        let dtype = self.dtype(name)?;
        let bytes = self.metadata.info(name).map_or(&[][..], |info| {
            let (start, end) = info.data_offsets;
            &self.map[self.start + start..self.start + end]
        });
        if self.checksums.get(name).is_some_and(|saved| *saved != crc32fast::hash(bytes)) {
            let rule = format!(
                "{name} is not what was saved, by its checksum: the file is damaged; {CURE}. If it was changed on purpose, remove {CHECKSUMS}"
            );
            return Err(Error::saved(&self.path, rule));
        }
        let values = match dtype {
            Dtype::F16 => widened::<f16>(bytes),
            Dtype::Bf16 => widened::<bf16>(bytes),
            Dtype::F32 | Dtype::U32 => widened::<f32>(bytes),
        };
        let shape = self.metadata.info(name).map_or(&[][..], |info| &info.shape);
        match not_finite(&values, 0, shape) {
            Some(what) => Err(Error::saved(
                &self.path,
                format!(
                    "{name}{what}, which is no finite number: what saved it had diverged, or the file is damaged; {CURE}"
                ),
            )),
            None => Ok(values),
        }
    }
}

/// The index and value of the first number that is not finite, of those of a tensor that come after `before` others.
fn not_finite(values: &[f32], before: usize, shape: &[usize]) -> Option<String> {
    let first = values.iter().position(|value| !value.is_finite())?;
    let (value, mut rest) = (values[first], before + first);
    let mut index = vec![0; shape.len()];
    for (i, &size) in index.iter_mut().zip(shape).rev() {
        (*i, rest) = (rest % size, rest / size);
    }
    Some(format!("{index:?} is {value}"))
}

/// What helps where a file is not what was saved.
pub(crate) const CURE: &str = "copy or download it again; where it is a checkpoint of a run, remove that, and the run goes on from the one \
                               before";

/// What is wrong with a file that its header does not describe: where it was cut, if it was.
fn damage(file: &[u8], error: &SafeTensorError) -> String {
    let bytes = file.len();
    let header = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    match error {
        SafeTensorError::HeaderTooSmall => format!("it was cut short: {bytes} bytes are there, and its header is not"),
        SafeTensorError::InvalidHeaderLength => {
            format!("it was cut short: {} of {header} bytes of its header are there", bytes - size_of::<u64>())
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            let (header, tensors) = file[size_of::<u64>()..].split_at(header as usize);
            let metadata = serde_json::from_slice(header);
            metadata.map_or_else(|error| error.to_string(), |metadata| incomplete(&metadata, tensors.len()))
        }
        _ => format!("it is damaged, or no file of tensors ({bytes} bytes: {error})"),
    }
}

/// The first tensor of which not all is there, if `bytes` are there of all of them.
fn incomplete(metadata: &Metadata, bytes: usize) -> String {
    let mut all = 0;
    for name in metadata.offset_keys() {
        let Some(TensorInfo { dtype, shape, data_offsets: (start, end) }) = metadata.info(&name) else { continue };
        if *end > bytes {
            let (there, asked) = (bytes.saturating_sub(*start), end - start);
            return format!("it was cut short: {there} of {asked} bytes of {name}, {shape:?} in {dtype}, are there");
        }
        all = all.max(*end);
    }
    format!("it is damaged: it has {} bytes more than its tensors take", bytes - all)
}

/// Name and shape of a tensor to be written.
pub(crate) type Entry = (String, Vec<usize>);

/// Takes the next values of a tensor that is being written.
pub(crate) type Sink<'a> = dyn FnMut(&[f32]) -> Result<()> + 'a;

/// Writes a file of tensors of one type, and says what is in it; `give` hands over all values of the i-th in order, in as many pieces as it
/// likes: what is in memory beside the model is a piece.
pub(crate) fn write(
    path: &Path,
    dtype: Dtype,
    entries: &[Entry],
    mut give: impl FnMut(usize, &mut Sink<'_>) -> Result<()>,
) -> Result<Checksums> {
    let mut checksums = Checksums::new();
    let failed = |source| Error::file("write", path, source);
    let mut file = File::create(path).map_err(failed)?;
    file.write_all(&header(dtype, entries)).map_err(failed)?;
    for (i, (name, shape)) in entries.iter().enumerate() {
        let (mut before, mut checksum) = (0, crc32fast::Hasher::new());
        give(i, &mut |values| {
            if let Some(what) = not_finite(values, before, shape) {
                return Err(Error::NotFinite { what: format!("the values of {name} ({name}{what})") });
            }
            before += values.len();
            let bytes = match dtype {
                Dtype::F16 => Cow::Owned(rounded::<f16>(name, values)?),
                Dtype::Bf16 => Cow::Owned(rounded::<bf16>(name, values)?),
                Dtype::F32 | Dtype::U32 => Cow::Borrowed(cast_slice(values)),
            };
            checksum.update(&bytes);
            file.write_all(&bytes).map_err(failed)
        })?;
        checksums.insert(name.clone(), checksum.finalize());
        assert_eq!(before, shape.iter().product::<usize>(), "{name} has other values than its shape says");
    }
    Ok(checksums)
}

/// Length and JSON, padded so that the first tensor is aligned.
fn header(dtype: Dtype, entries: &[Entry]) -> Vec<u8> {
    let stored = match dtype {
        Dtype::F16 => Stored::F16,
        Dtype::Bf16 => Stored::BF16,
        Dtype::F32 | Dtype::U32 => Stored::F32,
    };
    let mut end = 0;
    let infos = entries.iter().map(|(name, shape)| {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bytes();
        (name.clone(), TensorInfo { dtype: stored, shape: shape.clone(), data_offsets: (start, end) })
    });
    // Readers in Python ask for the format.
    let about = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(about), infos.collect()).expect("the tensors lie one after the other");
    let mut json = serde_json::to_vec(&metadata).expect("names and numbers are JSON");
    json.resize(json.len().next_multiple_of(size_of::<u64>()), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

/// The bytes of values in a narrower type, if that can hold them.
fn rounded<T: Element>(name: &str, values: &[f32]) -> Result<Vec<u8>> {
    let narrow: Vec<T> = values.iter().map(|&value| T::from_f32(value)).collect();
    let lost = values.iter().zip(&narrow).find(|(wide, narrow)| wide.is_finite() && !narrow.to_f32().is_finite());
    if let Some((value, _)) = lost {
        return Err(Error::Config {
            field: "dtype",
            got: T::DTYPE.to_string(),
            rule: format!("{name} has a value of {value}, which that type cannot hold; take bf16 or f32"),
        });
    }
    Ok(cast_slice(&narrow).to_vec())
}
