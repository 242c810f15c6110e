//! [`Watch`]: the processes of a run meet over TCP, and from then on know of each other whether they live and advance.
//!
//! Rank 0 listens, the others connect; the connections stay open. Every rank tells rank 0 once a second at which step it is and how many
//! operations it has called; rank 0 answers, judges ([`judge`]) and tells all. A connection that closes before all have left names
//! its rank at once. Nothing else goes over these connections: tensors are NCCL's.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::World;
use super::verdict::{Fate, Peer, Verdict, judge, silent};
use super::wire::{self, Frame, Kind};
use crate::{Error, Result};

/// How long ranks have patience with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the last rank to come to the meeting place.
    pub meet: Duration,
    /// For a rank that gives no sign of life, or that does not advance while others wait for it.
    pub silence: Duration,
    /// From a verdict until it ends the process, with the verdict on standard error and exit code 1, even if a thread sits in a call of
    /// CUDA's that never returns; `None` leaves that to the caller.
    pub exit_after: Option<Duration>,
}

/// A lost rank ends the run within 60 s.
impl Default for Limits {
    fn default() -> Self {
        Limits {
            meet: Duration::from_secs(60),
            silence: Duration::from_secs(45),
            exit_after: Some(Duration::from_secs(8)),
        }
    }
}

/// This rank's connection to the others.
pub struct Watch {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    rank: usize,
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
    /// On rank 0 one for each other rank, in order; elsewhere the one to rank 0.
    streams: Vec<TcpStream>,
}

struct State {
    /// On rank 0 of every rank; elsewhere of rank 0 and this one, in the places of their ranks.
    peers: Vec<Peer>,
    verdict: Option<Verdict>,
    /// All ranks have left.
    ended: bool,
    /// This rank is gone.
    closed: bool,
    /// There is something to tell before the next second.
    urgent: bool,
}

impl Watch {
    /// Meets the other ranks. `message` is made on rank 0, once all have come, and given to every rank.
    ///
    /// # Errors
    /// [`Error::Meeting`] if rank 0 cannot listen or be reached; [`Error::Rank`] for a rank that does not come or ends; that of
    /// `message` on rank 0.
    pub fn meet(world: &World, limits: Limits, message: impl FnOnce() -> Result<Vec<u8>>) -> Result<(Watch, Vec<u8>)> {
        let (streams, message) = match world.rank {
            0 => wire::gather(world, limits.meet, message)?,
            _ => {
                let (stream, message) = wire::reach(world, limits.meet)?;
                (vec![stream], message)
            }
        };
        let state = State {
            peers: vec![Peer::new(Instant::now()); world.size],
            verdict: None,
            ended: false,
            closed: false,
            urgent: false,
        };
        let shared =
            Arc::new(Shared { rank: world.rank, limits, state: Mutex::new(state), changed: Condvar::new(), streams });
        for (at, stream) in shared.streams.iter().enumerate() {
            let lost = |error: std::io::Error| wire::failed(world, format!("a connection broke: {error}"));
            let reader = stream.try_clone().map_err(lost)?;
            let (shared, from) = (shared.clone(), if world.rank == 0 { at + 1 } else { 0 });
            thread::spawn(move || shared.listen(from, reader));
        }
        let watch = Watch { rank: world.rank, shared: shared.clone() };
        thread::spawn(move || shared.beat());
        Ok((watch, message))
    }

    /// Notes that this rank calls an operation.
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank is lost.
    pub fn enter(&self) -> Result<()> {
        self.tell(|me| {
            me.mark();
            me.entered += 1;
            me.pending = true;
        })
    }

    /// Notes whether an operation that this rank called has not ended.
    pub fn set_pending(&self, pending: bool) {
        // What there is to report, `check` reports.
        let _ = self.tell(|me| me.pending = pending);
    }

    /// As [`Collective::progress`](super::Collective::progress).
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank is lost.
    pub fn progress(&self, step: u64) -> Result<()> {
        self.tell(|me| {
            me.mark();
            me.step = step;
        })
    }

    /// Whether all ranks are there.
    ///
    /// # Errors
    /// [`Error::Rank`] if one is lost.
    pub fn check(&self) -> Result<()> {
        self.shared.state().verdict.map_or(Ok(()), |verdict| Err(Error::Rank { verdict }))
    }

    /// As [`Collective::leave`](super::Collective::leave).
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank is lost.
    pub fn leave(&self) -> Result<()> {
        self.enter()?;
        let mut state = self.shared.state();
        state.peers[self.rank].leaving = true;
        state.urgent = true;
        self.shared.changed.notify_all();
        while !state.ended && state.verdict.is_none() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.verdict {
            Some(verdict) if !state.ended => Err(Error::Rank { verdict }),
            _ => Ok(()),
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Peer)) -> Result<()> {
        what(&mut self.shared.state().peers[self.rank]);
        self.check()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        for stream in &self.shared.streams {
            // A connection that is closed already needs no closing.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once a second, or when there is something urgent: tells the others, and on rank 0 judges them.
    fn beat(self: &Arc<Self>) {
        let tick = (self.limits.silence / 8).min(Duration::from_secs(1));
        loop {
            let idle = |state: &mut State| !(state.urgent || state.closed || state.ended || state.verdict.is_some());
            let waited = self.changed.wait_timeout_while(self.state(), tick, idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.urgent = false;
            if state.closed || state.ended || state.verdict.is_some() {
                return;
            }
            state.peers[self.rank].heard = Instant::now();
            if self.rank == 0 && state.peers.iter().all(|peer| peer.leaving) {
                state.ended = true;
                self.send(Frame::of(Kind::End, 0, &state.peers[0]));
                self.changed.notify_all();
                return;
            }
            let (now, silence) = (Instant::now(), self.limits.silence);
            let lost = match self.rank {
                0 => judge(&state.peers, now, silence),
                // All else is rank 0's to judge.
                _ => silent(&state.peers[..1], now, silence),
            };
            let beat = Frame::of(Kind::Beat, self.rank, &state.peers[self.rank]);
            drop(state);
            match lost {
                Some(verdict) => self.decide(verdict),
                None => self.send(beat),
            }
        }
    }

    /// Takes what comes from one rank until its connection closes.
    fn listen(self: &Arc<Self>, from: usize, mut stream: TcpStream) {
        while let Some(frame) = Frame::read(&mut stream) {
            let mut state = self.state();
            let now = Instant::now();
            match frame.kind {
                Kind::Beat => {
                    let peer = &mut state.peers[from];
                    if frame.marks > peer.marks {
                        peer.advanced = now;
                    }
                    let Frame { step, entered, marks, pending, leaving, .. } = frame;
                    *peer = Peer { step, entered, marks, pending, leaving, heard: now, ..*peer };
                    // Rank 0 ends the run as soon as the last one has come to its end.
                    if self.rank == 0 && state.peers.iter().all(|peer| peer.leaving) {
                        state.urgent = true;
                        self.changed.notify_all();
                    }
                }
                Kind::End => {
                    state.ended = true;
                    self.changed.notify_all();
                }
                Kind::Verdict(fate) => {
                    drop(state);
                    let waited = Duration::from_millis(frame.marks);
                    self.decide(Verdict { rank: frame.rank, fate, step: frame.step, waited });
                }
                Kind::Start => return,
            }
        }
        let step = self.state().peers[from].step;
        self.decide(Verdict { rank: from, fate: Fate::Ended, step, waited: Duration::ZERO });
    }

    /// The first verdict counts: this rank keeps it, rank 0 tells the others, and the process ends if the caller does not see to it.
    fn decide(self: &Arc<Self>, verdict: Verdict) {
        let mut state = self.state();
        if state.ended || state.closed || state.verdict.is_some() {
            return;
        }
        // Told before it is known here: this rank may end at once, and the others would then name it instead.
        if self.rank == 0 {
            self.send(Frame::verdict(&verdict));
        }
        state.verdict = Some(verdict);
        self.changed.notify_all();
        drop(state);
        if let Some(grace) = self.limits.exit_after {
            let shared = self.clone();
            thread::spawn(move || {
                thread::sleep(grace);
                eprintln!("rank {} ends: {verdict}", shared.rank);
                end_process();
            });
        }
    }

    fn send(&self, frame: Frame) {
        for stream in &self.streams {
            // A connection that cannot be written to is noticed by its reader.
            let _ = frame.write(stream);
        }
    }
}

/// Ends the process without what libraries want to do at its end: CUDA and NCCL would wait for a GPU that waits for a lost rank.
fn end_process() -> ! {
    #[cfg(unix)]
    // SAFETY: takes any number and does not return.
    unsafe {
        libc::_exit(1)
    }
    #[cfg(not(unix))]
    std::process::exit(1)
}
