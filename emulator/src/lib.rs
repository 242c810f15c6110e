//! Runs PTX on the CPU and watches it: races, bounds, unwritten reads, provenance, counts.
