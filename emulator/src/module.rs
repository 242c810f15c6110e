//! A parsed module.

use crate::decode::Shared;
use crate::fault::Error;
use crate::ir::Kernel;
use crate::parse::parse;

/// A PTX module, parsed and decoded once.
pub struct Module {
    kernels: Vec<Kernel>,
}

impl Module {
    /// Parses PTX. Whatever the emulator does not know is an error with its line in the PTX and in the source.
    /// The zero byte with which NVRTC ends its text may be there or not.
    pub fn parse(ptx: &str) -> Result<Module, Error> {
        let ptx = ptx.trim_end_matches('\0');
        let tree = parse(ptx)?;
        let shared = Shared::new(ptx, &tree);
        let kernels = tree.kernels.iter().map(|entry| shared.kernel(entry)).collect::<Result<_, _>>()?;
        Ok(Module { kernels })
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Result<&Kernel, Error> {
        self.kernels.iter().find(|kernel| kernel.name() == name).ok_or_else(|| Error::NoKernel {
            name: name.to_owned(),
            present: self.kernels().collect::<Vec<_>>().join(", "),
        })
    }

    /// The names of its kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.iter().map(Kernel::name)
    }
}
