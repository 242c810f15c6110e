//! Disk cache
