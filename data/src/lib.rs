//! From files to packs. This crate has never heard of GPUs or models.
//!
//! A [`Tokenizer`] turns text into ids. A [`Corpus`] reads files, tokenises them once and maps the result into memory.
//! [`Packs`] lays its documents end to end in packs of `T` tokens and `S` sequences, in an order that a seed decides, and
//! tells its [`Position`], from which the same packs go on. [`prefetch`] moves that work to a thread.
//!
//! ```
//! use packscan_data::{Corpus, CorpusOptions, PackOptions, Packs, Scheme, Strategy, Tokenizer, prefetch};
//!
//! # fn main() -> packscan_data::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let (text, cache) = (folder.path().join("a.txt"), folder.path().join("cache"));
//! # std::fs::write(&text, "hello").unwrap();
//! let tokenizer = Tokenizer::open(None)?; // bytes
//! let corpus = Corpus::open(&CorpusOptions::new(vec![text], cache), &tokenizer, |_| ())?;
//! let scheme = Scheme::Packed(Strategy::default());
//! let packs = Packs::new(&corpus, PackOptions { epochs: Some(1), ..PackOptions::new(4096, scheme) })?;
//! for (pack, after) in prefetch(packs, 2)? {
//!     assert_eq!(pack.tokens, [104, 101, 108, 108, 111, 256]);
//!     assert_eq!(pack.targets, [101, 108, 108, 111, 256, packscan_data::NO_TARGET]);
//!     assert_eq!(pack.lengths, [6]);
//!     println!("resume from {after:?}");
//! }
//! # Ok(())
//! # }
//! ```

mod bins;
mod corpus;
mod error;
mod files;
mod lines;
pub mod number;
mod packs;
mod plan;
mod prefetch;
mod random;
mod records;
mod shards;
mod skipped;
mod tokenizer;

pub use corpus::{Corpus, CorpusOptions, Progress};
pub use error::{Error, Result};
pub use files::newer_than;
pub use packs::{NO_TARGET, Pack, Packs, Position};
pub use plan::{PackOptions, Piece, Plan, Plans, Scheme, Strategy};
pub use prefetch::{Prefetched, prefetch};
pub use shards::Tokens;
pub use skipped::{LeftOut, Skipped};
pub use tokenizer::{Decoder, Tokenizer};
