//! `msg-stall`: a sender was blocked for at least min-stall because a message queue was full.
//!
//! A receiver that waits for a message waits for input, and is no stall.

use crate::finding::builder::{FindingBuilder, name};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::blame::MSG_RECEIVERS;
use crate::waits::queue::{self, blocked_receiver, receiver, rows};
use crate::waits::reader::{AwaitedReader, is_stopped};
use crate::waits::stall::{Summary, objects, summary};
use crate::waits::{cascade, pace};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::{MsgId, ObjKey, ProcId};

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
    objects(model, kind::MSG).into_iter().filter_map(|obj| report(model, obj, now_ns)).collect()
}

fn report(model: &Model, obj: ObjKey, now_ns: u64) -> Option<Finding> {
    let s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
    let rows = rows(model, obj);
    let last = model.stalls.object(obj).and_then(|o| o.reader.as_ref());
    let receivers: Vec<AwaitedReader> = receiver(model, rows.as_ref(), last).into_iter().collect();
    if pace::is_over(model, &s, &receivers) {
        return None;
    }
    let message_bytes = s.state.msg().message_bytes;
    let mut d = FindingBuilder::new(model, &ROW, pace::severity(&s));
    d.rests_on_events();
    s.name_waiters(&mut d, "sender");
    for r in &receivers {
        d.process("receiver", r.proc, None);
    }
    let blocked = blocked_receiver(model, rows.as_ref()).filter(|_| s.ongoing > 0);
    if let Some(proc) = blocked {
        d.process("receiver", proc, None);
    }
    let never = rows.as_ref().is_some_and(|q| q.last.rtime == 0);
    let cause = match blocked {
        Some(proc) => blocked_cause(model, proc),
        None => MSG_RECEIVERS.cause(model, &s, &receivers, now_ns).unwrap_or_else(|| {
            if never { "nobody has ever received from it" } else { "the receiver is unknown" }.to_owned()
        }),
    };
    let id = crate::model::msg_id(obj);
    let full = queue::phrase(obj, rows.as_ref(), message_bytes);
    d.title(format!("{}: {cause}", s.sentence(model, &format!("to {full}"))));
    s.add_evidence(&mut d, model.session.min_stall_ns);
    pace::add_evidence(&mut d, &s);
    queue::add_evidence(&mut d, model, obj, rows.as_ref(), message_bytes);
    d.pids(s.procs());
    d.chain(s.sentence(model, &format!("to message queue {}", id.id)));
    match blocked {
        Some(proc) => {
            d.chain(format!("{} is blocked in msgrcv() on message queue {}", name(model, proc), id.id));
        }
        None => MSG_RECEIVERS.add_chain(&mut d, model, &receivers, s.ongoing > 0, now_ns),
    }
    let ids: Vec<ProcId> = receivers.iter().map(|r| r.proc).collect();
    if let Some((at, by)) = cascade::cause(model, obj, &s.intervals, &ids, now_ns) {
        d.chain(cascade::link(model, at, by));
        d.severity(Severity::Info);
    }
    match blocked {
        Some(proc) if is_stopped(model, proc) => {
            d.remedy("Let the receiver continue.", Some(format!("kill -CONT {}", proc.pid())));
        }
        Some(_) => {
            d.remedy_in(
                id.ns,
                "Compare the types that are sent with the one that msgrcv() asks for: a queue full of others takes no more.",
                &[&format!("ipcs -q -i {}", id.id)],
            );
        }
        None => add_remedies(&mut d, model, &s, receivers.first(), id),
    }
    d.finish()
}

fn blocked_cause(model: &Model, proc: ProcId) -> String {
    let why = match is_stopped(model, proc) {
        true => "is stopped in msgrcv() there",
        false => "waits for another type of message in msgrcv() there",
    };
    format!("receiver {} {why}", name(model, proc))
}

fn add_remedies(d: &mut FindingBuilder<'_>, model: &Model, s: &Summary, receiver: Option<&AwaitedReader>, id: MsgId) {
    match receiver.filter(|r| model.processes.alive(r.proc)) {
        Some(r) => MSG_RECEIVERS.add_inspection(d, r.proc),
        None if s.ongoing > 0 => {
            d.remedy_in(
                id.ns,
                "Start the receiver, or remove the queue: blocked senders get EIDRM, and its messages are lost.",
                &[&format!("ipcs -q -i {}", id.id), &format!("ipcrm -q {}", id.id)],
            );
        }
        None => {}
    }
    if !pace::add_remedy(d, s, "receiver", "queue") {
        d.remedy_in(
            id.ns,
            "Let the queue bridge the pauses: raise msg_qbytes with msgctl(id, IPC_SET, ...), above kernel.msgmnb as root.",
            &["sysctl kernel.msgmnb"],
        );
    }
    d.remedy("If the sender must not block, send with IPC_NOWAIT and keep what is refused in a bounded buffer.", None);
}

#[cfg(test)]
#[path = "msg_stall_tests.rs"]
mod tests;
