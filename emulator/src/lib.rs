//! Runs PTX on the CPU and watches it.
//!
//! [`Module::parse`] reads the PTX that NVRTC emits, [`Memory`] is the device's global memory, and [`Memory::launch`] runs a
//! [`Kernel`] in it. Every thread keeps its own registers, and everything it does is checked:
//!
//! * **Memory.** Each byte of global, shared and local memory knows whether it was written. An access must be aligned, lie in an
//!   allocation, and (when the launch declares [`View`]s) in a row of a view that permits it.
//! * **Registers.** Reading one that the thread never wrote is a fault.
//! * **Races.** Each byte of shared memory, and of global memory that somebody may write, remembers who touched it last and
//!   when. Two threads, one byte, one write and no barrier in between is a fault, even if this schedule was lucky. A shuffle orders
//!   nothing. Atomics do not race with each other.
//! * **Convergence.** A barrier, shuffle or vote that not all of its threads reach is a fault that says where the others are.
//! * **Provenance.** Each lane of each register and each byte of memory carries the set of *owners* whose data reached it. Views
//!   give owners to rows; arithmetic joins the sets of its operands; a select keeps that of the operand it chose and of the
//!   predicate. A byte of an output that carries another owner than its row is a [`Fault::Leak`]. So a clean run proves, for the
//!   layout that ran, that nothing passes from one owner to another, whatever the numbers were. A branch, an address or a predicate of
//!   a memory access that depends on owned data would let influence escape that account, and is itself a fault.
//! * **Schedules.** A seed chooses the order of blocks and warps, when they switch, and when a warp's lanes part ways. The result
//!   of a correct kernel does not depend on it.
//! * **Counts.** [`Counts`]: instructions by pipe, bytes, sectors, bank conflicts, barriers.
//!
//! Arithmetic is IEEE 754 as the PTX ISA prescribes; the approximate functions stay within the error it documents, and use it
//! (see `approx.rs`). What is unknown to the emulator is an [`Error`] when parsing, never skipped.
//!
//! Not modelled: the memory model beyond barriers and atomics (fences order nothing), caches, time, and blocks that wait for
//! each other. Module variables can be read only.

pub mod approx;
mod compare;
mod convert;
mod counts;
mod decode;
mod exec;
mod fault;
mod float;
mod half_float;
mod integer;
mod ir;
mod launch;
mod lexer;
mod machine;
mod memory;
mod module;
mod origin;
mod parse;
mod place;
mod scalar;
mod schedule;
mod select;
mod shadow;
mod sync;
mod touch;
mod translate;
mod translate_memory;
mod tree;
mod warp;

pub use counts::{ByPipe, Counts, Pipe};
pub use fault::{Error, Fault, Site};
pub use ir::Kernel;
pub use launch::{Access, Launch, View};
pub use memory::Memory;
pub use module::Module;

/// The example of the README, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
