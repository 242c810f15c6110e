//! A launch: what runs, over how many threads, on which arguments.

use crate::counts::Counts;
use crate::fault::Fault;
use crate::ir::Kernel;
use crate::machine::Machine;
use crate::memory::Memory;

/// What the kernel may do with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read it.
    Read,
    /// Only write it; and every byte of it must be written by the launch.
    Write,
    /// Both; nothing must be written.
    ReadWrite,
}

/// What the caller declares about one argument: `rows` rows of `row_bytes` bytes, `stride_bytes` apart.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// How faults call it.
    pub name: &'a str,
    /// Device address of the first row.
    pub address: u64,
    /// Number of rows.
    pub rows: usize,
    /// Bytes of a row that belong to the view.
    pub row_bytes: usize,
    /// Bytes from row to row; what lies between the rows is out of bounds.
    pub stride_bytes: usize,
    /// What the kernel may do with it.
    pub access: Access,
    /// The owner of each row, `[rows]`. `None`: carries no origin when read and may carry any when written.
    pub owner: Option<&'a [u32]>,
}

impl<'a> View<'a> {
    /// A view of `bytes` bytes in one row, without owner.
    pub fn flat(name: &'a str, address: u64, bytes: usize, access: Access) -> Self {
        View { name, address, rows: 1, row_bytes: bytes, stride_bytes: bytes, access, owner: None }
    }
}

/// A launch of a kernel. [`Launch::new`] fills in what is usual; the rest are fields.
#[derive(Clone, Copy)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z; at most 1024 together.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory, beyond what the kernel declares.
    pub shared_bytes: u32,
    /// The arguments, laid out as a C struct of them: [`Kernel::param_bytes`] bytes.
    pub params: &'a [u8],
    /// What may be touched. Empty: everything that is allocated.
    pub views: &'a [View<'a>],
    /// Chooses the schedule; 0 is blocks and warps in their order.
    pub seed: u64,
    /// Whether branches, addresses and predicates of memory accesses may depend on data that has owners. `false` reports them.
    /// With `true` such an address or predicate joins the origin of what is loaded or stored; a branch's influence is not followed.
    pub data_dependent_control: bool,
    /// Warp instructions after which the launch is stopped.
    pub instruction_limit: u64,
}

impl<'a> Launch<'a> {
    /// A launch without views, in plain order, limited to 2^34 warp instructions.
    pub fn new(kernel: &'a Kernel, grid: [u32; 3], block: [u32; 3], params: &'a [u8]) -> Self {
        Launch {
            kernel,
            grid,
            block,
            shared_bytes: 0,
            params,
            views: &[],
            seed: 0,
            data_dependent_control: false,
            instruction_limit: 1 << 34,
        }
    }

    fn check(&self) -> Result<(), Fault> {
        let bad = |reason: String| Err(Fault::BadLaunch { kernel: self.kernel.name.clone(), reason });
        let threads = self.block.iter().try_fold(1u32, |all, &n| all.checked_mul(n)).unwrap_or(u32::MAX);
        if threads == 0 || threads > 1024 {
            return bad(format!("a block of {:?} threads; it must have between 1 and 1024", self.block));
        }
        let blocks = self.grid.iter().try_fold(1u32, |all, &n| all.checked_mul(n));
        if blocks.is_none() {
            return bad(format!("a grid of {:?} blocks is more than 2^32", self.grid));
        }
        if let Some((declared, exact)) = self.kernel.threads {
            let fits = if exact { declared == self.block } else { threads <= declared.iter().product() };
            if !fits {
                return bad(format!("a block of {:?} threads; it was compiled for {declared:?}", self.block));
            }
        }
        if self.params.len() != self.kernel.param_bytes {
            return bad(format!("{} bytes of parameters; it takes {}", self.params.len(), self.kernel.param_bytes));
        }
        for view in self.views {
            if view.owner.is_some_and(|owner| owner.len() != view.rows) {
                return bad(format!("view `{}` has {} rows, but not as many owners", view.name, view.rows));
            }
            if view.rows > 1 && view.stride_bytes < view.row_bytes {
                return bad(format!(
                    "the rows of view `{}` overlap: stride {} below row {}",
                    view.name, view.stride_bytes, view.row_bytes
                ));
            }
        }
        Ok(())
    }
}

impl Memory {
    /// Runs a launch to its end, or to its first fault. After a fault, memory is as the launch left it.
    pub fn launch(&mut self, launch: &Launch) -> Result<Counts, Fault> {
        launch.check()?;
        let mut machine = Machine::new(launch, self)?;
        let result = machine.run_grid().and_then(|()| machine.check_outputs());
        let counts = machine.finish();
        result.map(|()| counts).map_err(|fault| *fault)
    }
}
