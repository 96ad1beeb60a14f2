//! `pipe-full`: non-blocking writes were refused while nobody drained the pipe.
//!
//! An event loop that meets EAGAIN now and then while its reader keeps reading is healthy.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::stall::{doing, readers_from};
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, Tid};

/// Refusals, or time without a read, that make it more than a note.
const MANY: u64 = 100;
const LONG_NS: u64 = 1_000_000_000;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "pipe-full",
    mechanism: Some(Mechanism::Pipe),
    family: Family::Refused,
    sites: &[Site::PipeWrite, Site::PipeSplice],
    what: "Non-blocking writes to a pipe fail because no process reads from it.",
    evidence: &[&[
        evidence::EAGAIN,
        evidence::LAST_DRAIN_AGE_MS,
        evidence::CAPACITY_BYTES,
        evidence::FD,
        evidence::PIDS,
    ]],
    worse: &[measure::EAGAIN],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut by: BTreeMap<ObjKey, Vec<(ProcId, &Refusals)>> = BTreeMap::new();
    for ((obj, proc), r) in model.refused.iter().filter(|((o, _), r)| o.kind == kind::PIPE && r.count > 0) {
        if undrained(model, *obj, *proc, r, now_ns) >= model.session.min_stall_ns.max(1) {
            by.entry(*obj).or_default().push((*proc, r));
        }
    }
    by.into_iter().filter_map(|(obj, rows)| told(model, obj, rows, now_ns)).collect()
}

/// Longest time without a read while the pipe was full, nanoseconds.
///
/// It stays full after the last refusal, if the two ends still live and nobody has read since.
fn undrained(model: &Model, obj: ObjKey, writer: ProcId, r: &Refusals, now_ns: u64) -> u64 {
    let drained_ns = r.reader.as_ref().map_or(r.first_ns, |reader| reader.ts_ns);
    let lasts = drained_ns < r.last_ns
        && model.processes.alive(writer)
        && readers_from(model, obj, &[writer], r.reader.as_ref(), true)
            .iter()
            .any(|reader| reader.proc != writer && model.processes.alive(reader.proc));
    if lasts { r.undrained_ns.max(now_ns.saturating_sub(drained_ns)) } else { r.undrained_ns }
}

fn told(model: &Model, obj: ObjKey, mut rows: Vec<(ProcId, &Refusals)>, now_ns: u64) -> Option<Finding> {
    rows.sort_by_key(|(proc, r)| (std::cmp::Reverse(r.count), *proc));
    let eagain: u64 = rows.iter().map(|(_, r)| r.count).fold(0, u64::saturating_add);
    let undrained = rows.iter().map(|(proc, r)| undrained(model, obj, *proc, r, now_ns)).max().unwrap_or_default();
    let latest = rows.iter().map(|(_, r)| *r).max_by_key(|r| r.last_ns)?;
    let last = rows.iter().filter_map(|(_, r)| r.reader.as_ref()).max_by_key(|r| r.ts_ns);
    let writers: Vec<ProcId> = rows.iter().map(|(proc, _)| *proc).collect();
    let lasts = writers.iter().any(|p| model.processes.alive(*p));
    let readers = readers_from(model, obj, &writers, last, lasts);
    let severity = if eagain >= MANY || undrained >= LONG_NS { Severity::Warning } else { Severity::Info };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    for (proc, r) in &rows {
        d.subject("writer", *proc, Some(Tid(r.tid)));
    }
    for r in readers.iter().take(4) {
        d.process("reader", r.proc, None);
    }
    let blame = match readers.first() {
        Some(r) => {
            let what = doing(model, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
            format!("reader {} left it undrained for {}{what}", name(model, r.proc), duration(undrained))
        }
        None => format!("nobody drained it for {}", duration(undrained)),
    };
    let refused = count(eagain, "non-blocking write", "non-blocking writes");
    d.title(format!("{refused} of {} to pipe:[{}] got EAGAIN: {blame}", names(model, &writers), obj.id));
    d.object(object(obj));
    let slots = latest.state.a;
    d.evidence(evidence::EAGAIN, eagain)
        .ms(evidence::LAST_DRAIN_AGE_MS, last.map(|r| now_ns.saturating_sub(r.ts_ns)))
        .evidence(evidence::CAPACITY_BYTES, (slots > 0).then(|| slots.saturating_mul(model.page_bytes())))
        .evidence(evidence::FD, (latest.fd >= 0).then_some(latest.fd))
        .pids(writers);
    let first_ns = rows.iter().map(|(_, r)| r.first_ns).min().unwrap_or_default();
    d.seen(first_ns, latest.last_ns);
    d.remedy("Keep what was refused and write it when poll() says that the pipe has room; do not drop it.", None);
    if let Some(r) = readers.first() {
        let pid = r.proc.pid();
        d.remedy_if_alive(
            r.proc,
            "See what the reader does instead of reading.",
            format!("cat /proc/{pid}/stack /proc/{pid}/wchan"),
        );
    }
    d.finish()
}

#[cfg(test)]
#[path = "pipe_full_tests.rs"]
mod tests;
