//! The wait-for graph: sleeping threads, the objects at which they sleep, and the processes that could wake them.
//!
//! Nodes are threads. An edge leads from a thread over an object at which it sleeps to each process that could wake it; any
//! thread of that process could do so.
//! It must not read more than the samples of threads have: an incomplete edge proves no deadlock.

use super::process::Processes;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_record::{ObjKey, ThreadRow, Way};
use tracer_record::{ProcId, StackId, Tid};

/// Threads remembered.
const MAX_THREADS: usize = 65_536;

/// A thread of a process.
pub type Key = (ProcId, Tid);

/// A thread at its last sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub key: Key,
    pub comm: String,
    /// State letter of /proc/PID/task/TID/stat.
    pub state: char,
    /// Number of the system call in which it sleeps.
    pub syscall: Option<i64>,
    /// The sleep has a timeout.
    pub timeout: bool,
    pub waits: Vec<Wait>,
    /// It also sleeps at objects that are missing in `waits`.
    pub more: bool,
    pub stack: Option<StackId>,
    /// The innermost kernel function of a sleep in state D, if it could be read.
    pub kernel: Option<String>,
    /// Context switches: if they are equal, the thread has not run in between.
    switches: u64,
    /// The first and the last sample of this sleep.
    since_ns: u64,
    seen_ns: u64,
}

/// An edge: an object at which a thread sleeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub obj: ObjKey,
    pub way: Way,
    pub fd: i32,
    /// Semaphore number.
    pub part: u32,
    pub name: String,
    /// Processes that could wake the thread.
    pub releasers: Vec<ProcId>,
    /// No releaser is missing.
    pub complete: bool,
}

impl Wait {
    /// The waiter cannot do anything else meanwhile, so threads that wait for it wait for this object as well. An idle
    /// consumer (`Way::Take`) can.
    pub fn is_for_another(&self) -> bool {
        self.way != Way::Take
    }
}

/// All sampled threads.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    all: BTreeMap<Key, Thread>,
    pub dropped: u64,
}

impl Waits {
    /// One thread.
    pub fn get(&self, key: Key) -> Option<&Thread> {
        self.all.get(&key)
    }

    /// The threads of a process.
    pub fn of(&self, proc: ProcId) -> impl Iterator<Item = &Thread> {
        self.all.range((proc, Tid(0))..=(proc, Tid(u32::MAX))).map(|(_, thread)| thread)
    }

    /// Applies a sample of some processes, which has all their threads.
    pub(super) fn sampled(&mut self, ts_ns: u64, rows: &[ThreadRow], processes: &mut Processes) {
        let mut fresh: BTreeMap<Key, Thread> = BTreeMap::new();
        for row in rows {
            let of_process = if row.tid == row.tgid { row.comm.as_str() } else { "" };
            let key = (processes.named(row.tgid, row.start_ns, of_process), Tid(row.tid));
            let edge = |w: &tracer_record::WaitRow| Wait {
                obj: w.obj,
                way: w.way,
                fd: w.fd,
                part: w.part,
                name: w.name.clone(),
                releasers: w.releasers.iter().map(|r| processes.resolve(r.tgid, r.start_ns)).collect(),
                complete: w.complete,
            };
            let before = self.all.get(&key).filter(|b| b.switches == row.switches && b.syscall == row.syscall);
            let thread = Thread {
                key,
                comm: row.comm.clone(),
                state: row.state,
                syscall: row.syscall,
                timeout: row.timeout,
                waits: row.waits.iter().map(edge).collect(),
                more: row.more,
                stack: row.stack.map(StackId),
                kernel: row.kernel.first().cloned(),
                switches: row.switches,
                since_ns: before.map_or(ts_ns, |b| b.since_ns),
                seen_ns: ts_ns,
            };
            fresh.insert(key, thread);
        }
        let sampled: BTreeSet<ProcId> = fresh.keys().map(|(proc, _)| *proc).collect();
        self.all.retain(|(proc, _), _| !sampled.contains(proc));
        for (key, thread) in fresh {
            if self.all.len() >= MAX_THREADS {
                self.dropped += 1;
            } else {
                self.all.insert(key, thread);
            }
        }
    }

    pub(super) fn exited(&mut self, proc: ProcId) {
        self.all.retain(|(of, _), _| *of != proc);
    }

    /// The thread that best explains why a process makes no progress: a blocked one before idle ones, then the main thread.
    /// `None` if the process was not sampled.
    pub fn representative(&self, proc: ProcId) -> Option<&Thread> {
        let rank = |t: &&Thread| {
            let held_up = t.waits.iter().any(Wait::is_for_another);
            (if held_up { 0 } else { usize::from(t.state == 'S') + 1 }, t.key.1.0 != proc.pid(), t.key.1)
        };
        self.of(proc).min_by_key(rank)
    }

    /// Deadlock cycles: sets of threads that each sleep without a timeout, and whose releasers are all dead or in the set.
    /// Two samples found each of them in the same sleep, so they slept at the same time.
    pub fn deadlock_cycles(&self, alive: impl Fn(ProcId) -> bool) -> Vec<Vec<&Thread>> {
        let asleep =
            |t: &&Thread| t.state == 'S' && !t.timeout && !t.more && !t.waits.is_empty() && t.since_ns < t.seen_ns;
        // A thread that waits at several objects is an event loop. A signal handler can write what its own process reads.
        let own = |t: &Thread, w: &Wait| !w.is_for_another() && w.releasers.contains(&t.key.0);
        let closed = |t: &&Thread| matches!(t.waits.as_slice(), [w] if (w.complete || self.is_lock_of_another(t, w)) && !own(t, w));
        let mut set: BTreeSet<Key> = self.all.values().filter(asleep).filter(closed).map(|t| t.key).collect();
        loop {
            let stuck = |proc: &ProcId| {
                let mut threads = self.of(*proc).peekable();
                !alive(*proc) || (threads.peek().is_some() && threads.all(|t| set.contains(&t.key)))
            };
            let free: Vec<Key> = set
                .iter()
                .filter(|key| {
                    let waits = self.all.get(key).map_or(&[][..], |t| &t.waits);
                    !waits.iter().flat_map(|w| &w.releasers).all(stuck)
                })
                .copied()
                .collect();
            if free.is_empty() {
                break;
            }
            free.iter().for_each(|key| {
                set.remove(key);
            });
        }
        self.components(set)
    }

    /// Whether the wait is for a semaphore that other processes took last and do not wait for: they have to release it.
    fn is_lock_of_another(&self, t: &Thread, w: &Wait) -> bool {
        let waits_too =
            |proc: &ProcId| self.of(*proc).flat_map(|t| &t.waits).any(|o| (o.obj, o.part) == (w.obj, w.part));
        w.obj.kind == kind::SEM
            && !w.releasers.is_empty()
            && w.releasers.iter().all(|proc| *proc != t.key.0 && !waits_too(proc))
    }

    /// Splits a set into connected components. Detectors of stalls report a thread that blocks only itself.
    fn components(&self, mut set: BTreeSet<Key>) -> Vec<Vec<&Thread>> {
        let mut out = Vec::new();
        while let Some(first) = set.pop_first() {
            let mut component = vec![first];
            let mut at = 0;
            while let Some(key) = component.get(at).copied() {
                at += 1;
                let near: Vec<Key> = set.iter().filter(|other| self.linked(key, **other)).copied().collect();
                for other in near {
                    set.remove(&other);
                    component.push(other);
                }
            }
            let threads: Vec<&Thread> = component.iter().filter_map(|key| self.all.get(key)).collect();
            let processes: BTreeSet<ProcId> = threads.iter().map(|t| t.key.0).collect();
            let held_up = threads.iter().flat_map(|t| &t.waits).any(Wait::is_for_another);
            if threads.len() > 1 && (processes.len() > 1 || held_up) {
                out.push(threads);
            }
        }
        out
    }

    fn linked(&self, one: Key, other: Key) -> bool {
        let leads = |from: Key, to: Key| {
            self.all.get(&from).is_some_and(|t| t.waits.iter().any(|w| w.releasers.contains(&to.0)))
        };
        leads(one, other) || leads(other, one)
    }
}
