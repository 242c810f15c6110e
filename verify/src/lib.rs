//! The properties that every packscan kernel must have, checked on any device, and the saboteur that shows they can fail.
//!
//! One suite serves every operator. An [`Operator`] says how to make inputs, run a variant and ask the book; everything else follows
//! from whose data each row of each [`Tensor`] holds:
//!
//! - **watched**: nothing that the device can see goes wrong. On the emulator that is bounds, unwritten reads, races, barriers and
//!   provenance; elsewhere that what lies beside and between the outputs stays untouched;
//! - **agreement** with the book, element by element, within the bound that `Bounded` derives;
//! - **isolation**, bitwise: replace one sequence's data, or its incoming gradients alone, by other numbers, NaN, infinities or huge values,
//!   and no bit of another sequence changes;
//! - **invariance**, bitwise: a sequence gives the same bits alone, elsewhere in the pack and at another alignment to the chunk;
//! - **determinism**, bitwise: runs under other schedules and groupings agree;
//! - **accumulation**: what an operator adds to doubles when it runs twice, to the bit, and is the sum of what each sequence adds alone,
//!   within the bounds of all.

mod case;
mod check;
mod compare;
pub mod cost;
mod data;
pub mod documents;
pub mod operators;
mod suite;
mod tensor;

pub use case::{Case, ParseCaseError, Sizes};
pub use check::{Call, Failure, Operator, Property};
pub use compare::Mismatch;
pub use data::Random;
pub use suite::{Job, Level, Outcome, Plan};
pub use tensor::{Placed, Rows, Tensor};
