//! `msg-exhausted`: msgget failed with ENOSPC or ENOMEM, or will soon, and which processes created the queues.

use crate::finding::Finding;
use crate::finding::detector::{Detector, Family};
use crate::finding::measure;
use crate::leaks::exhausted::{self, Counts, Kind, Limit};
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};
use tracer_record::MsgLimitRow;

const KIND: Kind<MsgLimitRow> = Kind {
    detector: &ROW,
    call: "msgget",
    one: "queue",
    many: "queues",
    parts: "",
    // newque in ipc/msg.c
    limits: &[Limit { name: "MSGMNI", counts: Counts::Objects, max: |l| l.msgmni }],
    see: ("See which queues no process uses, and remove them with ipcrm -q.", &["ipcs -q", "ipcs -q -p"]),
    raise: |_| {
        (
            "Raise the limit: kernel.msgmni is the maximum number of queues.".to_owned(),
            "sysctl kernel.msgmni".to_owned(),
        )
    },
    in_code: "Remove each queue with IPC_RMID on every exit path. Replies need only a message type of their own, not a queue.",
};

/// Its row in the table of detectors.
pub(crate) const ROW: Detector = Detector {
    code: "msg-exhausted",
    mechanism: Some(Mechanism::Msg),
    family: Family::Exhausted,
    sites: &[Site::MsgCreate, Site::MsgRemove],
    what: "msgget fails with ENOSPC, or the message queues will soon reach their limit.",
    evidence: &[exhausted::EVIDENCE],
    worse: &[measure::FAILED, measure::LIMIT_PERCENT],
    detect,
};

pub(crate) fn detect(model: &Model, now_ns: u64) -> Vec<Finding> {
    let living = |ns| model.msgs.creators(ns).collect();
    exhausted::detect(model, &KIND, model.msgs.namespaces(), living, now_ns)
}

#[cfg(test)]
#[path = "msg_exhausted_tests.rs"]
mod tests;
