//! `fd-inflight`: descriptors sit in the queue of a unix socket that nobody reads, or a send failed with ETOOMANYREFS.
//!
//! In flight they are in nobody's table, so that neither `ls -l /proc/PID/fd` nor the limit of a process shows them.

use crate::finding::builder::{FindingBuilder, count, name, names};
use crate::finding::detector::Detector;
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

/// A receiver that is busy for less than this is none of our business.
const LONG_NS: u64 = 1_000_000_000;
/// In flight for this long, or so many, they are more than a note.
const STUCK_NS: u64 = 10_000_000_000;
const MANY: u64 = 16;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "fd-inflight",
    mechanism: Some(Mechanism::Fdpass),
    sites: &[Site::FdSend, Site::FdReceive, Site::SocketSend],
    what: "Descriptors sit in a socket's queue and nobody receives them, or a send failed with ETOOMANYREFS.",
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let mut out: Vec<Finding> = model
        .sockets
        .in_flight()
        .filter(|(_, f)| f.queued > 0 && now_ns.saturating_sub(f.since_ns) >= LONG_NS)
        .filter_map(|(ino, f)| stuck(model, *ino, f, now_ns))
        .collect();
    out.extend(model.sockets.overflows.iter().filter_map(|(proc, o)| refused(model, *proc, o)));
    out
}

fn stuck(model: &Model, ino: u64, f: &InFlight, now_ns: u64) -> Option<Finding> {
    let age_ns = now_ns.saturating_sub(f.since_ns);
    let severity = if f.queued >= MANY || age_ns >= STUCK_NS { Severity::Warning } else { Severity::Info };
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
        [] => "nobody has it open any more".to_owned(),
        [(one, _)] => {
            let what = and_activity(model, *one);
            format!("{}, who has it open, does not receive them{what}", name(model, *one))
        }
        some => {
            let all: Vec<ProcId> = some.iter().map(|(proc, _)| *proc).collect();
            format!("none of {}, who have it open, receives them", names(model, &all))
        }
    };
    let at_least = if f.baseline { "at least " } else { "" };
    let since = format!("for {at_least}{}", duration(age_ns));
    d.title(format!(
        "{} sit in the queue of socket:[{ino}] {since}: {who}",
        count(f.queued, "descriptor", "descriptors")
    ));
    d.object(object(key(ino))).origin(f.baseline);
    d.evidence("queued", f.queued)
        .evidence("failed", 0)
        .ms("oldest_age_ms", Some(age_ns))
        .evidence("fd", receivers.first().map(|(_, fd)| *fd));
    d.pids(BTreeSet::from_iter(receivers.iter().map(|(proc, _)| *proc).chain(f.sender))).seen(f.since_ns, now_ns);
    if let Some((receiver, fd)) = receivers.first() {
        d.remedy("See how many are there.", Some(format!("grep scm_fds /proc/{}/fdinfo/{fd}", receiver.pid())));
    }
    d.remedy("Receive with recvmsg and a control buffer, or close the socket: its queue holds the files open.", None);
    d.finish()
}

/// Who should receive: a sender that has forgotten to close its copy of the other end is not meant.
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
        "{} of {} with descriptors failed with ETOOMANYREFS: as many of its user's as RLIMIT_NOFILE allows are in flight",
        count(o.failed, "send", "sends"),
        name(model, sender)
    ));
    d.object(object(key(o.sock)));
    let limit = model.processes.get(sender).and_then(|p| p.nofile_soft);
    d.evidence("queued", Option::<u64>::None).evidence("failed", o.failed).evidence("fds_refused", o.fds);
    d.limit("RLIMIT_NOFILE", None, limit, None);
    d.pids([sender]).seen(o.first_ns, o.last_ns);
    d.remedy(
        "Make the receivers take their messages; see which sockets hold descriptors.",
        Some("ipctrace ls socket".to_owned()),
    );
    d.remedy("Wait for an answer before the next descriptors are sent.", None);
    d.finish()
}

#[cfg(test)]
#[path = "fd_inflight_tests.rs"]
mod tests;
