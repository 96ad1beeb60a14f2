//! `pipe-stall`: a writer waited at least min-stall because nobody read the pipe.
//!
//! Stalls cascade upstream: a reader that is itself blocked further down is an effect, and is folded into its cause.

use crate::finding;
use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::stall::{ReadBy, Summary, doing, objects, readers, summary};
use crate::waits::{cascade, pace};
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// Readers named.
const MAX_READERS: usize = 4;
struct Case {
    obj: ObjKey,
    summary: Summary,
    readers: Vec<ReadBy>,
    /// What this stall is an effect of, and the reader between them.
    cause: Option<(ObjKey, ProcId)>,
}

impl Case {
    fn line(&self, model: &Model) -> String {
        let writers = names(model, &self.summary.procs());
        format!("{writers} {} (pipe:[{}])", self.summary.words(), self.obj.id)
    }

    /// It is a FIFO that is being opened.
    fn opening(&self) -> bool {
        self.summary.waiting.first().is_some_and(|w| w.call.starts_with("open"))
    }

    /// Bytes that the pipe takes.
    fn capacity(&self, model: &Model) -> Option<u64> {
        let slots = self.summary.state.a;
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
    let cases: BTreeMap<ObjKey, Case> = objects(model, kind::PIPE)
        .into_iter()
        .filter_map(|obj| {
            let mut summary = summary(model, obj, None, now_ns, |s| s.durations.clone())?;
            let mut readers = readers(model, obj, &mut summary);
            readers.truncate(MAX_READERS);
            let ids: Vec<ProcId> = readers.iter().map(|r| r.proc).collect();
            if pace::is_over(model, &summary, &readers) {
                return None;
            }
            let cause = cascade::cause(model, obj, &summary.intervals, &ids, now_ns);
            Some((obj, Case { obj, summary, readers, cause }))
        })
        .collect();
    let roots: BTreeMap<ObjKey, Option<ObjKey>> = cases.keys().map(|obj| (*obj, root(&cases, *obj))).collect();
    let rings: Vec<Vec<&Case>> = cases.keys().filter_map(|obj| ring(&cases, *obj)).collect();
    let of_each_other = rings.iter().filter_map(|ring| told_ring(model, ring));
    let others = cases
        .values()
        .filter(|case| !rings.iter().flatten().any(|member| member.obj == case.obj))
        .filter(|case| !matches!(roots.get(&case.obj), Some(Some(root)) if cases.contains_key(root)))
        .filter_map(|case| {
            let effects: Vec<&Case> = cases.values().filter(|c| roots.get(&c.obj) == Some(&Some(case.obj))).collect();
            told(model, case, &effects, now_ns)
        });
    others.chain(of_each_other).collect()
}

/// The ring of causes that begins with `obj`, its first member, if it is over: what lasts is a deadlock, told as such.
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

/// Those of a ring waited for each other: none of them excuses another.
fn told_ring(model: &Model, ring: &[&Case]) -> Option<Finding> {
    let longest = ring.iter().copied().max_by_key(|c| c.summary.durations.total_ns)?;
    let effects: Vec<&Case> = ring.iter().copied().filter(|c| c.obj != longest.obj).collect();
    let mut parties: Vec<ProcId> = ring.iter().flat_map(|c| c.summary.procs()).collect();
    parties.sort_unstable();
    parties.dedup();
    let shared_ns = ring.iter().map(|c| c.summary.durations.total_ns).min()?;
    let last_ns = ring.iter().map(|c| c.summary.last_ns).max()?;
    let ended = parties.iter().filter_map(|id| Some((model.processes.get(*id)?.exited_ns?, *id)));
    let until = match ended.filter(|(at, _)| *at <= last_ns).min() {
        Some((_, first)) => format!("until {} ended", name(model, first)),
        None => "until one of them went on".to_owned(),
    };
    let blame = format!("{} waited for each other for {}, {until}", names(model, &parties), duration(shared_ns));
    let mut d = drafted(model, longest, &effects, &blame);
    d.chain(blame);
    let both =
        "None of them may wait for a write while another waits to be read: read in a thread of its own or with poll().";
    d.remedy(both, None);
    without_waiting(&mut d);
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

/// A finding on a case without what it should lead to: its chain may go on, and it has no remedies yet.
fn drafted<'a>(model: &'a Model, case: &Case, effects: &[&Case], blame: &str) -> FindingBuilder<'a> {
    let s = &case.summary;
    let (slots, used, fill) = (s.state.a, s.state.b, s.state.c);
    let capacity = case.capacity(model);
    let mut d = FindingBuilder::new(model, &ROW, pace::severity(s));
    d.rests_on_events();
    let writers = s.procs();
    s.name_waiters(&mut d, "writer");
    for r in &case.readers {
        d.process("reader", r.proc, None);
    }
    let full = match capacity {
        Some(c) if !case.opening() => format!(", {fill} of {c} bytes and {used} of {slots} slots full"),
        _ => String::new(),
    };
    d.title(format!("{} {} (pipe:[{}]{full}): {blame}", names(model, &writers), s.words(), case.obj.id));
    d.object(object(case.obj));
    s.tell(&mut d, model.session.min_stall_ns);
    d.evidence(evidence::CAPACITY_BYTES, capacity)
        .evidence(evidence::FILL_BYTES, capacity.map(|_| fill))
        .evidence(evidence::SLOTS, capacity.map(|_| slots))
        .evidence(evidence::SLOTS_USED, capacity.map(|_| used))
        .evidence(
            evidence::SUGGESTED_CAPACITY_BYTES,
            capacity.and_then(|c| suggested(s, c, model.limits.pipe_max_size)),
        );
    pace::tell(&mut d, s);
    if let [only] = s.waiting.as_slice()
        && only.fd >= 0
    {
        d.evidence(evidence::FD, only.fd);
    }
    let mut group: Vec<ProcId> = writers;
    let mut ids = vec![case.obj.id.to_string()];
    for e in effects {
        d.chain(e.line(model));
        group.extend(e.summary.procs());
        ids.push(e.obj.id.to_string());
    }
    if !effects.is_empty() {
        let pipes: Vec<String> = effects.iter().map(|e| format!("pipe:[{}]", e.obj.id)).collect();
        d.evidence(evidence::EFFECTS, pipes);
    }
    d.pids(group).ids(ids);
    d.chain(case.line(model));
    d
}

fn told(model: &Model, case: &Case, effects: &[&Case], now_ns: u64) -> Option<Finding> {
    let s = &case.summary;
    let opening = case.opening();
    let capacity = case.capacity(model);
    let mut d = drafted(model, case, effects, &blame(model, case, opening, now_ns));
    for r in &case.readers {
        d.chain(reading(model, r, now_ns, s.ongoing > 0));
    }
    if let Some((obj, by)) = case.cause {
        d.chain(format!("{} was itself blocked at {} meanwhile", name(model, by), object_word(obj)));
        d.severity(Severity::Info);
    }
    remedies(&mut d, case, opening, capacity, suggested_or_double(s, capacity, model.limits.pipe_max_size));
    d.finish()
}

pub(crate) fn object_word(obj: ObjKey) -> String {
    let finding::Object { kind, id, name, .. } = object(obj);
    name.unwrap_or_else(|| format!("{kind}:{id}"))
}

fn blame(model: &Model, case: &Case, opening: bool, now_ns: u64) -> String {
    let verb = if opening { "has not opened the other end" } else { "does not read" };
    let Some(first) = case.readers.first() else {
        return if opening {
            "nobody has opened the other end".to_owned()
        } else {
            "the reader is not known".to_owned()
        };
    };
    let others = match case.readers.len() {
        0 | 1 => String::new(),
        2 => " (or another that has the read end)".to_owned(),
        n => format!(" (or {} others that have the read end)", n - 1),
    };
    let who = format!("reader {}{others}", name(model, first.proc));
    if case.summary.ongoing > 0 {
        let since = first.read_ns.map(|t| format!(" for {}", duration(now_ns.saturating_sub(t)))).unwrap_or_default();
        let what = doing(model, first.proc).map(|d| format!(" and {d}")).unwrap_or_default();
        return match first.read_ns {
            Some(_) => format!("{who} has not read{since}{what}"),
            None => format!("{who} {verb}{what}"),
        };
    }
    let state = if model.processes.alive(first.proc) { "" } else { ", now gone," };
    if !opening && case.summary.unread_by(first) {
        return format!("{who}{state} did not read");
    }
    format!("{who}{state} {}", pace::words(&case.summary, "read"))
}

fn reading(model: &Model, r: &ReadBy, now_ns: u64, ongoing: bool) -> String {
    let who = name(model, r.proc);
    let what = doing(model, r.proc).filter(|_| ongoing).map(|d| format!(", {d}")).unwrap_or_default();
    match r.read_ns {
        Some(at) => format!("{who} read it last {} ago{what}", duration(now_ns.saturating_sub(at))),
        None => format!("{who} has the read end and was not seen to read{what}"),
    }
}

/// The next power of two of rate x p99; the rate is one capacity per time between two stalls.
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

fn remedies(d: &mut FindingBuilder<'_>, case: &Case, opening: bool, capacity: Option<u64>, larger: Option<u64>) {
    if opening {
        d.remedy("Start the process at the other end of the FIFO, or open it with O_NONBLOCK.", None);
        return;
    }
    if let Some(r) = case.readers.first() {
        let pid = r.proc.pid();
        let what = "See what the reader does instead of reading; a parent that waits for its child must drain the \
                    child's pipe first.";
        d.remedy_if_alive(
            r.proc,
            what,
            format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status"),
        );
    }
    if !pace::remedy(d, &case.summary, "reader", "pipe")
        && let (Some(capacity), Some(larger)) = (capacity, larger)
        && larger > capacity
        && case.summary.ongoing == 0
        && !case.readers.first().is_some_and(|r| case.summary.unread_by(r))
    {
        d.remedy(
            format!("Let the pipe bridge the pauses: fcntl(fd, F_SETPIPE_SZ, {larger}) (now {capacity} bytes)."),
            Some("cat /proc/sys/fs/pipe-max-size".to_owned()),
        );
    }
    let s = case.summary.state;
    if capacity.is_some_and(|c| s.a > 0 && s.b >= s.a && s.c > 0 && s.c < c / 2) {
        d.remedy("Write in larger pieces: each small write takes a whole slot of the pipe.", None);
    }
    without_waiting(d);
}

fn without_waiting(d: &mut FindingBuilder<'_>) {
    d.remedy(
        "If the writer must not wait, make its end O_NONBLOCK and keep what does not fit in a buffer of its own.",
        None,
    );
}

#[cfg(test)]
#[path = "pipe_stall_tests.rs"]
mod tests;
