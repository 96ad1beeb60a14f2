//! `mq-full`: sends to a POSIX message queue were refused, or given up after a time-out, while nobody received from it.
//!
//! A sender that meets EAGAIN now and then while its receiver keeps receiving is healthy.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::{mq_object, queue};
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::stall::{doing, nobody_else, readers_from};
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
    code: "mq-full",
    mechanism: Some(Mechanism::Mq),
    family: Family::Refused,
    sites: &[Site::MqSend],
    what: "Sends to a POSIX message queue fail or time out because no process receives from it.",
    evidence: &[&[
        evidence::EAGAIN,
        evidence::TIMED_OUT,
        evidence::LAST_DRAIN_AGE_MS,
        evidence::MAX_MESSAGES,
        evidence::FD,
        evidence::PIDS,
    ]],
    worse: &[measure::EAGAIN, measure::TIMED_OUT],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut by: BTreeMap<ObjKey, Vec<(ProcId, &Refusals)>> = BTreeMap::new();
    for ((obj, proc), r) in model.refused.iter().filter(|((o, _), _)| o.kind == kind::MQ) {
        if undrained(model, *obj, *proc, r, now_ns) >= model.session.min_stall_ns.max(1) {
            by.entry(*obj).or_default().push((*proc, r));
        }
    }
    by.into_iter().filter_map(|(obj, rows)| told(model, obj, rows, now_ns)).collect()
}

/// Calls that gave up after their time-out.
fn timed_out(r: &Refusals) -> u64 {
    r.state.c
}

/// Longest time without a receive while the queue was full, nanoseconds.
///
/// It stays full after the last refusal, if the two ends still live and nobody has received since.
fn undrained(model: &Model, obj: ObjKey, sender: ProcId, r: &Refusals, now_ns: u64) -> u64 {
    let drained_ns = r.reader.as_ref().map_or(r.first_ns, |reader| reader.ts_ns);
    let lasts = drained_ns < r.last_ns
        && model.processes.alive(sender)
        && readers_from(model, obj, &[sender], r.reader.as_ref(), true)
            .iter()
            .any(|reader| reader.proc != sender && model.processes.alive(reader.proc));
    if lasts { r.undrained_ns.max(now_ns.saturating_sub(drained_ns)) } else { r.undrained_ns }
}

fn told(model: &Model, obj: ObjKey, mut rows: Vec<(ProcId, &Refusals)>, now_ns: u64) -> Option<Finding> {
    rows.sort_by_key(|(proc, r)| (std::cmp::Reverse(r.count), *proc));
    let total = |of: fn(&Refusals) -> u64| rows.iter().map(|(_, r)| of(r)).fold(0, u64::saturating_add);
    let (eagain, given_up) = (total(|r| r.count), total(timed_out));
    // A lone time-out is told by `mq-stall`, with how long it lasted; one after the other refuses, like EAGAIN does.
    if eagain == 0 && given_up < 2 {
        return None;
    }
    let undrained = rows.iter().map(|(proc, r)| undrained(model, obj, *proc, r, now_ns)).max().unwrap_or_default();
    let latest = rows.iter().map(|(_, r)| *r).max_by_key(|r| r.last_ns)?;
    let last = rows.iter().filter_map(|(_, r)| r.reader.as_ref()).max_by_key(|r| r.ts_ns);
    let senders: Vec<ProcId> = rows.iter().map(|(proc, _)| *proc).collect();
    let lasts = senders.iter().any(|p| model.processes.alive(*p));
    let mut receivers = readers_from(model, obj, &senders, last, lasts);
    let alone = nobody_else(model, obj, &senders, &receivers);
    if alone.is_some() {
        receivers.clear();
    }
    let many = eagain.saturating_add(given_up) >= MANY || undrained >= LONG_NS;
    let mut d = FindingBuilder::new(model, &ROW, if many { Severity::Warning } else { Severity::Info });
    d.rests_on_events();
    for (proc, r) in &rows {
        d.subject("sender", *proc, Some(Tid(r.tid)));
    }
    for r in receivers.iter().take(4) {
        d.process("receiver", r.proc, None);
    }
    let blame = match receivers.first() {
        Some(r) => {
            let what = doing(model, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
            format!("receiver {} took nothing for {}{what}", name(model, r.proc), duration(undrained))
        }
        None => match alone {
            Some(alone) => format!("{alone}, and nobody received from it for {}", duration(undrained)),
            None => format!("nobody received from it for {}", duration(undrained)),
        },
    };
    let refused = (eagain > 0).then(|| format!("{} got EAGAIN", count(eagain, "send", "sends")));
    let waited = (given_up > 0).then(|| format!("{} timed out", count(given_up, "send", "sends")));
    let what: Vec<String> = refused.into_iter().chain(waited).collect();
    let most = (latest.state.a > 0).then_some(latest.state.a);
    let full = most.map_or_else(String::new, |most| format!(" (full, {most} messages)"));
    d.title(format!("{} of {} to {}{full}: {blame}", what.join(" and "), names(model, &senders), queue(model, obj)));
    d.object(mq_object(model, obj));
    d.evidence(evidence::EAGAIN, eagain)
        .evidence(evidence::TIMED_OUT, given_up)
        .ms(evidence::LAST_DRAIN_AGE_MS, last.map(|r| now_ns.saturating_sub(r.ts_ns)))
        .evidence(evidence::MAX_MESSAGES, most)
        .evidence(evidence::FD, (latest.fd >= 0).then_some(latest.fd))
        .pids(senders);
    let first_ns = rows.iter().map(|(_, r)| r.first_ns).min().unwrap_or_default();
    d.seen(first_ns, latest.last_ns);
    if let Some(r) = receivers.first() {
        let pid = r.proc.pid();
        d.remedy_if_alive(
            r.proc,
            "See what the receiver does instead of receiving.",
            format!("cat /proc/{pid}/stack /proc/{pid}/wchan"),
        );
    }
    d.remedy("Keep what was refused and send it when poll() says that the queue has room; do not drop it.", None);
    d.remedy(
        "If bursts are larger than the queue, ask for more room (mq_maxmsg of mq_open, at most fs.mqueue.msg_max).",
        Some("sysctl fs.mqueue".to_owned()),
    );
    d.finish()
}

#[cfg(test)]
#[path = "mq_full_tests.rs"]
mod tests;
