//! `mq-stall`: a thread waited at least min-stall in mq_send or mq_timedsend because the queue is full.
//!
//! A receiver that waits for a message is idle, and never gets here.

use crate::finding::Finding;
use crate::finding::builder::{FindingBuilder, name, names};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::{mq_object, queue};
use crate::finding::time::duration;
use crate::model::Model;
use crate::waits::pace;
use crate::waits::stall::{doing, nobody_else, objects, readers, summary};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::ProcId;

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
    objects(model, kind::MQ)
        .into_iter()
        .filter_map(|obj| {
            let mut s = summary(model, obj, None, now_ns, |w| w.durations.clone())?;
            let senders = s.procs();
            let mut receivers = readers(model, obj, &mut s);
            let alone = nobody_else(model, obj, &senders, &receivers);
            if alone.is_some() {
                receivers.clear();
            }
            let mut d = FindingBuilder::new(model, &ROW, pace::severity(&s));
            d.rests_on_events();
            s.name_waiters(&mut d, "sender");
            for r in receivers.iter().take(4) {
                d.process("receiver", r.proc, None);
            }
            if let Some(c) = model.posix.creation(obj) {
                d.process("creator", c.by, None).stack("creator", c.by, c.stack);
            }
            let blame = match receivers.first() {
                Some(r) if s.ongoing > 0 => {
                    let since = r.read_ns.map_or_else(
                        || "does not receive".to_owned(),
                        |t| format!("has not received for {}", duration(now_ns.saturating_sub(t))),
                    );
                    let what = doing(model, r.proc).map(|w| format!(" and {w}")).unwrap_or_default();
                    format!("receiver {} {since}{what}", name(model, r.proc))
                }
                Some(r) if s.unread_by(r) => format!("receiver {} did not receive", name(model, r.proc)),
                Some(r) => format!("receiver {} {}", name(model, r.proc), pace::words(&s, "took messages")),
                None => alone.unwrap_or("nobody was seen to receive from it").to_owned(),
            };
            let what = queue(model, obj);
            // 0: the kernel's type information lacks it.
            let most = (s.state.a > 0).then_some(s.state.a);
            let full = most.map_or_else(|| " (full)".to_owned(), |most| format!(" (full, {most} messages)"));
            let gave_up = s.gave_up();
            let who = names(model, &senders);
            d.title(format!("{who} {}{gave_up}, for room in {what}{full}: {blame}", s.words()));
            d.object(mq_object(model, obj));
            s.tell(&mut d, model.session.min_stall_ns);
            pace::tell(&mut d, &s);
            let fd = s.waiting.first().map(|w| w.fd).filter(|fd| *fd >= 0);
            d.evidence(evidence::TIMED_OUT, s.timed_out)
                .evidence(evidence::MESSAGES, most.map(|_| s.state.b))
                .evidence(evidence::MAX_MESSAGES, most)
                .evidence(evidence::FD, fd)
                .pids(senders.iter().copied());
            d.chain(format!("{who} {} ({what})", s.words()));
            let receivers: Vec<ProcId> = receivers.iter().map(|r| r.proc).collect();
            if let Some(first) = receivers.first().copied() {
                d.chain(format!("{} should receive from it", names(model, &receivers)));
                let pid = first.pid();
                let look = format!("cat /proc/{pid}/stack /proc/{pid}/wchan");
                d.remedy_if_alive(first, "See what the receiver does instead of receiving.", look);
            }
            if let Some(alone) = alone {
                d.chain(alone);
                d.remedy("Start what should receive from it.", None);
            }
            pace::remedy(&mut d, &s, "receiver", "queue");
            d.remedy(
                "Receive in a thread that does nothing slow, or ask for more room (mq_maxmsg of mq_open, at most \
                 fs.mqueue.msg_max) if the pauses are short.",
                Some("sysctl fs.mqueue".to_owned()),
            );
            d.remedy(
                "If the sender must not wait, use O_NONBLOCK or a time-out, and decide what becomes of what was refused.",
                None,
            );
            d.finish()
        })
        .collect()
}

#[cfg(test)]
#[path = "mq_stall_tests.rs"]
mod tests;
