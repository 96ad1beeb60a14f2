//! `mq-full`: a POSIX message queue refused sends, or let them time out, while no process received from it.

use crate::finding::builder::{FindingBuilder, count};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::finding::object::{mq_object, queue};
use crate::finding::{Finding, Severity};
use crate::model::Model;
use crate::waits::blame::{MQ_RECEIVERS, ReaderWords};
use crate::waits::reader::{AwaitedReader, nobody_else, readers_from};
use crate::waits::refused::{self, Case, RefusalKind, Row, paused};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "mq-full",
    mechanism: Some(Mechanism::Mq),
    family: Family::Refused,
    sites: &[Site::MqSend],
    what: "Sends to a POSIX message queue fail or time out because no process receives from it.",
    evidence: &[&[
        evidence::EAGAIN,
        evidence::TIMED_OUT,
        evidence::LAST_DRAIN_AGE_MS,
        evidence::MAX_MESSAGES,
        evidence::FD,
        evidence::PIDS,
    ]],
    worse: &[measure::EAGAIN, measure::TIMED_OUT],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    refused::detect::<Queue>(model, now_ns)
}

struct Queue;

/// Sends that ended by their timeout.
fn timed_out(case: &Case<'_>) -> u64 {
    case.rows.iter().map(|r| r.refusals.state.mq().timed_out).fold(0, u64::saturating_add)
}

/// Messages that the queue takes; `None` if the kernel's type information lacks it.
fn capacity(case: &Case<'_>) -> Option<u64> {
    Some(case.latest.state.mq().max_messages).filter(|n| *n > 0)
}

/// The processes that should receive, and in words, that only the senders have the queue open.
fn receivers(case: &Case<'_>) -> (Vec<AwaitedReader>, Option<&'static str>) {
    let receivers = readers_from(case.model, case.obj, &case.writers, case.last, case.lasts());
    match nobody_else(case.model, case.obj, &case.writers, &receivers) {
        Some(alone) => (Vec::new(), Some(alone)),
        None => (receivers, None),
    }
}

impl RefusalKind for Queue {
    const DETECTOR: &'static Detector = &ROW;
    const OBJECTS: u32 = kind::MQ;
    const WRITER: &'static str = "sender";
    const READERS: &'static ReaderWords = &MQ_RECEIVERS;

    /// Timeouts count as well.
    fn counts(model: &Model, row: &Row<'_>) -> bool {
        paused(model, row)
    }

    fn readers(case: &Case<'_>) -> Vec<AwaitedReader> {
        receivers(case).0
    }

    /// `mq-stall` reports a single timeout, with its duration; several are refusals, as EAGAIN is.
    fn is_finding(case: &Case<'_>) -> bool {
        case.eagain > 0 || timed_out(case) > 1
    }

    fn severity(case: &Case<'_>) -> Severity {
        case.severity(case.eagain.saturating_add(timed_out(case)))
    }

    fn failure(case: &Case<'_>) -> String {
        let to = queue(case.model, case.obj);
        let full = capacity(case).map(|most| format!(" (full, {most} messages)")).unwrap_or_default();
        let sends = |n: u64| count(n, "send", "sends");
        match (case.eagain, timed_out(case)) {
            (eagain, 0) => format!("{} to {to}{full} failed with EAGAIN", sends(eagain)),
            (0, late) => format!("{} to {to}{full} timed out", sends(late)),
            (eagain, late) => format!("{} to {to}{full} failed with EAGAIN and {late} timed out", sends(eagain)),
        }
    }

    fn nobody(case: &Case<'_>) -> String {
        let alone = receivers(case).1.map(|alone| format!("{alone}, and ")).unwrap_or_default();
        format!("{alone}nobody received from it{}", case.for_pause())
    }

    fn complete(case: &Case<'_>, d: &mut FindingBuilder<'_>) {
        d.object(mq_object(case.model, case.obj))
            .evidence(evidence::TIMED_OUT, timed_out(case))
            .evidence(evidence::MAX_MESSAGES, capacity(case))
            .evidence(evidence::FD, case.fd());
        if let Some(r) = case.readers.first() {
            Self::READERS.add_inspection(d, r.proc);
        }
        d.remedy(
            "Keep what was refused and send it when poll() reports that the queue has room; do not drop it.",
            None,
        );
        d.remedy(
            "If bursts are larger than the queue, ask for more room (mq_maxmsg of mq_open, at most fs.mqueue.msg_max).",
            Some("sysctl fs.mqueue".to_owned()),
        );
    }
}

#[cfg(test)]
#[path = "mq_full_tests.rs"]
mod tests;
