//! Waits at objects: statistics of finished waits, the waits that are still ongoing, and samples of readers meanwhile.
//!
//! It must not decide whether a wait is a problem: detectors do.

use super::HashMap;
use std::collections::{BTreeMap, VecDeque};
use tracer_common::map::kind;
use tracer_common::syscall::Syscall;
use tracer_record::{ObjKey, ReaderSampleRow, State};
use tracer_record::{ProcId, StackId, Tid};

/// include/uapi/asm-generic/errno.h
const ETIMEDOUT: i64 = 110;
/// include/uapi/asm-generic/errno-base.h
const EAGAIN: i64 = 11;

/// Objects with stalls that are remembered.
const MAX_OBJECTS: usize = 8_192;
/// Waiting (process, call) pairs remembered for one object.
const MAX_WAITERS: usize = 256;
/// Finished waits of one object whose times are kept, to match a wait with the wait that caused it.
const MAX_INTERVALS: usize = 512;
/// Distinct reader samples of one object, and of all objects.
const MAX_SAMPLES: usize = 32;
const MAX_ALL_SAMPLES: usize = 32_768;
/// Durations below 2^PRECISION ns are exact; above, a bucket is at most 1/2^PRECISION wide.
const PRECISION: u32 = 6;

/// Distribution of durations in bounded memory (about 1.6 % wide buckets).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    pub count: u64,
    pub total_ns: u64,
    pub max_ns: u64,
    /// Part of `total_ns` in which the waiters were runnable again but had no CPU.
    pub runqueue_ns: u64,
    /// Total of the waits for which the kernel half measured the last reader's thread.
    pub observed_ns: u64,
    /// Part of `observed_ns` in which the reader was running or runnable.
    pub reader_running_ns: u64,
    /// Part of `reader_running_ns` in which the reader was runnable but had no CPU.
    pub reader_runqueue_ns: u64,
    /// Waits whose begin is an estimate, because the thread slept before it was watched.
    pub estimated: u64,
    buckets: BTreeMap<u32, u64>,
}

impl Durations {
    /// Counts one duration.
    pub fn add(&mut self, ns: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
        *self.buckets.entry(bucket(ns)).or_default() += 1;
    }

    /// Adds the last reader's CPU time during a wait of `ns` that [`Durations::add`] has counted.
    pub fn observe(&mut self, ns: u64, reader: ReaderTime) {
        self.observed_ns = self.observed_ns.saturating_add(ns);
        self.reader_running_ns = self.reader_running_ns.saturating_add(reader.running_ns.min(ns));
        self.reader_runqueue_ns = self.reader_runqueue_ns.saturating_add(reader.runqueue_ns.min(ns));
    }

    /// Counts all durations of another distribution.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.runqueue_ns = self.runqueue_ns.saturating_add(other.runqueue_ns);
        self.observed_ns = self.observed_ns.saturating_add(other.observed_ns);
        self.reader_running_ns = self.reader_running_ns.saturating_add(other.reader_running_ns);
        self.reader_runqueue_ns = self.reader_runqueue_ns.saturating_add(other.reader_runqueue_ns);
        self.estimated += other.estimated;
        for (b, n) in &other.buckets {
            *self.buckets.entry(*b).or_default() += n;
        }
    }

    /// (upper bound in nanoseconds, count) of each bucket, shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().map(|(bucket, count)| (upper(*bucket), *count))
    }

    /// The duration that `percent` of all durations do not exceed; `None` if there is none.
    pub fn percentile_ns(&self, percent: u64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut below = 0;
        for (b, n) in &self.buckets {
            below += n;
            if below >= rank {
                return Some(upper(*b).min(self.max_ns));
            }
        }
        Some(self.max_ns)
    }
}

fn bucket(ns: u64) -> u32 {
    let bits = 64 - ns.leading_zeros();
    if bits <= PRECISION + 1 {
        return u32::try_from(ns).unwrap_or(u32::MAX);
    }
    let shift = bits - PRECISION - 1;
    (shift << PRECISION) + u32::try_from(ns >> shift).unwrap_or(0)
}

fn upper(bucket: u32) -> u64 {
    if bucket < 1 << (PRECISION + 1) {
        return u64::from(bucket);
    }
    let shift = (bucket >> PRECISION) - 1;
    let mantissa = u64::from(bucket - (shift << PRECISION));
    (mantissa << shift) | ((1 << shift) - 1)
}

/// CPU time of a reader's thread during a wait, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderTime {
    /// Running or runnable.
    pub running_ns: u64,
    /// Part of it in which the thread was runnable but had no CPU.
    pub runqueue_ns: u64,
}

/// The last successful reader of an object; of a semaphore, the process that operated on it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    pub proc: ProcId,
    pub ts_ns: u64,
    pub comm: String,
}

/// A process that waits in one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Waiter {
    pub proc: ProcId,
    pub call: u8,
    /// Semaphore number; 0 for other objects.
    pub part: u64,
}

impl Waiter {
    /// Name of the system call.
    pub fn call_name(self) -> &'static str {
        Syscall::from_raw(self.call).name()
    }
}

/// Waits of one waiter at one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaiterStalls {
    pub durations: Durations,
    /// Waits that ended with success.
    pub succeeded: Durations,
    pub last_tid: Tid,
    pub fd: i32,
    pub comm: String,
    pub first_ns: u64,
    pub last_ns: u64,
    /// End of the last successful wait.
    pub last_success_ns: Option<u64>,
    /// Waits that ended by their timeout.
    pub timed_out: Durations,
    /// User stack of the last wait that has one.
    pub stack: Option<StackId>,
}

/// Begin and end of a finished wait, or of an ongoing one until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    pub waiter: Waiter,
    pub since_ns: u64,
    pub until_ns: u64,
}

/// A sample of the last reader of an object, read from /proc while another thread waited at the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderSample {
    pub proc: ProcId,
    /// State letter of /proc/PID/stat.
    pub state: char,
    /// Number of the system call in which it slept.
    pub syscall: Option<i64>,
    pub stack: Option<StackId>,
    /// Kernel functions, innermost first (/proc/PID/stack).
    pub kernel: Vec<String>,
}

impl ReaderSample {
    pub(super) fn new(proc: ProcId, row: &ReaderSampleRow) -> Self {
        let kernel = row.kernel.clone();
        Self { proc, state: row.state, syscall: row.syscall, stack: row.stack.map(StackId), kernel }
    }
}

/// Waits at one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectStalls {
    pub waiters: BTreeMap<Waiter, WaiterStalls>,
    /// The newest finished waits.
    pub intervals: VecDeque<Interval>,
    /// State of the object at the begin of the newest wait.
    pub state: State,
    pub reader: Option<Reader>,
    /// Distinct reader samples and how often each was taken. Equal stacks may appear under several ids.
    pub samples: Vec<(ReaderSample, u64)>,
    pub dropped: u64,
}

impl ObjectStalls {
    /// Adds a sample if `room` allows a new one; returns how many distinct samples it added.
    ///
    /// When the object's own bound is reached, it first merges samples whose stacks have become known as equal.
    fn sampled(&mut self, sample: ReaderSample, room: bool, canonical: impl Fn(StackId) -> StackId) -> usize {
        if self.samples.len() >= MAX_SAMPLES {
            let mut merged: Vec<(ReaderSample, u64)> = Vec::new();
            for (mut sample, n) in std::mem::take(&mut self.samples) {
                sample.stack = sample.stack.map(&canonical);
                match merged.iter_mut().find(|(known, _)| *known == sample) {
                    Some((_, count)) => *count += n,
                    None => merged.push((sample, n)),
                }
            }
            self.samples = merged;
        }
        if let Some((_, count)) = self.samples.iter_mut().find(|(known, _)| *known == sample) {
            *count += 1;
            return 0;
        }
        if !room || self.samples.len() >= MAX_SAMPLES {
            self.dropped += 1;
            return 0;
        }
        self.samples.push((sample, 1));
        1
    }
}

/// A wait that had not ended at the last snapshot of blocked threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ongoing {
    pub obj: ObjKey,
    pub waiter: Waiter,
    pub tid: Tid,
    pub since_ns: u64,
    /// When the last snapshot was read.
    pub seen_ns: u64,
    pub fd: i32,
    pub comm: String,
    pub state: State,
    /// `since_ns` is an estimate, because the thread slept before it was watched.
    pub estimated: bool,
    pub stack: Option<StackId>,
}

/// All waits.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    objects: HashMap<ObjKey, ObjectStalls>,
    ongoing: HashMap<Tid, Ongoing>,
    /// Upper bound of the samples stored for all objects: merging does not lower it.
    samples: usize,
    pub dropped: u64,
}

/// A wait that ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub obj: ObjKey,
    pub waiter: Waiter,
    pub tid: Tid,
    pub comm: String,
    pub fd: i32,
    pub since_ns: u64,
    pub until_ns: u64,
    pub ret: i64,
    pub state: State,
    pub reader: Option<Reader>,
    /// Part of the wait in which the waiter was runnable again but had no CPU.
    pub runqueue_ns: u64,
    /// CPU time of the last reader's thread meanwhile, if the kernel half measured it.
    pub reader_time: Option<ReaderTime>,
    /// `since_ns` is an estimate, because the thread slept before it was watched.
    pub estimated: bool,
    pub stack: Option<StackId>,
}

impl Stalls {
    /// Objects at which a thread waited or waits, in no order.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjKey, &ObjectStalls)> {
        self.objects.iter()
    }

    /// Finished waits at one object.
    pub fn object(&self, obj: ObjKey) -> Option<&ObjectStalls> {
        self.objects.get(&obj)
    }

    /// Ongoing waits, oldest first.
    pub fn ongoing(&self) -> Vec<&Ongoing> {
        let mut all: Vec<&Ongoing> = self.ongoing.values().collect();
        all.sort_by_key(|o| (o.since_ns, o.tid));
        all
    }

    /// Ongoing waits at one object, oldest first.
    pub fn ongoing_at(&self, obj: ObjKey) -> Vec<&Ongoing> {
        self.ongoing().into_iter().filter(|o| o.obj == obj).collect()
    }

    /// Waits of a process with the object, oldest first: the newest finished ones of each object, and ongoing ones until
    /// `now_ns`.
    pub fn intervals_of(&self, proc: ProcId, now_ns: u64) -> Vec<(ObjKey, Interval)> {
        let mut out = Vec::new();
        for (obj, o) in &self.objects {
            if o.waiters.keys().any(|w| w.proc == proc) {
                out.extend(o.intervals.iter().filter(|i| i.waiter.proc == proc).map(|i| (*obj, *i)));
            }
        }
        for o in self.ongoing.values().filter(|o| o.waiter.proc == proc) {
            out.push((o.obj, Interval { waiter: o.waiter, since_ns: o.since_ns, until_ns: now_ns.max(o.seen_ns) }));
        }
        out.sort_by_key(|(obj, i)| (i.since_ns, *obj));
        out
    }

    /// Whether the object caused the wait: not if it was free again before `min_stall_ns` and the waiter only lacked a
    /// CPU.
    pub fn counts(wait_ns: u64, runqueue_ns: u64, min_stall_ns: u64) -> bool {
        runqueue_ns == 0 || wait_ns.saturating_sub(runqueue_ns) >= min_stall_ns
    }

    /// `thousandths` of a wait, nanoseconds.
    pub fn part_ns(wait_ns: u64, thousandths: u16) -> u64 {
        wait_ns / 1000 * u64::from(thousandths.min(1000))
    }

    /// Adds a finished wait, unless the object did not cause it ([`Stalls::counts`]).
    pub(super) fn ended(&mut self, e: Ended, min_stall_ns: u64) {
        if self.ongoing.get(&e.tid).is_some_and(|o| o.waiter.proc == e.waiter.proc) {
            self.ongoing.remove(&e.tid);
        }
        let ns = e.until_ns.saturating_sub(e.since_ns);
        if !Self::counts(ns, e.runqueue_ns, min_stall_ns) {
            return;
        }
        let Some(o) = self.object_mut(e.obj) else { return };
        o.state = e.state;
        if let Some(r) = e.reader {
            o.reader = Some(r);
        }
        if o.waiters.len() >= MAX_WAITERS && !o.waiters.contains_key(&e.waiter) {
            o.dropped += 1;
            self.dropped += 1;
            return;
        }
        let w = o.waiters.entry(e.waiter).or_default();
        if w.durations.count == 0 {
            w.first_ns = e.since_ns;
        }
        w.durations.add(ns);
        w.durations.runqueue_ns = w.durations.runqueue_ns.saturating_add(e.runqueue_ns);
        if let Some(time) = e.reader_time {
            w.durations.observe(ns, time);
        }
        w.durations.estimated += u64::from(e.estimated);
        if e.ret >= 0 {
            w.succeeded.add(ns);
            w.succeeded.estimated += u64::from(e.estimated);
            w.last_success_ns = Some(e.until_ns);
        }
        // semtimedop(2) returns EAGAIN both after a timeout and with IPC_NOWAIT, but the latter never waits.
        if e.ret == -ETIMEDOUT || (e.obj.kind == kind::SEM && e.ret == -EAGAIN) {
            w.timed_out.add(ns);
            w.timed_out.estimated += u64::from(e.estimated);
        }
        w.stack = e.stack.or(w.stack);
        w.last_tid = e.tid;
        w.fd = e.fd;
        w.comm = e.comm;
        w.last_ns = e.until_ns;
        if o.intervals.len() >= MAX_INTERVALS {
            o.intervals.pop_front();
        }
        o.intervals.push_back(Interval { waiter: e.waiter, since_ns: e.since_ns, until_ns: e.until_ns });
    }

    /// Replaces the ongoing waits by a new snapshot.
    pub(super) fn snapshot(&mut self, now: Vec<(Ongoing, Option<Reader>)>) {
        self.ongoing.clear();
        for (o, reader) in now {
            let state = o.state;
            if let Some(object) = self.object_mut(o.obj) {
                object.state = state;
                if reader.is_some() {
                    object.reader = reader;
                }
            }
            self.ongoing.insert(o.tid, o);
        }
    }

    /// Adds a sample of the reader of an object.
    pub(super) fn sampled(&mut self, obj: ObjKey, sample: ReaderSample, canonical: impl Fn(StackId) -> StackId) {
        let room = self.samples < MAX_ALL_SAMPLES;
        if let Some(object) = self.object_mut(obj) {
            self.samples += object.sampled(sample, room, canonical);
        }
    }

    pub(super) fn exited(&mut self, proc: ProcId) {
        self.ongoing.retain(|_, o| o.waiter.proc != proc);
    }

    fn object_mut(&mut self, obj: ObjKey) -> Option<&mut ObjectStalls> {
        if self.objects.len() >= MAX_OBJECTS && !self.objects.contains_key(&obj) {
            self.dropped += 1;
            return None;
        }
        Some(self.objects.entry(obj).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_narrow_and_ordered() {
        let mut last = 0;
        for ns in [0u64, 1, 63, 127, 128, 129, 1000, 100_000_000, 100_000_001, 500_000_000, u64::MAX / 2, u64::MAX] {
            let b = bucket(ns);
            assert!(b >= last, "{ns}");
            last = b;
            let up = upper(b);
            assert!(up >= ns, "{ns}: {up}");
            assert!(up - ns <= ns >> PRECISION, "{ns}: {up}");
        }
    }

    #[test]
    fn percentiles() {
        let mut d = Durations::default();
        assert_eq!(d.percentile_ns(50), None);
        for ms in 1..=100u64 {
            d.add(ms * 1_000_000);
        }
        for (percent, ms) in [(50u64, 50u64), (99, 99), (100, 100)] {
            let got = d.percentile_ns(percent).unwrap_or_default();
            assert!(got.abs_diff(ms * 1_000_000) <= ms * 1_000_000 / 50, "{percent}: {got}");
        }
        let mut one = Durations::default();
        one.add(123_456_789);
        assert_eq!(one.percentile_ns(50), Some(123_456_789));
    }
}
