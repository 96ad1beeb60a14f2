//! `msg-exhausted`: msgget failed with ENOSPC or ENOMEM, or will soon, and who holds how many queues.

use super::exhausted::{self, Counts, Kind, Limit};
use super::finding::Finding;
use crate::model::World;
use tracer_record::MsgLimitRow;

const KIND: Kind<MsgLimitRow> = Kind {
    code: "msg-exhausted",
    call: "msgget",
    one: "queue",
    many: "queues",
    parts: "",
    // newque in ipc/msg.c
    limits: &[Limit { name: "MSGMNI", counts: Counts::Objects, max: |l| l.msgmni }],
    see: ("See which queues nobody uses, and remove them.", &["ipcs -q", "ipcs -q -p", "ipcrm -q ID"]),
    raise: |_| ("Raise the limit: kernel.msgmni is the most queues.".to_owned(), "sysctl kernel.msgmni".to_owned()),
    in_code: "Remove each queue with IPC_RMID on every way out; replies need no queue of their own, a message type does.",
};

pub(super) fn judge(world: &World, now_ns: u64) -> Vec<Finding> {
    let living = |ns| world.msgs.creators(ns).collect();
    exhausted::judge(world, &KIND, world.msgs.namespaces(), living, now_ns)
}

#[cfg(test)]
#[path = "msg_exhausted_tests.rs"]
mod tests;
