//! `msg-full`: sends with IPC_NOWAIT were refused while nobody received from the queue.
//!
//! A sender that meets EAGAIN now and then while its receiver keeps receiving is healthy.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::queue::{Seen, boot_ns, receiver, seen, tell, words};
use crate::waits::stall::doing;
use std::collections::BTreeMap;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{ProcId, Tid};

/// Refusals, or time without a receive, that make it more than a note.
const MANY: u64 = 100;
const LONG_NS: u64 = 1_000_000_000;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "msg-full",
    mechanism: Some(Mechanism::Msg),
    family: Family::Refused,
    sites: &[Site::MsgSend],
    what: "Non-blocking sends to a message queue fail because no process receives from it.",
    evidence: &[crate::waits::queue::EVIDENCE, &[evidence::EAGAIN, evidence::LAST_DRAIN_AGE_MS, evidence::PIDS]],
    worse: &[measure::EAGAIN],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut by: BTreeMap<ObjKey, Vec<(ProcId, &Refusals)>> = BTreeMap::new();
    for ((obj, proc), r) in model.refused.iter().filter(|((o, _), r)| o.kind == kind::MSG && r.count > 0) {
        let seen = seen(model, *obj);
        if undrained(model, seen.as_ref(), r) >= model.session.min_stall_ns.max(1) {
            by.entry(*obj).or_default().push((*proc, r));
        }
    }
    by.into_iter().filter_map(|(obj, rows)| told(model, obj, rows, now_ns)).collect()
}

/// Longest time without a receive while messages were refused, nanoseconds.
///
/// A queue stays full after the last refusal, its sender dead or not, as long as the tables show it full.
fn undrained(model: &Model, seen: Option<&Seen<'_>>, r: &Refusals) -> u64 {
    // Who receives may not be watched; the tables then tell to the second since when nobody has.
    let by_table = || seen.and_then(|s| boot_ns(model, s.last.rtime)).filter(|_| r.reader.is_none());
    let drained_ns =
        r.reader.as_ref().map(|reader| reader.ts_ns).or_else(by_table).map_or(r.first_ns, |t| t.max(r.first_ns));
    let refusing = if r.reader.is_some() { r.undrained_ns } else { r.last_ns.saturating_sub(drained_ns) };
    // The tables' seconds may end after the last refusal.
    let until_ns = if r.reader.is_some() { r.last_ns } else { r.last_ns.saturating_add(1_000_000_000) };
    let lasts = seen.filter(|s| s.is_full(r.state.a) && s.read_ns > r.last_ns && drained_ns <= until_ns);
    refusing.max(lasts.map_or(0, |s| s.read_ns.saturating_sub(drained_ns)))
}

fn told(model: &Model, obj: ObjKey, mut rows: Vec<(ProcId, &Refusals)>, now_ns: u64) -> Option<Finding> {
    rows.sort_by_key(|(proc, r)| (std::cmp::Reverse(r.count), *proc));
    let seen = seen(model, obj);
    let eagain: u64 = rows.iter().map(|(_, r)| r.count).fold(0, u64::saturating_add);
    let undrained = rows.iter().map(|(_, r)| undrained(model, seen.as_ref(), r)).max().unwrap_or_default();
    let latest = rows.iter().map(|(_, r)| *r).max_by_key(|r| r.last_ns)?;
    let last = rows.iter().filter_map(|(_, r)| r.reader.as_ref()).max_by_key(|r| r.ts_ns);
    let receiver = receiver(model, seen.as_ref(), last);
    let senders: Vec<ProcId> = rows.iter().map(|(proc, _)| *proc).collect();
    let severity = if eagain >= MANY || undrained >= LONG_NS { Severity::Warning } else { Severity::Info };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    for (proc, r) in &rows {
        d.subject("sender", *proc, Some(Tid(r.tid)));
    }
    if let Some(r) = &receiver {
        d.process("receiver", r.proc, None);
    }
    let blame = match &receiver {
        Some(r) if model.processes.alive(r.proc) => {
            let what = doing(model, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
            format!("receiver {} left it undrained for {}{what}", name(model, r.proc), duration(undrained))
        }
        Some(r) => {
            format!("receiver {} is gone, it was left undrained for {}", name(model, r.proc), duration(undrained))
        }
        None => format!("nobody received from it for {}", duration(undrained)),
    };
    let refused = count(eagain, "non-blocking send", "non-blocking sends");
    let what = words(obj, seen.as_ref(), latest.state.a);
    d.title(format!("{refused} of {} got EAGAIN ({what}): {blame}", names(model, &senders)));
    d.evidence(evidence::EAGAIN, eagain)
        .ms(evidence::LAST_DRAIN_AGE_MS, receiver.as_ref().and_then(|r| r.at_ns).map(|t| now_ns.saturating_sub(t)));
    tell(&mut d, model, obj, seen.as_ref(), latest.state.a);
    d.pids(senders);
    let first_ns = rows.iter().map(|(_, r)| r.first_ns).min().unwrap_or_default();
    d.seen(first_ns, latest.last_ns);
    d.remedy("Keep what was refused and send it later, or wait in msgsnd; do not drop it, and do not spin.", None);
    match &receiver {
        Some(r) if model.processes.alive(r.proc) => {
            let pid = r.proc.pid();
            d.remedy(
                "See what the receiver does instead of receiving.",
                Some(format!("cat /proc/{pid}/stack /proc/{pid}/wchan")),
            );
        }
        Some(_) | None => {
            let id = crate::model::msg_id(obj);
            let see = format!("ipcs -q -i {}", id.id);
            d.remedy_in(id.ns, "Start the receiver, or see what lies in the queue.", &[&see]);
        }
    }
    d.finish()
}

#[cfg(test)]
#[path = "msg_full_tests.rs"]
mod tests;
