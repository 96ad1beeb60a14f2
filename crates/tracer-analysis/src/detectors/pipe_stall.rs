//! `pipe-stall`: a writer was blocked for at least min-stall because no process read the pipe.
//!
//! Stalls spread upstream: a reader that is itself blocked further down is an effect, and is folded into its cause.

use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::blame::{PIPE_READERS, exited, inspection};
use crate::waits::reader::{AwaitedReader, MAX_READERS, and_activity, readers};
use crate::waits::stall::{Summary, objects, summary};
use crate::waits::{cascade, pace};
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_common::state::PipeState;
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// The waits at one pipe.
struct Case {
    obj: ObjKey,
    summary: Summary,
    readers: Vec<AwaitedReader>,
    /// The object whose stall caused this one, and the reader that connects them.
    cause: Option<(ObjKey, ProcId)>,
}

impl Case {
    fn sentence(&self, model: &Model, fill: &str) -> String {
        let id = self.obj.id;
        let object = if self.opening() { format!("of FIFO pipe:[{id}]") } else { format!("to pipe:[{id}]{fill}") };
        self.summary.sentence(model, &object)
    }

    /// Whether the waits are in opening a FIFO.
    fn opening(&self) -> bool {
        self.summary.waiting.first().is_some_and(|w| w.call.starts_with("open"))
    }

    /// Bytes that the pipe takes.
    fn capacity(&self, model: &Model) -> Option<u64> {
        let slots = self.summary.state.pipe().capacity_slots;
        (slots > 0).then(|| slots.saturating_mul(model.page_bytes()))
    }
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "pipe-stall",
    mechanism: Some(Mechanism::Pipe),
    family: Family::Stall,
    sites: &[Site::PipeWrite, Site::PipeSplice, Site::FifoOpen, Site::Blocked],
    what: "A writer blocks for a long time because no process reads from the pipe.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        pace::EVIDENCE,
        &[
            evidence::CAPACITY_BYTES,
            evidence::FILL_BYTES,
            evidence::SLOTS,
            evidence::SLOTS_USED,
            evidence::SUGGESTED_CAPACITY_BYTES,
            evidence::FD,
            evidence::EFFECTS,
            evidence::IDS,
            evidence::PIDS,
        ],
    ],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let cases: BTreeMap<ObjKey, Case> =
        objects(model, kind::PIPE).into_iter().filter_map(|obj| Some((obj, case(model, obj, now_ns)?))).collect();
    let roots: BTreeMap<ObjKey, Option<ObjKey>> = cases.keys().map(|obj| (*obj, root(&cases, *obj))).collect();
    let rings: Vec<Vec<&Case>> = cases.keys().filter_map(|obj| ring(&cases, *obj)).collect();
    let of_each_other = rings.iter().filter_map(|ring| report_ring(model, ring));
    let others = cases
        .values()
        .filter(|case| !rings.iter().flatten().any(|member| member.obj == case.obj))
        .filter(|case| !matches!(roots.get(&case.obj), Some(Some(root)) if cases.contains_key(root)))
        .filter_map(|case| {
            let effects: Vec<&Case> = cases.values().filter(|c| roots.get(&c.obj) == Some(&Some(case.obj))).collect();
            report(model, case, &effects, now_ns)
        });
    others.chain(of_each_other).collect()
}

fn case(model: &Model, obj: ObjKey, now_ns: u64) -> Option<Case> {
    let mut summary = summary(model, obj, None, now_ns, |s| s.durations.clone())?;
    let mut readers = readers(model, obj, &mut summary);
    readers.truncate(MAX_READERS);
    if pace::is_over(model, &summary, &readers) {
        return None;
    }
    let ids: Vec<ProcId> = readers.iter().map(|r| r.proc).collect();
    let cause = cascade::cause(model, obj, &summary.intervals, &ids, now_ns);
    Some(Case { obj, summary, readers, cause })
}

/// The ring of causes that begins with `obj`, its first member, if its waits are over: `deadlock` reports an ongoing one.
fn ring(cases: &BTreeMap<ObjKey, Case>, obj: ObjKey) -> Option<Vec<&Case>> {
    let mut members: Vec<&Case> = Vec::new();
    let mut at = obj;
    loop {
        let case = cases.get(&at).filter(|c| c.summary.ongoing == 0 && c.obj >= obj && members.len() < cases.len())?;
        members.push(case);
        at = case.cause?.0;
        if at == obj {
            return Some(members);
        }
    }
}

/// The members of a ring waited for each other: none of them excuses another.
fn report_ring(model: &Model, ring: &[&Case]) -> Option<Finding> {
    let longest = ring.iter().copied().max_by_key(|c| c.summary.durations.total_ns)?;
    let effects: Vec<&Case> = ring.iter().copied().filter(|c| c.obj != longest.obj).collect();
    let mut parties: Vec<ProcId> = ring.iter().flat_map(|c| c.summary.procs()).collect();
    parties.sort_unstable();
    parties.dedup();
    let shared_ns = ring.iter().map(|c| c.summary.durations.total_ns).min()?;
    let last_ns = ring.iter().map(|c| c.summary.last_ns).max()?;
    let ended = parties.iter().filter_map(|id| Some((model.processes.get(*id)?.exited_ns?, *id)));
    let until = match ended.filter(|(at, _)| *at <= last_ns).min() {
        Some((_, first)) => format!("until {} exited", name(model, first)),
        None => "until one of them continued".to_owned(),
    };
    let cause = format!("{} waited for each other for {}, {until}", names(model, &parties), duration(shared_ns));
    let mut d = builder(model, longest, &effects, &cause);
    d.chain(cause);
    d.remedy(
        "None of them may block in a write while another waits for its read: read in a thread of its own, or with poll().",
        None,
    );
    add_nonblocking_remedy(&mut d);
    d.finish()
}

/// The last object of the chain of causes; `None` if `obj` is its own cause, or part of a ring.
fn root(cases: &BTreeMap<ObjKey, Case>, obj: ObjKey) -> Option<ObjKey> {
    let mut seen = BTreeSet::from([obj]);
    let mut at = obj;
    while let Some((next, _)) = cases.get(&at).and_then(|c| c.cause) {
        if !seen.insert(next) {
            return None;
        }
        at = next;
    }
    (at != obj).then_some(at)
}

fn report(model: &Model, case: &Case, effects: &[&Case], now_ns: u64) -> Option<Finding> {
    let s = &case.summary;
    let mut d = builder(model, case, effects, &cause(model, case, now_ns));
    PIPE_READERS.add_chain(&mut d, model, &case.readers, s.ongoing > 0, now_ns);
    if let Some((obj, by)) = case.cause {
        d.chain(cascade::link(model, obj, by));
        d.severity(Severity::Info);
    }
    if case.opening() {
        d.remedy(
            "Start the process at the other end of the FIFO. With O_NONBLOCK open() does not block: for writing it fails \
             with ENXIO until a reader has the FIFO open.",
            None,
        );
    } else {
        add_remedies(&mut d, model, case);
    }
    d.finish()
}

/// A finding on a case, but for its remedies; its chain may continue.
fn builder<'a>(model: &'a Model, case: &Case, effects: &[&Case], cause: &str) -> FindingBuilder<'a> {
    let s = &case.summary;
    let PipeState { capacity_slots: slots, used_slots: used, used_bytes: fill } = s.state.pipe();
    let capacity = case.capacity(model);
    let mut d = FindingBuilder::new(model, &ROW, pace::severity(s));
    d.rests_on_events();
    s.name_waiters(&mut d, "writer");
    for r in &case.readers {
        d.process("reader", r.proc, None);
    }
    let full = capacity.filter(|_| s.ongoing > 0).map(|c| format!(" ({fill} of {c} bytes)")).unwrap_or_default();
    d.title(format!("{}: {cause}", case.sentence(model, &full)));
    d.object(object(case.obj));
    s.add_evidence(&mut d, model.session.min_stall_ns);
    d.evidence(evidence::CAPACITY_BYTES, capacity)
        .evidence(evidence::FILL_BYTES, capacity.map(|_| fill))
        .evidence(evidence::SLOTS, capacity.map(|_| slots))
        .evidence(evidence::SLOTS_USED, capacity.map(|_| used))
        .evidence(
            evidence::SUGGESTED_CAPACITY_BYTES,
            capacity.and_then(|c| suggested(s, c, model.limits.pipe_max_size)),
        );
    pace::add_evidence(&mut d, s);
    if let [only] = s.waiting.as_slice()
        && only.fd >= 0
    {
        d.evidence(evidence::FD, only.fd);
    }
    let mut group: Vec<ProcId> = s.procs();
    let mut ids = vec![case.obj.id.to_string()];
    for e in effects {
        d.chain(e.sentence(model, ""));
        group.extend(e.summary.procs());
        ids.push(e.obj.id.to_string());
    }
    if !effects.is_empty() {
        let pipes: Vec<String> = effects.iter().map(|e| format!("pipe:[{}]", e.obj.id)).collect();
        d.evidence(evidence::EFFECTS, pipes);
    }
    d.pids(group).ids(ids);
    d.chain(case.sentence(model, ""));
    d
}

fn cause(model: &Model, case: &Case, now_ns: u64) -> String {
    let s = &case.summary;
    if !case.opening() {
        let cause = PIPE_READERS.cause(model, s, &case.readers, now_ns);
        return cause.unwrap_or_else(|| "the reader is unknown".to_owned());
    }
    let (Some(first), Some(who)) = (case.readers.first(), PIPE_READERS.who(model, &case.readers)) else {
        return "nobody has opened the other end".to_owned();
    };
    match s.ongoing {
        0 => format!("{who}{} {}", exited(model, first.proc), pace::phrase(s, "opened the other end")),
        _ => format!("{who} has not opened the other end{}", and_activity(model, first.proc)),
    }
}

/// A capacity that bridges the pauses: the next power of two of rate x p99, with a rate of one capacity per time between two
/// stalls.
fn suggested(s: &Summary, capacity: u64, max: u64) -> Option<u64> {
    let n = s.durations.count;
    if n < 2 || s.ongoing > 0 {
        return None;
    }
    let moving_ns = s.last_ns.saturating_sub(s.first_ns).checked_sub(s.durations.total_ns)? / (n - 1);
    if moving_ns == 0 {
        return None;
    }
    let p99 = s.durations.percentile_ns(99)?;
    let bytes = u128::from(capacity) * u128::from(p99) / u128::from(moving_ns);
    let bytes = u64::try_from(bytes).ok()?.max(capacity.saturating_add(1)).checked_next_power_of_two()?;
    (max == 0 || bytes <= max).then_some(bytes)
}

fn suggested_or_double(s: &Summary, capacity: Option<u64>, max: u64) -> Option<u64> {
    let capacity = capacity?;
    let bytes = suggested(s, capacity, max).unwrap_or(capacity.saturating_mul(16));
    Some(if max == 0 { bytes } else { bytes.min(max) })
}

fn add_remedies(d: &mut FindingBuilder<'_>, model: &Model, case: &Case) {
    let s = &case.summary;
    let capacity = case.capacity(model);
    let first = case.readers.first();
    if let Some(r) = first {
        let what = "See what the reader does instead of reading. A parent that waits for its child must first read the \
                    child's pipe to its end.";
        d.remedy_if_alive(r.proc, what, inspection(r.proc));
    }
    if !pace::add_remedy(d, s, "reader", "pipe")
        && let Some(capacity) = capacity
        && let Some(larger) = suggested_or_double(s, Some(capacity), model.limits.pipe_max_size)
        && larger > capacity
        && s.ongoing == 0
        && !first.is_some_and(|r| r.never_read(s))
    {
        d.remedy(
            format!("Let the pipe bridge the pauses: fcntl(fd, F_SETPIPE_SZ, {larger}) (now {capacity} bytes)."),
            Some("cat /proc/sys/fs/pipe-max-size".to_owned()),
        );
    }
    let pipe = s.state.pipe();
    let full = pipe.capacity_slots > 0 && pipe.is_full();
    if capacity.is_some_and(|c| full && pipe.used_bytes > 0 && pipe.used_bytes < c / 2) {
        d.remedy("Write in larger pieces: each small write takes a whole slot of the pipe.", None);
    }
    add_nonblocking_remedy(d);
}

fn add_nonblocking_remedy(d: &mut FindingBuilder<'_>) {
    d.remedy(
        "If the writer must not block, set O_NONBLOCK on its end and keep what does not fit in a bounded buffer. The flag \
         belongs to the open file description: every process that inherited this end gets EAGAIN, too.",
        None,
    );
}

#[cfg(test)]
#[path = "pipe_stall_tests.rs"]
mod tests;
