//! [`Verdict`]: which rank the others cannot go on without, and how that is known.

use std::fmt;
use std::time::{Duration, Instant};

/// What became of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Its process or thread ended, or its connection broke.
    Ended = 1,
    /// It gave no sign of life.
    Silent = 2,
    /// It lives but does not advance, and others wait for it.
    Hung = 3,
    /// It never came to the meeting place.
    Absent = 4,
    /// Every rank waits in the same operation, which does not end; the rank stands for all.
    Stuck = 5,
}

impl Fate {
    const ALL: [Fate; 5] = [Fate::Ended, Fate::Silent, Fate::Hung, Fate::Absent, Fate::Stuck];

    pub(super) fn from_byte(byte: u8) -> Option<Fate> {
        Fate::ALL.into_iter().find(|fate| *fate as u8 == byte)
    }
}

/// Why a run cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The rank.
    pub rank: usize,
    /// What became of it.
    pub fate: Fate,
    /// The last step that it told of.
    pub step: u64,
    /// How long it was waited for.
    pub waited: Duration,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { rank, fate, step, waited } = self;
        let waited = waited.as_secs_f32();
        match fate {
            Fate::Ended => {
                write!(f, "rank {rank} ended or lost its connection, at step {step}; its own output says why")?
            }
            Fate::Silent => {
                write!(f, "rank {rank} gave no sign of life for {waited:.1} s, after step {step}; look at its host")?
            }
            Fate::Hung => write!(
                f,
                "rank {rank} has not advanced for {waited:.1} s, at step {step}, and the other ranks wait for it; \
                 look at what it does there"
            )?,
            Fate::Absent => write!(
                f,
                "rank {rank} did not come to the meeting place within {waited:.1} s; \
                 see that every rank is started, with the same MASTER_ADDR and MASTER_PORT"
            )?,
            Fate::Stuck => write!(
                f,
                "every rank, rank {rank} among them, waits since {waited:.1} s in a collective operation of step {step} \
                 that does not end; NCCL_DEBUG=INFO shows which connection fails"
            )?,
        }
        f.write_str("; then start all ranks again, from the last checkpoint")
    }
}

/// What is known of a rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// The last step that it told of.
    pub(super) step: u64,
    /// Operations that it has called.
    pub(super) entered: u64,
    /// Signs that it advances: operations and reports of progress.
    pub(super) marks: u64,
    /// Whether an operation that it called has not ended.
    pub(super) pending: bool,
    /// Whether it came to the end of the run.
    pub(super) leaving: bool,
    /// When `marks` last grew.
    pub(super) advanced: Instant,
    /// When it was last heard of.
    pub(super) heard: Instant,
}

impl Peer {
    pub(super) fn new(now: Instant) -> Peer {
        Peer { step: 0, entered: 0, marks: 0, pending: false, leaving: false, advanced: now, heard: now }
    }

    /// Notes that the rank calls an operation or reports progress.
    pub(super) fn mark(&mut self) {
        self.marks += 1;
        self.advanced = Instant::now();
    }
}

/// The rank of which nothing was heard for `silence`.
pub(super) fn silent(peers: &[Peer], now: Instant, silence: Duration) -> Option<Verdict> {
    let (rank, peer) =
        peers.iter().enumerate().find(|(_, peer)| now.saturating_duration_since(peer.heard) >= silence)?;
    Some(Verdict { rank, fate: Fate::Silent, step: peer.step, waited: now.saturating_duration_since(peer.heard) })
}

/// Whether a rank is lost. A rank hangs if it did not advance for `silence` and has called fewer operations than another, which therefore
/// waits for it; the one with the fewest is named.
pub(super) fn judge(peers: &[Peer], now: Instant, silence: Duration) -> Option<Verdict> {
    if let Some(verdict) = silent(peers, now, silence) {
        return Some(verdict);
    }
    let (rank, last) = peers.iter().enumerate().min_by_key(|(_, peer)| peer.entered)?;
    let verdict = |fate, waited| Some(Verdict { rank, fate, step: last.step, waited });
    let waited = now.saturating_duration_since(last.advanced);
    if waited >= silence && peers.iter().any(|peer| peer.entered > last.entered) {
        return verdict(Fate::Hung, waited);
    }
    let together = peers.iter().all(|peer| peer.entered == last.entered && peer.pending && !peer.leaving);
    let waited = now.saturating_duration_since(peers.iter().map(|peer| peer.advanced).max()?);
    if together && waited >= silence {
        return verdict(Fate::Stuck, waited);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    /// Peers of `(entered, seconds since it advanced, seconds since it was heard, pending)`.
    fn judged(peers: &[(u64, u64, u64, bool)]) -> Option<(usize, Fate)> {
        let start = Instant::now();
        let now = start + Duration::from_secs(100);
        let peers: Vec<Peer> = peers
            .iter()
            .map(|&(entered, advanced, heard, pending)| Peer {
                entered,
                pending,
                advanced: now - Duration::from_secs(advanced),
                heard: now - Duration::from_secs(heard),
                ..Peer::new(start)
            })
            .collect();
        judge(&peers, now, SILENCE).map(|verdict| (verdict.rank, verdict.fate))
    }

    #[test]
    fn the_rank_that_others_wait_for_is_named() {
        assert_eq!(judged(&[(5, 11, 0, true), (4, 11, 0, false), (5, 0, 0, true)]), Some((1, Fate::Hung)));
        // It is behind, but it advances.
        assert_eq!(judged(&[(5, 11, 0, true), (4, 9, 0, false)]), None);
        // Nobody waits: each may work for itself as long as it likes.
        assert_eq!(judged(&[(5, 50, 0, false), (5, 60, 0, true)]), None);
        assert_eq!(judged(&[(5, 50, 0, true), (5, 60, 0, true)]), Some((0, Fate::Stuck)));
        assert_eq!(judged(&[(5, 50, 0, true), (5, 9, 0, true)]), None);
    }

    #[test]
    fn a_rank_that_is_not_heard_of_is_named_first() {
        assert_eq!(judged(&[(5, 11, 0, true), (4, 11, 0, false), (5, 11, 12, true)]), Some((2, Fate::Silent)));
        assert_eq!(judged(&[(0, 0, 9, false), (0, 0, 9, false)]), None);
    }
}
