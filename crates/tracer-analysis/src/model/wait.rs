//! The wait-for graph: threads, what each sleeps for, and who could end that.
//!
//! Nodes are threads; from each an edge leads over every object that it sleeps for to every process that could end the
//! sleep, and any thread of that process could be the one.

use super::process::Processes;
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_record::{ObjKey, ThreadRow, Way};
use tracer_record::{ProcId, StackId, Tid};

/// Threads remembered.
const MAX_THREADS: usize = 65_536;

/// A thread of a process.
pub type Key = (ProcId, Tid);

/// A thread at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    pub key: Key,
    pub comm: String,
    /// State letter of /proc.
    pub state: char,
    pub syscall: Option<i64>,
    /// The sleep ends by itself.
    pub timeout: bool,
    pub waits: Vec<Wait>,
    /// It sleeps for more than `waits`.
    pub more: bool,
    /// Where in its program.
    pub stack: Option<StackId>,
    /// The function of the kernel in which it sleeps in state D, if that could be read.
    pub kernel: Option<String>,
    switches: u64,
    /// The first and the last look that saw it in this sleep.
    since_ns: u64,
    seen_ns: u64,
}

/// An edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub obj: ObjKey,
    pub way: Way,
    pub fd: i32,
    /// Semaphore number.
    pub part: u32,
    pub name: String,
    pub releasers: Vec<ProcId>,
    pub complete: bool,
}

impl Wait {
    /// The waiter holds up something of its own, so that whoever waits for it waits for this.
    pub fn is_for_another(&self) -> bool {
        self.way != Way::Take
    }
}

/// All threads that were looked at.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    all: BTreeMap<Key, Thread>,
    pub dropped: u64,
}

impl Waits {
    /// A thread.
    pub fn get(&self, key: Key) -> Option<&Thread> {
        self.all.get(&key)
    }

    /// The threads of a process.
    pub fn of(&self, proc: ProcId) -> impl Iterator<Item = &Thread> {
        self.all.range((proc, Tid(0))..=(proc, Tid(u32::MAX))).map(|(_, thread)| thread)
    }

    /// Takes over a look at some processes, of each all threads.
    pub(super) fn seen(&mut self, ts_ns: u64, rows: &[ThreadRow], processes: &mut Processes) {
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
        let looked_at: BTreeSet<ProcId> = fresh.keys().map(|(proc, _)| *proc).collect();
        self.all.retain(|(proc, _), _| !looked_at.contains(proc));
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

    /// The thread of a process that says most about why it does not go on; `None` if it was not looked at.
    pub fn speaker(&self, proc: ProcId) -> Option<&Thread> {
        let rank = |t: &&Thread| {
            let held_up = t.waits.iter().any(Wait::is_for_another);
            (if held_up { 0 } else { usize::from(t.state == 'S') + 1 }, t.key.1.0 != proc.pid(), t.key.1)
        };
        self.of(proc).min_by_key(rank)
    }

    /// Threads none of which can ever go on: each sleeps without a time-out, and whoever could end that is dead or one of
    /// them. Two looks have seen all of them in these very sleeps, so they slept at the same time.
    pub fn knots(&self, alive: impl Fn(ProcId) -> bool) -> Vec<Vec<&Thread>> {
        let asleep =
            |t: &&Thread| t.state == 'S' && !t.timeout && !t.more && !t.waits.is_empty() && t.since_ns < t.seen_ns;
        // Who waits for several things is an event loop, and what a process could give to itself, its signal handlers give.
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
        self.parted(set)
    }

    /// A semaphore that another process took last, and does not wait for itself, is that one's to give back.
    fn is_lock_of_another(&self, t: &Thread, w: &Wait) -> bool {
        let waits_too =
            |proc: &ProcId| self.of(*proc).flat_map(|t| &t.waits).any(|o| (o.obj, o.part) == (w.obj, w.part));
        w.obj.kind == kind::SEM
            && !w.releasers.is_empty()
            && w.releasers.iter().all(|proc| *proc != t.key.0 && !waits_too(proc))
    }

    /// Parts a set into those that hang together; of those that one thread makes alone its own detector tells.
    fn parted(&self, mut set: BTreeSet<Key>) -> Vec<Vec<&Thread>> {
        let mut out = Vec::new();
        while let Some(first) = set.pop_first() {
            let mut part = vec![first];
            let mut at = 0;
            while let Some(key) = part.get(at).copied() {
                at += 1;
                let near: Vec<Key> = set.iter().filter(|other| self.linked(key, **other)).copied().collect();
                for other in near {
                    set.remove(&other);
                    part.push(other);
                }
            }
            let threads: Vec<&Thread> = part.iter().filter_map(|key| self.all.get(key)).collect();
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
