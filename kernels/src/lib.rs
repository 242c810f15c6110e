//! The packed operators of a Mamba block, one folder each.
