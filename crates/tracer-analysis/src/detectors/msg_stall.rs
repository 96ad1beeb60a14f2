//! `msg-stall`: a sender waited at least min-stall because a message queue was full.
//!
//! A receiver that waits for a message waits for input, and is no stall.

use crate::detectors::pipe_stall::object_word;
use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::queue::{Receiver, receiver, seen, sitting, tell, words};
use crate::waits::stall::{ReadBy, Summary, doing, objects, summary};
use crate::waits::{cascade, pace};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;
use tracer_record::{MsgId, ProcId};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "msg-stall",
    mechanism: Some(Mechanism::Msg),
    family: Family::Stall,
    sites: &[Site::MsgSend, Site::Blocked],
    what: "A sender blocks for a long time because a message queue is full and no process receives from it.",
    evidence: &[crate::waits::stall::EVIDENCE, pace::EVIDENCE, crate::waits::queue::EVIDENCE, &[evidence::PIDS]],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    objects(model, kind::MSG).into_iter().filter_map(|obj| told(model, obj, now_ns)).collect()
}

fn told(model: &Model, obj: ObjKey, now_ns: u64) -> Option<Finding> {
    let s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
    let seen = seen(model, obj);
    let last = model.stalls.object(obj).and_then(|o| o.reader.as_ref());
    let receiver = receiver(model, seen.as_ref(), last);
    let readers: Vec<ReadBy> = receiver.iter().map(|r| ReadBy { proc: r.proc, read_ns: r.at_ns }).collect();
    if pace::is_over(model, &s, &readers) {
        return None;
    }
    let message_bytes = s.state.a;
    let mut d = FindingBuilder::new(model, &ROW, pace::severity(&s));
    d.rests_on_events();
    let senders = s.procs();
    s.name_waiters(&mut d, "sender");
    if let Some(r) = &receiver {
        d.process("receiver", r.proc, None);
    }
    let what = words(obj, seen.as_ref(), message_bytes);
    let never = seen.as_ref().is_some_and(|q| q.last.rtime == 0);
    let sitting = sitting(model, seen.as_ref()).filter(|_| s.ongoing > 0);
    let blame = match sitting {
        Some(proc) => {
            d.process("receiver", proc, None);
            let why = if is_stopped(model, proc) { "is stopped in" } else { "waits for another type of message in" };
            format!("receiver {} {why} msgrcv there", name(model, proc))
        }
        None => blame(model, &s, receiver.as_ref(), never, now_ns),
    };
    d.title(format!("{} {} ({what}): {blame}", names(model, &senders), s.words()));
    s.tell(&mut d, model.session.min_stall_ns);
    pace::tell(&mut d, &s);
    tell(&mut d, model, obj, seen.as_ref(), message_bytes);
    d.pids(senders.iter().copied());
    let id = crate::model::msg_id(obj);
    d.chain(format!("{} {} (message queue {})", names(model, &senders), s.words(), id.id));
    if let Some(proc) = sitting {
        d.chain(format!("{} is blocked in msgrcv (message queue {})", name(model, proc), id.id));
    } else if let Some(r) = &receiver {
        d.chain(receiving(model, r, s.ongoing > 0, now_ns));
    }
    let ids: Vec<ProcId> = readers.iter().map(|r| r.proc).collect();
    if let Some((cause, by)) = cascade::cause(model, obj, &s.intervals, &ids, now_ns) {
        d.chain(format!("{} was itself blocked at {} meanwhile", name(model, by), object_word(cause)));
        d.severity(Severity::Info);
    }
    if let Some(proc) = sitting.filter(|proc| is_stopped(model, *proc)) {
        d.remedy("Let the receiver go on.", Some(format!("kill -CONT {}", proc.pid())));
    } else if sitting.is_some() {
        d.remedy_in(
            id.ns,
            "Compare the types that are sent with the one that is asked for: a full queue of others lets none in.",
            &[&format!("ipcs -q -i {}", id.id)],
        );
    } else {
        remedies(&mut d, model, &s, receiver.as_ref(), id);
    }
    d.finish()
}

fn is_stopped(model: &Model, proc: ProcId) -> bool {
    model.processes.get(proc).is_some_and(|p| matches!(p.state, Some('T' | 't')))
}

/// `never`: the tables say that nobody has ever received from it.
fn blame(model: &Model, s: &Summary, receiver: Option<&Receiver>, never: bool, now_ns: u64) -> String {
    let Some(r) = receiver else {
        return if never { "nobody has ever received from it" } else { "who should receive from it is not known" }
            .to_owned();
    };
    let who = format!("receiver {}", name(model, r.proc));
    let alive = model.processes.alive(r.proc);
    let since = r.ago(now_ns);
    if s.ongoing > 0 {
        let ago = since.as_ref().map(|t| format!(", which received last {t} ago,")).unwrap_or_default();
        if !alive {
            return format!("{who}{ago} is gone");
        }
        let what = doing(model, r.proc).map(|d| format!(" and {d}")).unwrap_or_default();
        return match since {
            Some(since) => format!("{who} has not received for {since}{what}"),
            None => format!("{who} does not receive{what}"),
        };
    }
    let state = if alive { "" } else { ", now gone," };
    format!("{who}{state} {}", pace::words(s, "received"))
}

fn receiving(model: &Model, r: &Receiver, ongoing: bool, now_ns: u64) -> String {
    let what = doing(model, r.proc).filter(|_| ongoing).map(|d| format!(", {d}")).unwrap_or_default();
    match r.ago(now_ns) {
        Some(ago) => format!("{} received from it last {ago} ago{what}", name(model, r.proc)),
        None => format!("{} received from it last{what}", name(model, r.proc)),
    }
}

fn remedies(d: &mut FindingBuilder<'_>, model: &Model, s: &Summary, receiver: Option<&Receiver>, id: MsgId) {
    match receiver {
        Some(r) if model.processes.alive(r.proc) => {
            let pid = r.proc.pid();
            d.remedy(
                "See what the receiver does instead of receiving.",
                Some(format!("cat /proc/{pid}/stack /proc/{pid}/wchan; grep State /proc/{pid}/status")),
            );
        }
        Some(_) | None if s.ongoing > 0 => {
            d.remedy_in(
                id.ns,
                "Start the receiver, or remove the queue: whoever waits gets EIDRM, and the messages are lost.",
                &[&format!("ipcs -q -i {}", id.id), &format!("ipcrm -q {}", id.id)],
            );
        }
        Some(_) | None => {}
    }
    if !pace::remedy(d, s, "receiver", "queue") {
        d.remedy_in(
            id.ns,
            "Let the queue bridge the pauses: raise msg_qbytes with msgctl(id, IPC_SET, ...), above kernel.msgmnb as root.",
            &["sysctl kernel.msgmnb"],
        );
    }
    d.remedy(
        "If the sender must not wait, send with IPC_NOWAIT and keep what is refused in a buffer of its own.",
        None,
    );
}

#[cfg(test)]
#[path = "msg_stall_tests.rs"]
mod tests;
