//! `fd-exhausted`: calls failed with EMFILE or ENFILE, or received descriptors were dropped because the table was full.

use crate::finding::builder::{FindingBuilder, count, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::process_object;
use crate::finding::{Confidence, Finding, Severity};
use crate::model::Model;
use crate::model::fdpass::{Receiver, Truncation};
use std::collections::BTreeSet;
use tracer_common::site::{Mechanism, Site};
use tracer_common::syscall::Syscall;
use tracer_record::ProcId;

const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
/// Cause 1 of a truncation: the table is full.
const FULL: u32 = 1;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-exhausted",
    mechanism: Some(Mechanism::Fdpass),
    family: Family::Exhausted,
    sites: &[Site::FdReceive, Site::FdFail],
    what: "Calls fail with EMFILE or ENFILE, or the kernel drops received descriptors, because a descriptor table is full.",
    evidence: &[&[
        evidence::ERRNO,
        evidence::FAILED,
        evidence::USED,
        evidence::MAX,
        evidence::DROPPED,
        evidence::MESSAGES_TRUNCATED,
        evidence::PIDS,
    ]],
    worse: &[measure::FAILED, measure::DROPPED],
    detect,
};

pub(crate) fn detect(model: &Model, _now_ns: u64) -> Vec<Finding> {
    let mut all: Vec<(ProcId, &Receiver)> = model.fds.receivers().collect();
    all.sort_by_key(|(id, _)| *id);
    all.into_iter().filter_map(|(id, r)| told(model, id, r)).collect()
}

fn told(model: &Model, id: ProcId, r: &Receiver) -> Option<Finding> {
    let none = Truncation::default();
    let full = r.truncated.get(&FULL).unwrap_or(&none);
    let calls: Vec<_> = r.failures.iter().filter(|((errno, _), _)| matches!(*errno, EMFILE | ENFILE)).collect();
    let failed: u64 = calls.iter().map(|(_, f)| f.failed).fold(0, u64::saturating_add);
    if full.messages == 0 && failed == 0 {
        return None;
    }
    let system = !calls.is_empty() && calls.iter().all(|((errno, _), _)| *errno == ENFILE);
    let limit = r.limit.or_else(|| model.processes.get(id).and_then(|p| p.nofile_soft));
    // The limit may have been raised, or descriptors closed, since.
    let room =
        !system && r.table_len.zip(limit).is_some_and(|(used, max)| used.saturating_mul(10) < max.saturating_mul(9));
    let severity = if room || r.exited { Severity::Warning } else { Severity::Critical };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    // A call that we do not know may have failed with EMFILE for a limit of its own (inotify has one).
    let named = |call: u32| u8::try_from(call).map_or(Syscall::None, Syscall::from_raw);
    if full.messages == 0 && calls.iter().all(|((_, call), _)| named(*call) == Syscall::None) {
        if r.table_len.zip(limit).is_some_and(|(used, max)| used < max / 2) && !system {
            return None;
        }
        d.confidence(Confidence::Likely);
    }
    d.rests_on_events();
    d.subject("receiver", id, None);
    for s in model.fds.senders_to(&full.socks).iter().take(4) {
        d.process("sender", *s, None);
    }
    let mut parts = Vec::new();
    if full.messages > 0 {
        let dropped =
            if full.unknown > 0 { "descriptors".to_owned() } else { count(full.dropped, "descriptor", "descriptors") };
        parts.push(format!(
            "{dropped} of {} dropped at reception (MSG_CTRUNC)",
            count(full.messages, "message", "messages")
        ));
    }
    if failed > 0 {
        let which: BTreeSet<&str> = calls
            .iter()
            .map(|((_, call), _)| named(*call))
            .filter(|c| *c != Syscall::None)
            .map(Syscall::name)
            .collect();
        let which: Vec<&str> = which.into_iter().collect();
        let which = if which.is_empty() { String::new() } else { format!(" ({})", which.join(", ")) };
        let errno = if system { "ENFILE" } else { "EMFILE" };
        parts.push(format!("{}{which} failed with {errno}", count(failed, "call", "calls")));
    }
    let limit_word = match (system, limit) {
        (true, _) => "the system's fs.file-max is reached".to_owned(),
        (false, Some(max)) if room => {
            format!(
                "its descriptor table was full then (now {} of RLIMIT_NOFILE {max})",
                r.table_len.unwrap_or_default()
            )
        }
        (false, Some(max)) => format!("its descriptor table is full (RLIMIT_NOFILE {max})"),
        (false, None) => "its descriptor table is full (RLIMIT_NOFILE)".to_owned(),
    };
    d.title(format!("{}: {}, because {limit_word}", name(model, id), parts.join(" and ")));
    d.object(process_object(id));
    let used = if system { None } else { r.table_len };
    d.evidence(evidence::ERRNO, if system { "ENFILE" } else { "EMFILE" })
        .evidence(evidence::FAILED, failed)
        .evidence(evidence::USED, used)
        .evidence(evidence::MAX, limit.filter(|_| !system))
        .evidence(evidence::DROPPED, (full.unknown == 0).then_some(full.dropped))
        .evidence(evidence::MESSAGES_TRUNCATED, full.messages)
        .pids([id]);
    d.limit(
        if system { "fs.file-max" } else { "RLIMIT_NOFILE" },
        used,
        limit.filter(|_| !system),
        (!room).then_some(0),
    );
    let firsts = calls.iter().map(|(_, f)| f.first_ns).chain((full.messages > 0).then_some(full.first_ns));
    let lasts = calls.iter().map(|(_, f)| f.last_ns).chain((full.messages > 0).then_some(full.last_ns));
    d.seen(firsts.min().unwrap_or_default(), lasts.max().unwrap_or_default());
    d.remedy(
        "See what the descriptors are, and close what is not needed.",
        Some(format!("ls -l /proc/{}/fd", id.pid())),
    );
    if full.messages > 0 {
        d.remedy(
            "Check msg_flags for MSG_CTRUNC after each recvmsg: the call does not fail, descriptors are lost silently.",
            None,
        );
    }
    if system {
        d.remedy("Raise the system's limit if it is really needed.", Some("sysctl fs.file-nr fs.file-max".to_owned()));
    } else {
        d.remedy(
            "Raise the limit to win time; it does not repair a leak.",
            Some(format!("prlimit --pid {} --nofile={}", id.pid(), limit.map_or(65_536, |l| l.saturating_mul(4)))),
        );
    }
    d.finish()
}

#[cfg(test)]
#[path = "fd_exhausted_tests.rs"]
mod tests;
