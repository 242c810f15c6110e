//! Full Mamba models trained on packed text.

pub mod report;
