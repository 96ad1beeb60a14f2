//! Waits at one object, summed up for a finding.

use crate::finding::builder::{FindingBuilder, count, names};
use crate::finding::evidence::{self, Evidence};
use crate::finding::time::{duration, milliseconds};
use crate::finding::{site, syscall};
use crate::model::Model;
use crate::model::stall::{Durations, Interval, Ongoing, ReaderSample, Waiter, WaiterStalls};
use std::collections::{BTreeMap, BTreeSet};
use tracer_record::{ObjKey, State};
use tracer_record::{ProcId, StackId, Tid};

/// An ongoing wait longer than this is critical.
pub(crate) const CRITICAL_NS: u64 = 10_000_000_000;

/// Stacks shown of waiting threads.
const STACKS_MAX: usize = 3;

/// One process that waited.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub proc: ProcId,
    pub tid: Tid,
    pub fd: i32,
    pub call: &'static str,
    pub total_ns: u64,
    /// Where it waits, or waited last.
    pub stack: Option<StackId>,
    /// Length of its longest ongoing wait.
    pub ongoing_ns: Option<u64>,
}

impl Waiting {
    fn new(waiter: Waiter, tid: Tid, fd: i32) -> Self {
        let call = waiter.call_name();
        Self { proc: waiter.proc, tid, fd, call, total_ns: 0, stack: None, ongoing_ns: None }
    }
}

/// The evidence that [`Summary::add_evidence`] adds.
pub(crate) const EVIDENCE: &[Evidence] = &[
    evidence::STALLS,
    evidence::TOTAL_MS,
    evidence::MAX_MS,
    evidence::P50_MS,
    evidence::P99_MS,
    evidence::ONGOING,
    evidence::MIN_STALL_MS,
    evidence::BEGAN_BEFORE_START,
];

/// All waits of at least min-stall at one object (of a semaphore set: at one semaphore).
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub durations: Durations,
    pub ongoing: u64,
    pub longest_ongoing_ns: u64,
    /// That length is an estimate.
    pub about: bool,
    pub first_ns: u64,
    pub last_ns: u64,
    pub state: State,
    /// Longest waiters first.
    pub waiting: Vec<Waiting>,
    pub intervals: Vec<Interval>,
    /// Waits that ended by their timeout, and with success.
    pub timed_out: u64,
    pub succeeded: u64,
    /// What samples of the readers showed meanwhile, most often first.
    pub samples: Vec<ReaderActivity>,
}

/// The same activity of a reader in one or more samples while a thread waited.
#[derive(Clone, Debug)]
pub(crate) struct ReaderActivity {
    /// "in fsync, at /src/store.c:41 in flush".
    pub activity: String,
    pub times: u64,
    pub proc: ProcId,
    /// State letter of /proc.
    pub state: char,
    pub stack: Option<StackId>,
    /// Functions of the kernel that it slept in, innermost first.
    pub kernel: Vec<String>,
}

impl ReaderActivity {
    /// Whether the reader was held up by something else than its own work.
    pub(crate) fn is_asleep(&self) -> bool {
        self.state != 'R'
    }
}

impl Summary {
    /// The processes that waited, longest first.
    pub(crate) fn procs(&self) -> Vec<ProcId> {
        procs(&self.waiting)
    }

    /// Drops the samples of other readers than the blamed one, if there is one.
    pub(crate) fn keep_samples_of(&mut self, blamed: Option<ProcId>) {
        if let Some(blamed) = blamed {
            self.samples.retain(|l| l.proc == blamed);
        }
    }

    /// Names the processes that waited in a role, with their stacks.
    pub(crate) fn name_waiters(&self, builder: &mut FindingBuilder<'_>, role: &'static str) {
        for w in &self.waiting {
            builder.subject(role, w.proc, Some(w.tid));
        }
        builder.stacks(role, self.waiting.iter().map(|w| (w.proc, w.stack)), STACKS_MAX);
    }

    /// Adds the evidence that all stalls share.
    pub(crate) fn add_evidence(&self, builder: &mut FindingBuilder<'_>, min_stall_ns: u64) {
        builder
            .evidence(evidence::STALLS, self.durations.count)
            .ms(evidence::TOTAL_MS, Some(self.durations.total_ns))
            .ms(evidence::MAX_MS, Some(self.durations.max_ns))
            .ms(evidence::P50_MS, self.durations.percentile_ns(50))
            .ms(evidence::P99_MS, self.durations.percentile_ns(99))
            .evidence(evidence::ONGOING, self.ongoing)
            .evidence(evidence::MIN_STALL_MS, milliseconds(min_stall_ns))
            .origin(self.durations.estimated == self.durations.count)
            .seen(self.first_ns, self.last_ns);
        if self.durations.estimated > 0 {
            builder.evidence(evidence::BEGAN_BEFORE_START, self.durations.estimated);
        }
    }

    /// The waits as a sentence; `object` begins with its preposition: "to pipe:[9]".
    ///
    /// "x (12) has been blocked for 8.2 s in write() to pipe:[9]", or
    /// "x (12) blocked 3 times in write() to pipe:[9] for 1.5 s in total (max 501 ms)".
    pub(crate) fn sentence(&self, model: &Model, object: &str) -> String {
        if self.ongoing > 0 {
            return self.ongoing_sentence(model, object);
        }
        let who = names(model, &self.procs());
        let call = self.call();
        let d = &self.durations;
        let (total, max) = (duration(d.total_ns), duration(d.max_ns));
        if d.count == 1 {
            let timed_out = if self.timed_out > 0 { " (timed out)" } else { "" };
            return format!("{who} blocked for {max} in {call}() {object}{timed_out}");
        }
        let timed_out = if self.timed_out > 0 { format!(", {} timed out", self.timed_out) } else { String::new() };
        format!("{who} blocked {} times in {call}() {object} for {total} in total (max {max}{timed_out})", d.count)
    }

    fn ongoing_sentence(&self, model: &Model, object: &str) -> String {
        let blocked = procs(self.waiting.iter().filter(|w| w.ongoing_ns.is_some()));
        let others: Vec<ProcId> = self.procs().into_iter().filter(|p| !blocked.contains(p)).collect();
        let who = match self.ongoing {
            1 => format!("{} has", names(model, &blocked)),
            n => format!("{n} threads of {} have", names(model, &blocked)),
        };
        let up_to = if self.ongoing > 1 { "up to " } else { "" };
        let about = if self.about { "about " } else { "" };
        let earlier = match self.durations.count.saturating_sub(self.ongoing) {
            0 => String::new(),
            n => {
                let also = if others.is_empty() { String::new() } else { format!(", also {}", names(model, &others)) };
                let out = if self.timed_out > 0 { format!(", {} timed out", self.timed_out) } else { String::new() };
                format!(" ({} before{also}{out})", count(n, "time", "times"))
            }
        };
        let time = duration(self.longest_ongoing_ns);
        format!("{who} been blocked for {up_to}{about}{time} in {}() {object}{earlier}", self.call())
    }

    fn call(&self) -> &'static str {
        self.waiting.first().map_or("?", |w| w.call)
    }
}

fn procs<'a>(waiting: impl IntoIterator<Item = &'a Waiting>) -> Vec<ProcId> {
    let mut out = Vec::new();
    for w in waiting {
        if !out.contains(&w.proc) {
            out.push(w.proc);
        }
    }
    out
}

/// Objects of one kind at which threads waited or wait.
pub(crate) fn objects(model: &Model, kind: u32) -> Vec<ObjKey> {
    let finished = model.stalls.objects().map(|(obj, _)| *obj);
    let lasting = model.stalls.ongoing().into_iter().map(|o| o.obj);
    let all: BTreeSet<ObjKey> = finished.chain(lasting).filter(|o| o.kind == kind).collect();
    all.into_iter().collect()
}

/// Sums up the waits at `obj`; `part` selects one semaphore, `finished` which finished waits of a waiter count.
pub(crate) fn summary(
    model: &Model,
    obj: ObjKey,
    part: Option<u64>,
    now_ns: u64,
    finished: impl Fn(&WaiterStalls) -> Durations,
) -> Option<Summary> {
    summary_of(model, &[obj], part, now_ns, finished)
}

/// As [`summary`], for an object that has several keys.
pub(crate) fn summary_of(
    model: &Model,
    keys: &[ObjKey],
    part: Option<u64>,
    now_ns: u64,
    finished: impl Fn(&WaiterStalls) -> Durations,
) -> Option<Summary> {
    let mut sum = Sum::default();
    let wanted = |p: u64| part.is_none_or(|part| part == p);
    for o in keys.iter().filter_map(|key| model.stalls.object(*key)) {
        sum.state = o.state;
        for (waiter, stalls) in o.waiters.iter().filter(|(w, _)| wanted(w.part)) {
            sum.add_finished(*waiter, stalls, &finished(stalls));
        }
        sum.intervals.extend(o.intervals.iter().filter(|i| wanted(i.waiter.part)).copied());
    }
    let ongoing = model.stalls.ongoing().into_iter().filter(|o| keys.contains(&o.obj));
    for o in ongoing.filter(|o| wanted(o.waiter.part)) {
        sum.add_ongoing(o, now_ns, model.session.min_stall_ns);
    }
    sum.finish(model, keys)
}

/// A summary in the making.
#[derive(Default)]
struct Sum {
    durations: Durations,
    ongoing: u64,
    longest_ongoing_ns: u64,
    about: bool,
    first_ns: Option<u64>,
    last_ns: u64,
    state: State,
    waiting: BTreeMap<ProcId, Waiting>,
    intervals: Vec<Interval>,
    timed_out: u64,
    succeeded: u64,
}

impl Sum {
    fn add_finished(&mut self, waiter: Waiter, stalls: &WaiterStalls, took: &Durations) {
        if took.count == 0 {
            return;
        }
        self.durations.merge(took);
        self.timed_out += stalls.timed_out.count;
        self.succeeded += stalls.succeeded.count;
        self.note_times(stalls.first_ns, stalls.last_ns);
        let new = || Waiting::new(waiter, stalls.last_tid, stalls.fd);
        let w = self.waiting.entry(waiter.proc).or_insert_with(new);
        w.stack = stalls.stack.or(w.stack);
        w.total_ns = w.total_ns.saturating_add(took.total_ns);
    }

    fn add_ongoing(&mut self, o: &Ongoing, now_ns: u64, min_stall_ns: u64) {
        let until_ns = now_ns.max(o.seen_ns);
        let ns = until_ns.saturating_sub(o.since_ns);
        if ns < min_stall_ns {
            return;
        }
        self.durations.add(ns);
        self.durations.estimated += u64::from(o.estimated);
        self.ongoing += 1;
        if self.longest_ongoing_ns < ns {
            self.longest_ongoing_ns = ns;
            self.about = o.estimated;
            self.state = o.state;
        }
        self.note_times(o.since_ns, until_ns);
        let w = self.waiting.entry(o.waiter.proc).or_insert_with(|| Waiting::new(o.waiter, o.tid, o.fd));
        w.tid = o.tid;
        w.call = o.waiter.call_name();
        w.stack = o.stack.or(w.stack);
        w.total_ns = w.total_ns.saturating_add(ns);
        w.ongoing_ns = w.ongoing_ns.max(Some(ns));
        self.intervals.push(Interval { waiter: o.waiter, since_ns: o.since_ns, until_ns });
    }

    fn note_times(&mut self, first_ns: u64, last_ns: u64) {
        self.first_ns = Some(self.first_ns.map_or(first_ns, |known| known.min(first_ns)));
        self.last_ns = self.last_ns.max(last_ns);
    }

    /// `None` if no wait was long enough.
    fn finish(self, model: &Model, keys: &[ObjKey]) -> Option<Summary> {
        let first_ns = self.first_ns?;
        let mut waiting: Vec<Waiting> = self.waiting.into_values().collect();
        waiting.sort_by_key(|w| (std::cmp::Reverse((w.ongoing_ns, w.total_ns)), w.proc));
        Some(Summary {
            durations: self.durations,
            ongoing: self.ongoing,
            longest_ongoing_ns: self.longest_ongoing_ns,
            about: self.about,
            first_ns,
            last_ns: self.last_ns,
            state: self.state,
            waiting,
            intervals: self.intervals,
            timed_out: self.timed_out,
            succeeded: self.succeeded,
            samples: samples(model, keys),
        })
    }
}

/// What samples showed the readers of an object doing; equal activities are one.
fn samples(model: &Model, keys: &[ObjKey]) -> Vec<ReaderActivity> {
    let mut all: BTreeMap<(ProcId, String), ReaderActivity> = BTreeMap::new();
    for (sample, n) in keys.iter().filter_map(|key| model.stalls.object(*key)).flat_map(|o| &o.samples) {
        let activity = sampled_activity(model, sample);
        let known = all.entry((sample.proc, activity.clone())).or_insert_with(|| ReaderActivity {
            activity,
            times: 0,
            proc: sample.proc,
            state: sample.state,
            stack: sample.stack,
            kernel: sample.kernel.clone(),
        });
        known.times += n;
    }
    let mut all: Vec<ReaderActivity> = all.into_values().collect();
    all.sort_by_key(|l| std::cmp::Reverse(l.times));
    all
}

fn sampled_activity(model: &Model, sample: &ReaderSample) -> String {
    let state = match sample.state {
        'R' => return "running or runnable".to_owned(),
        'T' | 't' => return "stopped".to_owned(),
        'D' => "in uninterruptible sleep (state D)",
        _ => "asleep",
    };
    let call = sample.syscall.and_then(|nr| syscall::name(&model.session.arch, nr));
    let site = sample.stack.and_then(|stack| site::of(model, stack)).map(|site| format!(", at {site}"));
    let site = site.unwrap_or_default();
    match (call, sample.state) {
        (Some(call), 'D') => format!("{state} in {call}{site}"),
        (Some(call), _) => format!("in {call}{site}"),
        (None, _) => format!("{state}{site}"),
    }
}
