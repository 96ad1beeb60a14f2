//! `fd-truncated`: received descriptors were dropped because the control buffer was too small or access was denied.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::process_object;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::fdpass::{Receiver, Truncation};
use std::collections::BTreeSet;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;

/// Cause 1, a full table: `fd-exhausted` reports it.
const FULL: u32 = 1;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-truncated",
    mechanism: Some(Mechanism::Fdpass),
    family: Family::Truncated,
    sites: &[Site::FdReceive],
    what: "The kernel drops received descriptors because the control buffer is too small or access is denied.",
    evidence: &[&[evidence::DROPPED, evidence::MESSAGES_TRUNCATED, evidence::CAUSE, evidence::PIDS]],
    worse: &[measure::DROPPED],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    let mut all: Vec<(ProcId, &Receiver)> = model.fds.receivers().collect();
    all.sort_by_key(|(id, _)| *id);
    all.into_iter().filter_map(|(id, r)| finding(model, id, r)).collect()
}

fn cause(raw: u32) -> &'static str {
    match raw {
        2 => "control-buffer",
        3 => "denied",
        _ => "unknown",
    }
}

fn finding(model: &Model, id: ProcId, r: &Receiver) -> Option<Finding> {
    let causes: Vec<(u32, &Truncation)> =
        r.truncated.iter().filter(|(c, t)| **c != FULL && t.messages > 0).map(|(c, t)| (*c, t)).collect();
    let first = causes.iter().map(|(_, t)| t.first_ns).min()?;
    let last = causes.iter().map(|(_, t)| t.last_ns).max()?;
    let messages: u64 = causes.iter().map(|(_, t)| t.messages).fold(0, u64::saturating_add);
    let unknown: u64 = causes.iter().map(|(_, t)| t.unknown).fold(0, u64::saturating_add);
    let dropped: u64 = causes.iter().map(|(_, t)| t.dropped).fold(0, u64::saturating_add);
    let socks: BTreeSet<u64> = causes.iter().flat_map(|(_, t)| t.socks.iter().copied()).collect();

    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.rests_on_events();
    d.subject("receiver", id, None);
    for s in model.fds.senders_to(&socks).iter().take(4) {
        d.process("sender", *s, None);
    }
    let lost = if unknown == 0 { count(dropped, "descriptor", "descriptors") } else { "descriptors".to_owned() };
    let why: Vec<String> = causes
        .iter()
        .map(|(c, t)| {
            let why = match c {
                2 => "the control buffer was too small",
                3 => "a security module or the peer's credentials denied access",
                _ => "the cause is unknown",
            };
            if causes.len() > 1 {
                format!("{why} ({})", count(t.messages, "message", "messages"))
            } else {
                why.to_owned()
            }
        })
        .collect();
    d.title(format!(
        "{} lost {lost} of {} (MSG_CTRUNC): {}",
        name(model, id),
        count(messages, "message", "messages"),
        why.join(", "),
    ));
    d.object(process_object(id));
    let words: Vec<&str> = causes.iter().map(|(c, _)| cause(*c)).collect();
    d.evidence(evidence::DROPPED, (unknown == 0).then_some(dropped))
        .evidence(evidence::MESSAGES_TRUNCATED, messages)
        .evidence(evidence::CAUSE, words.join(","))
        .pids([id]);
    d.seen(first, last);
    d.remedy(
        "Give recvmsg a control buffer of CMSG_SPACE(n * sizeof(int)) for the most descriptors that a sender may pass in one message (253 at most).",
        None,
    );
    d.remedy("Check msg_flags for MSG_CTRUNC after each recvmsg, and close the descriptors that arrived.", None);
    d.finish()
}

#[cfg(test)]
#[path = "fd_truncated_tests.rs"]
mod tests;
