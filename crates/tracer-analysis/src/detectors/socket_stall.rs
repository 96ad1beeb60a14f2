//! `socket-stall`: a send to a unix socket was blocked for at least min-stall because no process read at the other end.

use crate::finding::builder::FindingBuilder;
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::blame::SOCKET_RECEIVERS;
use crate::waits::reader::{AwaitedReader, MAX_READERS};
use crate::waits::socket::{self, destination, full_destination, grouped, merge, readers, waits_for_queue};
use crate::waits::stall::{Summary, objects, summary};
use crate::waits::{cascade, pace};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::ProcId;

struct Case {
    /// Sockets of the senders, the one with the longest waits first.
    objs: Vec<ObjKey>,
    /// The socket at the other end.
    other: Option<u64>,
    summary: Summary,
    readers: Vec<AwaitedReader>,
}

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "socket-stall",
    mechanism: Some(Mechanism::Socket),
    family: Family::Stall,
    sites: &[Site::SocketSend, Site::PipeSplice, Site::Blocked],
    what: "A sender blocks for a long time because no process reads from the other end of a unix socket.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        pace::EVIDENCE,
        crate::waits::socket::EVIDENCE,
        &[evidence::FD, evidence::IDS, evidence::PIDS],
    ],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let waits = objects(model, kind::SOCKET).into_iter().filter(|obj| obj.ns == 0).filter_map(|obj| {
        let s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
        let other = model.sockets.peer(obj.id, s.state.socket().peer_ino);
        let sender = s.waiting.first()?.proc;
        Some((other.unwrap_or(obj.id), sender, (obj, other, s)))
    });
    grouped(waits.collect()).into_values().filter_map(|group| report(model, case(model, group)?, now_ns)).collect()
}

fn case(model: &Model, mut group: Vec<(ObjKey, Option<u64>, Summary)>) -> Option<Case> {
    group.sort_by_key(|(obj, _, s)| (std::cmp::Reverse((s.longest_ongoing_ns, s.durations.total_ns)), *obj));
    let objs: Vec<ObjKey> = group.iter().map(|(obj, ..)| *obj).collect();
    let mut group = group.into_iter();
    let (first, other, mut summary) = group.next()?;
    for (_, _, more) in group {
        merge(&mut summary, more);
    }
    let last = objs.iter().filter_map(|o| model.stalls.object(*o)?.reader.as_ref()).max_by_key(|r| r.ts_ns);
    let other = other.or_else(|| model.sockets.peer(first.id, summary.state.socket().peer_ino));
    let mut readers = readers(model, other, &summary.procs(), last, summary.ongoing > 0);
    readers.truncate(MAX_READERS);
    summary.keep_samples_of(readers.first().map(|r| r.proc));
    Some(Case { objs, other, summary, readers })
}

fn report(model: &Model, case: Case, now_ns: u64) -> Option<Finding> {
    let s = &case.summary;
    if pace::is_over(model, s, &case.readers) {
        return None;
    }
    let obj = *case.objs.first()?;
    let ids: Vec<ProcId> = case.readers.iter().map(|r| r.proc).collect();
    let upstream = cascade::cause(model, obj, &s.intervals, &ids, now_ns);
    let mut d = FindingBuilder::new(model, &ROW, if upstream.is_some() { Severity::Info } else { pace::severity(s) });
    d.rests_on_events();
    s.name_waiters(&mut d, "sender");
    for r in &case.readers {
        d.process("receiver", r.proc, None);
    }
    let cause = SOCKET_RECEIVERS.cause(model, s, &case.readers, now_ns).unwrap_or_else(|| match case.other {
        Some(_) => "no process was seen to hold the other end".to_owned(),
        None => "the receiver is unknown".to_owned(),
    });
    d.title(format!("{}: {cause}", s.sentence(model, &full_destination(model, obj.id, s.state))));
    d.object(object(obj));
    s.add_evidence(&mut d, model.session.min_stall_ns);
    socket::add_evidence(&mut d, model, obj.id, s.state);
    pace::add_evidence(&mut d, s);
    if let [only] = s.waiting.as_slice()
        && only.fd >= 0
    {
        d.evidence(evidence::FD, only.fd);
    }
    d.ids(case.objs.iter().map(|o| o.id.to_string())).pids(s.procs());
    d.chain(s.sentence(model, &destination(model, obj.id, s.state)));
    SOCKET_RECEIVERS.add_chain(&mut d, model, &case.readers, s.ongoing > 0, now_ns);
    if let Some((obj, by)) = upstream {
        d.chain(cascade::link(model, obj, by));
    }
    add_remedies(&mut d, &case);
    d.finish()
}

fn add_remedies(d: &mut FindingBuilder<'_>, case: &Case) {
    let s = &case.summary;
    if let Some(r) = case.readers.first() {
        SOCKET_RECEIVERS.add_inspection(d, r.proc);
    } else if case.other.is_none() {
        d.remedy("See which sockets exist, with the processes that hold them.", Some("ipctrace ls socket".to_owned()));
    }
    // No buffer is large enough for a receiver that never reads.
    let unread = case.readers.first().is_some_and(|r| r.never_read(s));
    if !pace::add_remedy(d, s, "receiver", "queue") && !unread {
        if waits_for_queue(s.state.socket()) {
            d.remedy(
                "Let the queue bridge bursts: raise net.unix.max_dgram_qlen before the receiver creates its socket.",
                Some("sysctl net.unix.max_dgram_qlen".to_owned()),
            );
        } else {
            d.remedy("Let the socket bridge pauses: SO_SNDBUF of the sender, up to net.core.wmem_max.", None);
        }
    }
    d.remedy(
        "If the sender must not block, send with MSG_DONTWAIT or set SO_SNDTIMEO, and decide what happens to the message.",
        None,
    );
}

#[cfg(test)]
#[path = "socket_stall_tests.rs"]
mod tests;
