//! Waits at one object, summed up for a verdict.

use crate::finding::builder::FindingBuilder;
use crate::finding::evidence::{self, Evidence};
use crate::finding::time::{duration, milliseconds};
use crate::model::Model;
use crate::model::stall::{Durations, Interval, Look, Reader, WaiterStalls};
use crate::waits::chain::reticence;
use std::collections::{BTreeMap, BTreeSet};
use tracer_record::{ObjKey, State};
use tracer_record::{ProcId, StackId, Tid};

/// An ongoing wait longer than this is critical.
pub(crate) const CRITICAL_NS: u64 = 10_000_000_000;

/// Places shown at which processes waited.
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
    /// Length of its longest wait that lasts.
    pub ongoing_ns: Option<u64>,
}

/// What [`Summary::tell`] fills in.
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
    /// Waits that their time-out ended, and with success.
    pub timed_out: u64,
    pub succeeded: u64,
    /// What readers were found doing meanwhile, most often first.
    pub looks: Vec<Looked>,
}

/// Something that a reader was found doing while somebody waited.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    /// "in fsync, at /src/store.c:41 in flush".
    pub words: String,
    pub times: u64,
    pub proc: ProcId,
    /// State letter of /proc.
    pub state: char,
    pub stack: Option<StackId>,
    /// Functions of the kernel that it slept in, innermost first.
    pub kernel: Vec<String>,
}

impl Looked {
    /// Held up by something else than its own work.
    pub(crate) fn is_asleep(&self) -> bool {
        self.state != 'R'
    }
}

impl Summary {
    /// The processes that waited, longest first.
    pub(crate) fn procs(&self) -> Vec<ProcId> {
        let mut out = Vec::new();
        for w in &self.waiting {
            if !out.contains(&w.proc) {
                out.push(w.proc);
            }
        }
        out
    }

    /// Whether it is over without that process having read: no wait ended with success, and no read of it was ever seen.
    pub(crate) fn unread_by(&self, reader: &ReadBy) -> bool {
        self.ongoing == 0 && self.succeeded == 0 && reader.read_ns.is_none()
    }

    /// Keeps, of what readers were found doing, what is about the one that is blamed.
    pub(crate) fn told_of(&mut self, readers: &[ReadBy]) {
        if let Some(blamed) = readers.first() {
            self.looks.retain(|l| l.proc == blamed.proc);
        }
    }

    /// Names the processes that waited in a role, with where they did.
    pub(crate) fn name_waiters(&self, builder: &mut FindingBuilder<'_>, role: &'static str) {
        for w in &self.waiting {
            builder.subject(role, w.proc, Some(w.tid));
        }
        builder.stacks(role, self.waiting.iter().map(|w| (w.proc, w.stack)), STACKS_MAX);
    }

    /// Fills in the evidence that all stalls share.
    pub(crate) fn tell(&self, builder: &mut FindingBuilder<'_>, min_stall_ns: u64) {
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

    /// ", of which 2 ended at their time-out", or nothing.
    pub(crate) fn gave_up(&self) -> String {
        match self.timed_out {
            0 => String::new(),
            1 => ", of which 1 ended at its time-out".to_owned(),
            n => format!(", of which {n} ended at their time-out"),
        }
    }

    /// "is blocked 8.2 s in write" or "waited 10 times, 5.0 s in all, 510 ms at most, in write".
    pub(crate) fn words(&self) -> String {
        let call = self.waiting.first().map_or("?", |w| w.call);
        let d = &self.durations;
        let before = d.count.saturating_sub(self.ongoing);
        if self.ongoing > 0 {
            let earlier = if before > 0 { format!(" (and {before} times before)") } else { String::new() };
            let verb = if self.ongoing > 1 { "threads are" } else { "is" };
            let who = if self.ongoing > 1 { format!("{} ", self.ongoing) } else { String::new() };
            let about = if self.about { "about " } else { "" };
            return format!("{who}{verb} blocked {about}{} in {call}{earlier}", duration(self.longest_ongoing_ns));
        }
        if d.count == 1 {
            return format!("waited {} in {call}", duration(d.max_ns));
        }
        let (total, max) = (duration(d.total_ns), duration(d.max_ns));
        format!("waited {} times, {total} in all, {max} at most, in {call}", d.count)
    }
}

/// Objects of one kind at which somebody waited or waits.
pub(crate) fn objects(model: &Model, kind: u32) -> Vec<ObjKey> {
    let finished = model.stalls.objects().map(|(obj, _)| *obj);
    let lasting = model.stalls.ongoing().into_iter().map(|o| o.obj);
    let all: BTreeSet<ObjKey> = finished.chain(lasting).filter(|o| o.kind == kind).collect();
    all.into_iter().collect()
}

/// Sums up the waits at `obj`; `part` picks one semaphore, `finished` what to take of a waiter's finished waits.
pub(crate) fn summary(
    model: &Model,
    obj: ObjKey,
    part: Option<u64>,
    now_ns: u64,
    finished: impl Fn(&WaiterStalls) -> Durations,
) -> Option<Summary> {
    summary_of(model, &[obj], part, now_ns, finished)
}

/// The same of an object that has several keys.
pub(crate) fn summary_of(
    model: &Model,
    keys: &[ObjKey],
    part: Option<u64>,
    now_ns: u64,
    finished: impl Fn(&WaiterStalls) -> Durations,
) -> Option<Summary> {
    let mut durations = Durations::default();
    let mut state = State::default();
    let mut waiting: BTreeMap<ProcId, Waiting> = BTreeMap::new();
    let (mut first_ns, mut last_ns) = (u64::MAX, 0);
    let mut intervals = Vec::new();
    let (mut timed_out, mut succeeded) = (0, 0);
    let wanted = |p: u64| part.is_none_or(|part| part == p);
    for o in keys.iter().filter_map(|key| model.stalls.object(*key)) {
        state = o.state;
        for (waiter, s) in o.waiters.iter().filter(|(w, _)| wanted(w.part)) {
            let took = finished(s);
            if took.count == 0 {
                continue;
            }
            durations.merge(&took);
            timed_out += s.timed_out.count;
            succeeded += s.succeeded.count;
            first_ns = first_ns.min(s.first_ns);
            last_ns = last_ns.max(s.last_ns);
            let w = waiting.entry(waiter.proc).or_insert_with(|| Waiting {
                proc: waiter.proc,
                tid: s.last_tid,
                fd: s.fd,
                call: waiter.call_name(),
                total_ns: 0,
                stack: None,
                ongoing_ns: None,
            });
            w.stack = s.stack.or(w.stack);
            w.total_ns = w.total_ns.saturating_add(took.total_ns);
        }
        intervals.extend(o.intervals.iter().filter(|i| wanted(i.waiter.part)).copied());
    }
    let (mut ongoing, mut longest_ongoing_ns, mut about) = (0, 0, false);
    let lasting = model.stalls.ongoing().into_iter().filter(|o| keys.contains(&o.obj));
    for o in lasting.filter(|o| wanted(o.waiter.part)) {
        let until_ns = now_ns.max(o.seen_ns);
        let ns = until_ns.saturating_sub(o.since_ns);
        if ns < model.session.min_stall_ns {
            continue;
        }
        durations.add(ns);
        durations.estimated += u64::from(o.estimated);
        ongoing += 1;
        if longest_ongoing_ns < ns {
            longest_ongoing_ns = ns;
            about = o.estimated;
            state = o.state;
        }
        first_ns = first_ns.min(o.since_ns);
        last_ns = last_ns.max(until_ns);
        let w = waiting.entry(o.waiter.proc).or_insert_with(|| Waiting {
            proc: o.waiter.proc,
            tid: o.tid,
            fd: o.fd,
            call: o.waiter.call_name(),
            total_ns: 0,
            stack: None,
            ongoing_ns: None,
        });
        w.tid = o.tid;
        w.call = o.waiter.call_name();
        w.stack = o.stack.or(w.stack);
        w.total_ns = w.total_ns.saturating_add(ns);
        w.ongoing_ns = w.ongoing_ns.max(Some(ns));
        intervals.push(Interval { waiter: o.waiter, since_ns: o.since_ns, until_ns });
    }
    if durations.count == 0 {
        return None;
    }
    let mut waiting: Vec<Waiting> = waiting.into_values().collect();
    waiting.sort_by_key(|w| (std::cmp::Reverse((w.ongoing_ns, w.total_ns)), w.proc));
    Some(Summary {
        durations,
        ongoing,
        longest_ongoing_ns,
        about,
        first_ns,
        last_ns,
        state,
        waiting,
        intervals,
        timed_out,
        succeeded,
        looks: looks(model, keys),
    })
}

/// What the readers of an object were found doing, the same things together.
fn looks(model: &Model, keys: &[ObjKey]) -> Vec<Looked> {
    let mut all: BTreeMap<(ProcId, String), Looked> = BTreeMap::new();
    for (look, n) in keys.iter().filter_map(|key| model.stalls.object(*key)).flat_map(|o| &o.looks) {
        let words = found(model, look);
        let known = all.entry((look.proc, words.clone())).or_insert_with(|| Looked {
            words,
            times: 0,
            proc: look.proc,
            state: look.state,
            stack: look.stack,
            kernel: look.kernel.clone(),
        });
        known.times += n;
    }
    let mut all: Vec<Looked> = all.into_values().collect();
    all.sort_by_key(|l| std::cmp::Reverse(l.times));
    all
}

fn found(model: &Model, look: &Look) -> String {
    let state = match look.state {
        'R' => return "running or ready to run".to_owned(),
        'T' | 't' => return "stopped".to_owned(),
        'D' => "in uninterruptible sleep (state D)",
        _ => "asleep",
    };
    let call = look.syscall.and_then(|nr| crate::finding::syscall::name(&model.session.arch, nr));
    let site = look.stack.and_then(|stack| crate::finding::site::of(model, stack)).map(|site| format!(", at {site}"));
    let site = site.unwrap_or_default();
    match (call, look.state) {
        (Some(call), 'D') => format!("{state} in {call}{site}"),
        (Some(call), _) => format!("in {call}{site}"),
        (None, _) => format!("{state}{site}"),
    }
}

/// A process that should read.
#[derive(Clone, Debug)]
pub(crate) struct ReadBy {
    pub proc: ProcId,
    /// Its last successful read; `None` if none was seen.
    pub read_ns: Option<u64>,
}

/// Who reads the object: the last reader seen, else those that have it open for reading: a stopped one first, and one that
/// is held up itself before an idle one.
///
/// The waiting process itself is named only if nobody else can read. Of what readers were found doing, only that of the
/// first one stays.
pub(crate) fn readers(model: &Model, obj: ObjKey, s: &mut Summary) -> Vec<ReadBy> {
    let last = model.stalls.object(obj).and_then(|o| o.reader.as_ref());
    let readers = readers_from(model, obj, &s.procs(), last, s.ongoing > 0);
    s.told_of(&readers);
    readers
}

/// As [`readers`], with the last reader given; `lasts`: somebody waits for it still, so one that has ended will not read.
pub(crate) fn readers_from(
    model: &Model,
    obj: ObjKey,
    waiting: &[ProcId],
    last: Option<&Reader>,
    lasts: bool,
) -> Vec<ReadBy> {
    let mut others = Vec::new();
    let mut own = Vec::new();
    if let Some(h) = model.pipes.holders(obj) {
        for holder in h.holders.iter().filter(|h| h.reads != Some(false)) {
            let id = model.processes.resolve(holder.tgid, holder.start_ns);
            if model.processes.is_self(id) {
                continue;
            }
            let to = if waiting.contains(&id) { &mut own } else { &mut others };
            if !to.contains(&id) {
                to.push(id);
            }
        }
    }
    let by = |id: ProcId| ReadBy { proc: id, read_ns: last.filter(|r| r.proc == id).map(|r| r.ts_ns) };
    if let Some(r) = last {
        let awaited = !waiting.contains(&r.proc) && (!lasts || model.processes.alive(r.proc));
        if awaited || others.is_empty() {
            return vec![by(r.proc)];
        }
    }
    let stopped = |id: &ProcId| model.processes.get(*id).is_some_and(|p| matches!(p.state, Some('T' | 't')));
    others.sort_by_key(|id| (!stopped(id), if lasts { reticence(model, *id) } else { 0 }));
    if others.is_empty() { own.into_iter().map(by).collect() } else { others.into_iter().map(by).collect() }
}

/// Whether nobody but those that wait has it open, as far as that is known; in words.
pub(crate) fn nobody_else(model: &Model, obj: ObjKey, waiting: &[ProcId], readers: &[ReadBy]) -> Option<&'static str> {
    let own = |r: &ReadBy| waiting.contains(&r.proc) && r.read_ns.is_none();
    if readers.is_empty() || !readers.iter().all(own) {
        return None;
    }
    let complete = model.pipes.holders(obj).is_some_and(|h| h.complete);
    Some(if complete { "nobody else has it open" } else { "nobody else was seen to have it open" })
}

/// What a living process does instead, as far as /proc told: " and is stopped (state T)", " and waits in wait4".
pub(crate) fn doing(model: &Model, id: ProcId) -> Option<String> {
    let p = model.processes.get(id).filter(|p| p.alive() && p.row_ns > 0)?;
    match p.state {
        Some('T' | 't') => return Some("is stopped (state T)".to_owned()),
        Some('D') => return Some("is in uninterruptible sleep (state D)".to_owned()),
        _ => {}
    }
    let call = crate::finding::syscall::name(&model.session.arch, p.syscall?)?;
    Some(format!("waits in {call}"))
}
