//! Shared by the tests: device arrays, arguments, and the fixtures.
#![allow(dead_code)]

use packscan_emulator::{Access, Counts, Fault, Launch, Memory, Module, View};

/// A fixture's PTX.
pub fn fixture(name: &str) -> Module {
    let path = format!("{}/tests/fixtures/{name}.ptx", env!("CARGO_MANIFEST_DIR"));
    Module::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Little-endian bytes of numbers.
pub trait Bytes {
    fn bytes(&self) -> Vec<u8>;
}

macro_rules! bytes {
    ($($t:ty),*) => {$(impl Bytes for [$t] {
        fn bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|x| x.to_le_bytes()).collect()
        }
    })*};
}
bytes!(u8, u16, u32, u64, i32, f32, f64);

/// Copies numbers to a new allocation.
pub fn upload<T>(memory: &mut Memory, name: &str, data: &[T]) -> u64
where
    [T]: Bytes,
{
    let bytes = data.bytes();
    let address = memory.allocate(bytes.len(), name);
    memory.write(address, &bytes);
    address
}

/// Reads `count` u32.
pub fn download(memory: &Memory, address: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * count];
    memory.read(address, &mut bytes);
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A kernel `k` around a body. It takes pointers `a` (in `%a`) and `o` (in `%o`), and its thread's number is in `%t`.
pub fn ptx(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.extern .shared .align 16 .b8 dyn[];\n\
         .visible .entry k(.param .u64 pa, .param .u64 po)\n{{\n\
         .reg .pred %p<16>; .reg .b16 %h<16>; .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %d<32>; .reg .f64 %g<16>;\n\
         .reg .b64 %a, %o, %ta, %to; .reg .b32 %t;\n\
         .shared .align 16 .b8 s[1024];\n\
         ld.param.u64 %a, [pa]; ld.param.u64 %o, [po]; mov.u32 %t, %tid.x;\n\
         mad.wide.u32 %ta, %t, 4, %a; mad.wide.u32 %to, %t, 4, %o;\n\
         {body}\nret;\n}}\n"
    )
}

/// How a body is run.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub input: &'a [u32],
    pub output_words: usize,
    pub grid: u32,
    pub block: u32,
    pub seed: u64,
    pub owners: Option<(&'a [u32], &'a [u32])>,
    pub data_dependent: bool,
    pub limit: u64,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Run {
            input: &[],
            output_words: 32,
            grid: 1,
            block: 32,
            seed: 0,
            owners: None,
            data_dependent: false,
            limit: 100_000,
        }
    }
}

impl Run<'_> {
    /// Runs a body; `a` is a `Read` view of one row a word, `o` a `ReadWrite` view of the like.
    pub fn go(&self, body: &str) -> Result<(Vec<u32>, Counts), Fault> {
        let module = Module::parse(&ptx(body)).unwrap_or_else(|error| panic!("{error}"));
        let mut memory = Memory::new();
        let input = upload(&mut memory, "a", self.input);
        let output = memory.allocate(4 * self.output_words, "o");
        let row = |name, address, rows, access, owner| View {
            name,
            address,
            rows,
            row_bytes: 4,
            stride_bytes: 4,
            access,
            owner,
        };
        let views = [
            row("a", input, self.input.len(), Access::Read, self.owners.map(|(a, _)| a)),
            row("o", output, self.output_words, Access::ReadWrite, self.owners.map(|(_, o)| o)),
        ];
        let params = [input, output].bytes();
        let launch = Launch {
            views: &views,
            seed: self.seed,
            shared_bytes: 256,
            data_dependent_control: self.data_dependent,
            instruction_limit: self.limit,
            ..Launch::new(module.kernel("k").unwrap(), [self.grid, 1, 1], [self.block, 1, 1], &params)
        };
        let counts = memory.launch(&launch)?;
        Ok((download(&memory, output, self.output_words), counts))
    }
}
