//! `mq-stall`: a thread was blocked for at least min-stall in mq_send or mq_timedsend because the queue is full.
//!
//! A receiver that waits for a message is idle, and no stall.

use crate::finding::Finding;
use crate::finding::builder::FindingBuilder;
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::{mq_object, queue};
use crate::model::Model;
use crate::waits::blame::MQ_RECEIVERS;
use crate::waits::pace;
use crate::waits::reader::{AwaitedReader, MAX_READERS, nobody_else, readers};
use crate::waits::stall::{Summary, objects, summary};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ObjKey;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "mq-stall",
    mechanism: Some(Mechanism::Mq),
    family: Family::Stall,
    sites: &[Site::MqSend, Site::Blocked],
    what: "A sender blocks for a long time because a POSIX message queue is full.",
    evidence: &[
        crate::waits::stall::EVIDENCE,
        pace::EVIDENCE,
        &[evidence::TIMED_OUT, evidence::MESSAGES, evidence::MAX_MESSAGES, evidence::FD, evidence::PIDS],
    ],
    worse: measure::STALLS,
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    objects(model, kind::MQ).into_iter().filter_map(|obj| report(model, obj, now_ns)).collect()
}

fn report(model: &Model, obj: ObjKey, now_ns: u64) -> Option<Finding> {
    let mut s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
    let mut receivers = readers(model, obj, &mut s);
    receivers.truncate(MAX_READERS);
    let alone = nobody_else(model, obj, &s.procs(), &receivers);
    if alone.is_some() {
        receivers.clear();
    }
    let mut d = FindingBuilder::new(model, &ROW, pace::severity(&s));
    d.rests_on_events();
    s.name_waiters(&mut d, "sender");
    for r in &receivers {
        d.process("receiver", r.proc, None);
    }
    if let Some(c) = model.posix.creation(obj) {
        d.process("creator", c.by, None).stack("creator", c.by, c.stack);
    }
    let cause = MQ_RECEIVERS.cause(model, &s, &receivers, now_ns);
    let cause = cause.unwrap_or_else(|| alone.unwrap_or("nobody was seen receiving from it").to_owned());
    let to = format!("to {}", queue(model, obj));
    // 0: the kernel's type information lacks it.
    let state = s.state.mq();
    let most = (state.max_messages > 0).then_some(state.max_messages);
    let full = most.map_or_else(|| "(full)".to_owned(), |most| format!("(full, {most} messages)"));
    d.title(format!("{}: {cause}", s.sentence(model, &format!("{to} {full}"))));
    d.object(mq_object(model, obj));
    s.add_evidence(&mut d, model.session.min_stall_ns);
    pace::add_evidence(&mut d, &s);
    let fd = s.waiting.first().map(|w| w.fd).filter(|fd| *fd >= 0);
    d.evidence(evidence::TIMED_OUT, s.timed_out)
        .evidence(evidence::MESSAGES, most.map(|_| state.messages))
        .evidence(evidence::MAX_MESSAGES, most)
        .evidence(evidence::FD, fd)
        .pids(s.procs());
    d.chain(s.sentence(model, &to));
    MQ_RECEIVERS.add_chain(&mut d, model, &receivers, s.ongoing > 0, now_ns);
    if let Some(alone) = alone {
        d.chain(alone);
    }
    add_remedies(&mut d, &s, receivers.first(), alone.is_some());
    d.finish()
}

fn add_remedies(d: &mut FindingBuilder<'_>, s: &Summary, receiver: Option<&AwaitedReader>, alone: bool) {
    if let Some(r) = receiver {
        MQ_RECEIVERS.add_inspection(d, r.proc);
    }
    if alone {
        d.remedy("Start the process that should receive from it.", None);
    }
    pace::add_remedy(d, s, "receiver", "queue");
    d.remedy(
        "Receive in a thread that does nothing slow, or ask for more room (mq_maxmsg of mq_open, at most fs.mqueue.msg_max) \
         if the pauses are short.",
        Some("sysctl fs.mqueue".to_owned()),
    );
    d.remedy(
        "If the sender must not block, use O_NONBLOCK or a timeout, and decide what happens to refused messages.",
        None,
    );
}

#[cfg(test)]
#[path = "mq_stall_tests.rs"]
mod tests;
