//! `fd-inflight`: descriptors stay in the queue of a unix socket that no process reads, or a send failed with ETOOMANYREFS.
//!
//! Descriptors in flight are in no process's table, so neither `ls -l /proc/PID/fd` nor a process's limit shows them.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure::{self, Basis};
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::model::socket::{InFlight, Overflow};
use crate::waits::reader::and_activity;
use crate::waits::socket::key;
use std::collections::BTreeSet;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;

/// A receiver may be busy for this long.
const LONG_NS: u64 = 1_000_000_000;
/// Time in flight, and number of descriptors, that make a warning.
const WARN_NS: u64 = 10_000_000_000;
const MANY: u64 = 16;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-inflight",
    mechanism: Some(Mechanism::Fdpass),
    family: Family::Leak,
    sites: &[Site::FdSend, Site::FdReceive, Site::SocketSend],
    what: "The queue of a unix socket holds descriptors that no process receives, or sends fail because too many are in flight.",
    evidence: &[&[
        evidence::QUEUED,
        evidence::FAILED,
        evidence::FDS_REFUSED,
        evidence::OLDEST_AGE_MS,
        evidence::FD,
        evidence::PIDS,
    ]],
    worse: &[measure::more(evidence::QUEUED, Basis::State, 3.0), measure::FAILED],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut out: Vec<Finding> = model
        .sockets
        .in_flight()
        .filter(|(_, f)| f.queued > 0 && now_ns.saturating_sub(since_ns(model, f)) >= LONG_NS)
        .filter_map(|(ino, f)| queued(model, *ino, f, now_ns))
        .collect();
    out.extend(model.sockets.overflows.iter().filter_map(|(proc, o)| refused(model, *proc, o)));
    out
}

/// Since when nothing was received: where receipts were lost, the queue may have been read until then.
fn since_ns(model: &Model, f: &InFlight) -> u64 {
    f.since_ns.max(model.losses.last_ns(Site::FdReceive))
}

fn queued(model: &Model, ino: u64, f: &InFlight, now_ns: u64) -> Option<Finding> {
    let since_ns = since_ns(model, f);
    let age_ns = now_ns.saturating_sub(since_ns);
    let severity = if f.queued >= MANY || age_ns >= WARN_NS { Severity::Warning } else { Severity::Info };
    let mut d = FindingBuilder::new(model, &ROW, severity);
    d.rests_on_events();
    let receivers = receivers(f);
    for (receiver, _) in &receivers {
        d.subject("receiver", *receiver, None);
    }
    if let Some(sender) = f.sender {
        d.subject("sender", sender, None);
    }
    let who = match receivers.as_slice() {
        [] => "no process has it open".to_owned(),
        [(one, _)] => {
            let what = and_activity(model, *one);
            format!("{} has it open but does not receive them{what}", name(model, *one))
        }
        some => {
            let all: Vec<ProcId> = some.iter().map(|(proc, _)| *proc).collect();
            format!("{} have it open but do not receive them", names(model, &all))
        }
    };
    let at_least = if f.baseline { "at least " } else { "" };
    let since = format!("for {at_least}{}", duration(age_ns));
    d.title(format!(
        "{} queued in socket:[{ino}] {since}: {who}",
        count(f.queued, "descriptor has been", "descriptors have been")
    ));
    d.object(object(key(ino))).origin(f.baseline);
    d.evidence(evidence::QUEUED, f.queued)
        .evidence(evidence::FAILED, 0)
        .ms(evidence::OLDEST_AGE_MS, Some(age_ns))
        .evidence(evidence::FD, receivers.first().map(|(_, fd)| *fd));
    d.pids(BTreeSet::from_iter(receivers.iter().map(|(proc, _)| *proc).chain(f.sender))).seen(since_ns, now_ns);
    if let Some((receiver, fd)) = receivers.first() {
        d.remedy_on(
            *receiver,
            "See how many are queued.",
            format!("grep scm_fds /proc/{}/fdinfo/{fd}", receiver.pid()),
        );
    }
    d.remedy("Receive with recvmsg and a control buffer, or close the socket: its queue keeps the files open.", None);
    d.finish()
}

/// The processes that should receive: not a sender that left its copy of the other end open.
fn receivers(f: &InFlight) -> Vec<(ProcId, u32)> {
    let others: Vec<(ProcId, u32)> = f.holders.iter().copied().filter(|(proc, _)| Some(*proc) != f.sender).collect();
    if others.is_empty() { f.holders.clone() } else { others }
}

fn refused(model: &Model, sender: ProcId, o: &Overflow) -> Option<Finding> {
    let mut d = FindingBuilder::new(model, &ROW, Severity::Warning);
    d.rests_on_events();
    d.subject("sender", sender, None);
    let receiver = model.pipes.holders(key(o.peer)).and_then(|h| h.holders.iter().find(|h| h.tgid != sender.pid()));
    if let Some(h) = receiver {
        d.process("receiver", model.processes.resolve(h.tgid, h.start_ns), None);
    }
    d.title(format!(
        "{} of descriptors failed with ETOOMANYREFS in {}: its user has more in flight than RLIMIT_NOFILE",
        count(o.failed, "send", "sends"),
        name(model, sender)
    ));
    d.object(object(key(o.sock)));
    let limit = model.processes.get(sender).and_then(|p| p.nofile_soft);
    d.evidence(evidence::QUEUED, Option::<u64>::None)
        .evidence(evidence::FAILED, o.failed)
        .evidence(evidence::FDS_REFUSED, o.fds);
    d.limit("RLIMIT_NOFILE", None, limit, None);
    d.pids([sender]).seen(o.first_ns, o.last_ns);
    d.remedy(
        "See which sockets hold descriptors, and make their receivers read.",
        Some("ipctrace ls socket".to_owned()),
    );
    d.remedy("Wait for a reply before sending more descriptors.", None);
    d.finish()
}

#[cfg(test)]
#[path = "fd_inflight_tests.rs"]
mod tests;
