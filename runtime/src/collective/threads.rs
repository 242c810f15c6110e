//! [`Threads`]: ranks as threads of one process, for tests and runs on the CPU.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytemuck::{cast_slice, cast_slice_mut, pod_collect_to_vec};

use super::verdict::{Fate, Peer, Verdict, judge};
use super::{Collective, Limits, check_root, check_sum, share};
use crate::{Error, Result, View};

/// One of several ranks that are threads of this process. Each has its own device and buffers; what they exchange is copied.
///
/// Sums are added in the order of the ranks, so every rank gets the same bits, and so does every run.
pub struct Threads {
    rank: usize,
    group: Arc<Group>,
}

/// What the ranks share.
struct Group {
    silence: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What each rank brought to the operation under way.
    brought: Vec<Option<Brought>>,
    /// Operations that are over.
    rounds: u64,
    /// What all brought to the last of them. No rank begins the next one before it has seen this.
    finished: Arc<Vec<Brought>>,
    peers: Vec<Peer>,
    verdict: Option<Verdict>,
}

#[derive(Clone)]
struct Brought {
    call: Call,
    bytes: Arc<Vec<u8>>,
}

/// What a rank calls; all must call the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    operation: Operation,
    /// Of the whole view.
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast { root: usize },
    AllReduceF64,
    Leave,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::AllReduce => f.write_str("all_reduce")?,
            Operation::ReduceScatter => f.write_str("reduce_scatter")?,
            Operation::AllGather => f.write_str("all_gather")?,
            Operation::Broadcast { root } => write!(f, "broadcast from rank {root}")?,
            Operation::AllReduceF64 => f.write_str("all_reduce_f64")?,
            Operation::Leave => return f.write_str("leave"),
        }
        write!(f, " of {} bytes", self.bytes)
    }
}

impl Threads {
    /// As many ranks, to be handed to a thread each.
    pub fn group(size: usize) -> Vec<Threads> {
        Threads::with_silence(size, Limits::default().silence)
    }

    /// Ranks of which one that does not advance for `silence` while others wait counts as hung.
    pub fn with_silence(size: usize, silence: Duration) -> Vec<Threads> {
        let state = State {
            brought: vec![None; size],
            rounds: 0,
            finished: Arc::default(),
            peers: vec![Peer::new(Instant::now()); size],
            verdict: None,
        };
        let group = Arc::new(Group { silence, state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| Threads { rank, group: group.clone() }).collect()
    }

    /// What every rank brings to an operation, in the order of the ranks.
    fn exchange(&self, call: Call, bytes: Vec<u8>) -> Result<Arc<Vec<Brought>>> {
        let mut state = self.group.state();
        check(&state)?;
        let me = &mut state.peers[self.rank];
        me.mark();
        me.entered += 1;
        me.pending = true;
        let round = state.rounds;
        state.brought[self.rank] = Some(Brought { call, bytes: Arc::new(bytes) });
        if state.brought.iter().all(Option::is_some) {
            state.finished = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.rounds += 1;
            self.group.changed.notify_all();
        }
        let tick = (self.group.silence / 8).min(Duration::from_secs(1));
        while state.rounds == round {
            check(&state)?;
            let (mut now, _) = self.group.changed.wait_timeout(state, tick).unwrap_or_else(PoisonError::into_inner);
            if now.rounds == round && now.verdict.is_none() {
                now.verdict = self.group.lost(&mut now.peers);
                if now.verdict.is_some() {
                    self.group.changed.notify_all();
                }
            }
            state = now;
        }
        state.peers[self.rank].pending = false;
        let finished = state.finished.clone();
        drop(state);
        match finished.iter().enumerate().find(|(_, other)| other.call != call) {
            None => Ok(finished),
            Some((rank, other)) => Err(Error::Collective {
                rank: self.rank,
                doing: call.to_string(),
                why: format!("rank {rank} called {}; all ranks must call the same, in the same order", other.call),
            }),
        }
    }

    /// The sum of what every rank brought, in f32, from byte `start` on.
    fn sum(brought: &[Brought], start: usize, bytes: usize) -> Vec<f32> {
        let part = |rank: usize| pod_collect_to_vec::<u8, f32>(&brought[rank].bytes[start..start + bytes]);
        let mut sum = part(0);
        for rank in 1..brought.len() {
            std::iter::zip(&mut sum, part(rank)).for_each(|(sum, term)| *sum += term);
        }
        sum
    }
}

fn check(state: &State) -> Result<()> {
    state.verdict.map_or(Ok(()), |verdict| Err(Error::Rank { verdict }))
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Threads of one process are heard of as long as it runs.
    fn lost(&self, peers: &mut [Peer]) -> Option<Verdict> {
        let now = Instant::now();
        peers.iter_mut().for_each(|peer| peer.heard = now);
        judge(peers, now, self.silence)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.group.state();
        let Peer { leaving, step, .. } = state.peers[self.rank];
        if !leaving && state.verdict.is_none() {
            state.verdict = Some(Verdict { rank: self.rank, fate: Fate::Ended, step, waited: Duration::ZERO });
        }
        self.group.changed.notify_all();
    }
}

fn read(view: View<'_>) -> Result<Vec<u8>> {
    let range = view.contiguous()?;
    let mut bytes = vec![0; range.len()];
    view.buffer.storage().read(range.start, &mut bytes)?;
    Ok(bytes)
}

fn write(view: View<'_>, bytes: &[u8]) -> Result<()> {
    view.buffer.storage().write(view.contiguous()?.start, bytes)
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.state().peers.len()
    }

    fn all_reduce(&self, view: View<'_>) -> Result<()> {
        check_sum(view)?;
        let bytes = read(view)?;
        let call = Call { operation: Operation::AllReduce, bytes: bytes.len() };
        let brought = self.exchange(call, bytes)?;
        write(view, cast_slice(&Threads::sum(&brought, 0, call.bytes)))
    }

    fn reduce_scatter(&self, view: View<'_>) -> Result<()> {
        check_sum(view)?;
        let mine = share(view, self.rank, self.size())?;
        let bytes = read(view)?;
        let brought = self.exchange(Call { operation: Operation::ReduceScatter, bytes: bytes.len() }, bytes)?;
        let share_bytes = mine.contiguous()?.len();
        write(mine, cast_slice(&Threads::sum(&brought, self.rank * share_bytes, share_bytes)))
    }

    fn all_gather(&self, view: View<'_>) -> Result<()> {
        let mine = read(share(view, self.rank, self.size())?)?;
        let call = Call { operation: Operation::AllGather, bytes: view.contiguous()?.len() };
        let brought = self.exchange(call, mine)?;
        let all: Vec<u8> = brought.iter().flat_map(|share| share.bytes.iter().copied()).collect();
        write(view, &all)
    }

    fn broadcast(&self, view: View<'_>, root: usize) -> Result<()> {
        check_root(root, self.size())?;
        let bytes = view.contiguous()?.len();
        let mine = if root == self.rank { read(view)? } else { Vec::new() };
        let brought = self.exchange(Call { operation: Operation::Broadcast { root }, bytes }, mine)?;
        write(view, &brought[root].bytes)
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        let bytes: Vec<u8> = cast_slice(values).to_vec();
        let brought = self.exchange(Call { operation: Operation::AllReduceF64, bytes: bytes.len() }, bytes)?;
        cast_slice_mut::<f64, u8>(values).copy_from_slice(&brought[0].bytes);
        for other in &brought[1..] {
            let terms = pod_collect_to_vec::<u8, f64>(&other.bytes);
            std::iter::zip(&mut *values, terms).for_each(|(sum, term)| *sum += term);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        check(&self.group.state())
    }

    fn progress(&self, step: u64) -> Result<()> {
        let mut state = self.group.state();
        let me = &mut state.peers[self.rank];
        me.mark();
        me.step = step;
        check(&state)
    }

    fn leave(&self) -> Result<()> {
        self.exchange(Call { operation: Operation::Leave, bytes: 0 }, Vec::new())?;
        self.group.state().peers[self.rank].leaving = true;
        Ok(())
    }
}
