//! `socket-stall`: a send to a unix socket waited at least min-stall because nobody read at the other end.

use crate::detectors::pipe_stall::object_word;
use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::object;
use crate::finding::time::duration;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::socket::{fullness, grouped, merge, readers, seen, tell, to_name, waits_for_queue};
use crate::waits::stall::{ReadBy, Summary, doing, objects, summary};
use crate::waits::{cascade, pace};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::ProcId;

/// Receivers named.
const MAX_READERS: usize = 4;

struct Case {
    /// Sockets of the senders, the one with the longest waits first.
    objs: Vec<ObjKey>,
    other: Option<u64>,
    summary: Summary,
    readers: Vec<ReadBy>,
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
        let other = model.sockets.other_end(obj.id, s.state.c);
        let sender = s.waiting.first()?.proc;
        Some((other.unwrap_or(obj.id), sender, (obj, other, s)))
    });
    grouped(waits.collect()).into_values().filter_map(|group| told(model, case(model, group)?, now_ns)).collect()
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
    let other = other.or_else(|| model.sockets.other_end(first.id, summary.state.c));
    let mut readers = readers(model, other, &summary.procs(), last, summary.ongoing > 0);
    readers.truncate(MAX_READERS);
    summary.told_of(&readers);
    Some(Case { objs, other, summary, readers })
}

fn told(model: &Model, case: Case, now_ns: u64) -> Option<Finding> {
    let s = &case.summary;
    if pace::is_over(model, s, &case.readers) {
        return None;
    }
    let obj = *case.objs.first()?;
    let ids: Vec<ProcId> = case.readers.iter().map(|r| r.proc).collect();
    let cause = cascade::cause(model, obj, &s.intervals, &ids, now_ns);
    let mut d = FindingBuilder::new(model, &ROW, if cause.is_some() { Severity::Info } else { pace::severity(s) });
    d.rests_on_events();
    s.name_waiters(&mut d, "sender");
    for r in &case.readers {
        d.process("receiver", r.proc, None);
    }
    let senders = s.procs();
    let full = seen(s.state);
    let to = to_name(model, obj.id, s.state.c);
    let blame = blame(model, &case, now_ns);
    d.title(format!("{} {}{to} (socket:[{}]{}): {blame}", names(model, &senders), s.words(), obj.id, fullness(full)));
    d.object(object(obj));
    s.tell(&mut d, model.session.min_stall_ns);
    tell(&mut d, model, obj.id, s.state);
    pace::tell(&mut d, s);
    if let [only] = s.waiting.as_slice()
        && only.fd >= 0
    {
        d.evidence(evidence::FD, only.fd);
    }
    d.ids(case.objs.iter().map(|o| o.id.to_string())).pids(senders.iter().copied());
    d.chain(format!("{} {}{to} (socket:[{}])", names(model, &senders), s.words(), obj.id));
    for r in &case.readers {
        let who = name(model, r.proc);
        d.chain(match r.read_ns {
            Some(at) => format!("{who} read at the other end last {} ago", duration(now_ns.saturating_sub(at))),
            None => format!("{who} has the other end and was not seen to read"),
        });
    }
    if let Some((obj, by)) = cause {
        d.chain(format!("{} was itself blocked at {} meanwhile", name(model, by), object_word(obj)));
    }
    if let Some(r) = case.readers.first() {
        let pid = r.proc.pid();
        d.remedy_if_alive(
            r.proc,
            "See what the receiver does instead of reading.",
            format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status"),
        );
    } else if case.other.is_none() {
        d.remedy("See which sockets there are, with their holders.", Some("ipctrace ls socket".to_owned()));
    }
    // What nobody reads, no room bridges.
    let unread = case.readers.first().is_some_and(|r| s.unread_by(r));
    if !pace::remedy(&mut d, s, "receiver", "queue") && !unread {
        bridge(&mut d, waits_for_queue(full));
    }
    d.remedy(
        "If the sender must not wait, send with MSG_DONTWAIT, or set SO_SNDTIMEO, and decide what happens to the message.",
        None,
    );
    d.finish()
}

/// What lets a socket bear pauses.
fn bridge(d: &mut FindingBuilder<'_>, queue_is_full: bool) {
    if queue_is_full {
        d.remedy(
            "Let the queue bridge bursts: net.unix.max_dgram_qlen, for sockets that are made afterwards.",
            Some("sysctl net.unix.max_dgram_qlen".to_owned()),
        );
    } else {
        d.remedy("Let the socket bridge pauses: SO_SNDBUF of the sender, up to net.core.wmem_max.", None);
    }
}

fn blame(model: &Model, case: &Case, now_ns: u64) -> String {
    let Some(first) = case.readers.first() else {
        return match case.other {
            Some(_) => "nobody has the other end open, or its holder could not be seen".to_owned(),
            None => "the receiver is not known".to_owned(),
        };
    };
    let others = match case.readers.len() {
        0 | 1 => String::new(),
        2 => " (or another that has the other end)".to_owned(),
        n => format!(" (or {} others that have the other end)", n - 1),
    };
    let who = format!("receiver {}{others}", name(model, first.proc));
    if case.summary.ongoing > 0 {
        let what = doing(model, first.proc).map(|d| format!(" and {d}")).unwrap_or_default();
        return match first.read_ns {
            Some(t) => format!("{who} has not read for {}{what}", duration(now_ns.saturating_sub(t))),
            None => format!("{who} does not read{what}"),
        };
    }
    if case.summary.unread_by(first) {
        return format!("{who} did not read");
    }
    format!("{who} {}", pace::words(&case.summary, "read"))
}

#[cfg(test)]
#[path = "socket_stall_tests.rs"]
mod tests;
