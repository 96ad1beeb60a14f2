//! `msg-full`: a message queue refused sends with IPC_NOWAIT while no process received from it.

use crate::finding::Finding;
use crate::finding::builder::{FindingBuilder, count};
use crate::finding::detector::{Detector, Family};
use crate::finding::evidence;
use crate::finding::measure;
use crate::model::Model;
use crate::model::refused::Refusals;
use crate::waits::blame::{MSG_RECEIVERS, ReaderWords};
use crate::waits::queue::{self, boot_ns, rows};
use crate::waits::reader::AwaitedReader;
use crate::waits::refused::{self, Case, Pause, RefusalKind};
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_record::{ObjKey, ProcId};

/// The table's times are exact to this only.
const SECOND_NS: u64 = 1_000_000_000;

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "msg-full",
    mechanism: Some(Mechanism::Msg),
    family: Family::Refused,
    sites: &[Site::MsgSend],
    what: "Non-blocking sends to a message queue fail because no process receives from it.",
    evidence: &[crate::waits::queue::EVIDENCE, &[evidence::EAGAIN, evidence::LAST_DRAIN_AGE_MS, evidence::PIDS]],
    worse: &[measure::EAGAIN],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    refused::detect::<Queue>(model, now_ns)
}

struct Queue;

impl RefusalKind for Queue {
    const DETECTOR: &'static Detector = &ROW;
    const OBJECTS: u32 = kind::MSG;
    const WRITER: &'static str = "sender";
    const READERS: &'static ReaderWords = &MSG_RECEIVERS;

    /// A queue stays full after the last refusal, even if its sender dies, as long as the table shows it full.
    fn pause(model: &Model, obj: ObjKey, _: ProcId, r: &Refusals, _: u64) -> Pause {
        let rows = rows(model, obj);
        // If receivers are not watched, the table has the second of the last receive.
        let by_table = || rows.as_ref().and_then(|s| boot_ns(model, s.last.rtime)).filter(|_| r.reader.is_none());
        let drained_ns =
            r.reader.as_ref().map(|reader| reader.ts_ns).or_else(by_table).map_or(r.first_ns, |t| t.max(r.first_ns));
        let refusing = if r.reader.is_some() { r.undrained_ns } else { r.last_ns.saturating_sub(drained_ns) };
        // That second may end after the last refusal.
        let until_ns = if r.reader.is_some() { r.last_ns } else { r.last_ns.saturating_add(SECOND_NS) };
        let full =
            rows.filter(|s| s.is_full(r.state.msg().message_bytes) && s.read_ns > r.last_ns && drained_ns <= until_ns);
        Pause::longest(refusing, full.map(|s| s.read_ns.saturating_sub(drained_ns)))
    }

    fn readers(case: &Case<'_>) -> Vec<AwaitedReader> {
        queue::receiver(case.model, rows(case.model, case.obj).as_ref(), case.last).into_iter().collect()
    }

    fn last_read_ns(case: &Case<'_>) -> Option<u64> {
        case.readers.first()?.read_ns
    }

    fn failure(case: &Case<'_>) -> String {
        let sends = count(case.eagain, "non-blocking send", "non-blocking sends");
        let what = queue::phrase(case.obj, rows(case.model, case.obj).as_ref(), case.latest.state.msg().message_bytes);
        format!("{sends} to {what} failed with EAGAIN")
    }

    fn complete(case: &Case<'_>, d: &mut FindingBuilder<'_>) {
        queue::add_evidence(
            d,
            case.model,
            case.obj,
            rows(case.model, case.obj).as_ref(),
            case.latest.state.msg().message_bytes,
        );
        d.remedy(
            "Keep what was refused and send it later, or wait in msgsnd(); do not drop it, and do not spin.",
            None,
        );
        match case.readers.first().filter(|r| case.model.processes.alive(r.proc)) {
            Some(r) => Self::READERS.add_inspection(d, r.proc),
            None => {
                let id = crate::model::msg_id(case.obj);
                let show = format!("ipcs -q -i {}", id.id);
                d.remedy_in(id.ns, "Start the receiver, or see what the queue holds.", &[&show]);
            }
        }
    }
}

#[cfg(test)]
#[path = "msg_full_tests.rs"]
mod tests;
