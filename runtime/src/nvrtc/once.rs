//! A library of this process: found by the first who asks, then the same for all.

use std::sync::{Mutex, OnceLock, PoisonError};

use super::find::Environment;
use crate::Result;

/// Where a library is kept once it is found.
pub(crate) struct Once<T> {
    found: OnceLock<T>,
    search: Mutex<()>,
}

impl<T> Once<T> {
    /// Nothing is found yet.
    pub(crate) const fn new() -> Self {
        Once { found: OnceLock::new(), search: Mutex::new(()) }
    }

    /// What was found, or else what `provide` finds now, for one caller at a time. A failed search is repeated by the next call.
    pub(crate) fn get(&self, provide: impl FnOnce(&Environment) -> Result<T>) -> Result<&T> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let _one_at_a_time = self.search.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = provide(&Environment::current()?)?;
        Ok(self.found.get_or_init(|| found))
    }
}
