//! Packs made ahead of time, on a thread of their own.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::{Error, Pack, Packs, Position, Result};

/// Packs from a thread, each with the position after it. Dropping it ends the thread.
pub struct Prefetched {
    /// `None` once it was dropped, which is what ends the thread.
    packs: Option<Receiver<(Pack, Position)>>,
    thread: Option<JoinHandle<()>>,
}

/// Makes up to `depth` packs ahead, at least one.
///
/// # Errors
/// [`Error::Thread`] if no thread can be started.
pub fn prefetch(mut packs: Packs, depth: usize) -> Result<Prefetched> {
    let (send, receive) = sync_channel(depth.max(1));
    let work = move || {
        while let Some(pack) = packs.next() {
            if send.send((pack, packs.position())).is_err() {
                break;
            }
        }
    };
    let thread = thread::Builder::new().name("packs".to_owned()).spawn(work).map_err(Error::Thread)?;
    Ok(Prefetched { packs: Some(receive), thread: Some(thread) })
}

impl Iterator for Prefetched {
    type Item = (Pack, Position);

    /// # Panics
    /// With the thread's own message if that panicked.
    fn next(&mut self) -> Option<(Pack, Position)> {
        let next = self.packs.as_ref()?.recv().ok();
        if next.is_none()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            resume_unwind(panic);
        }
        next
    }
}

impl Drop for Prefetched {
    fn drop(&mut self) {
        self.packs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told, or nobody asked for the pack that it was about.
            let _ = thread.join();
        }
    }
}
