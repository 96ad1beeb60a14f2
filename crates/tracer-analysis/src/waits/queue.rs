//! What `msg-stall` and `msg-full` share: how full a queue was, and which process receives from it.

use crate::finding::builder::FindingBuilder;
use crate::finding::evidence::{self, Evidence};
use crate::finding::object::sysv_object;
use crate::finding::syscall;
use crate::model::Model;
use crate::model::pid_at::process_at;
use crate::model::stall::Reader;
use crate::waits::reader::AwaitedReader;
use tracer_record::{MsgQueue, ObjKey};
use tracer_record::{ProcId, Tgid};

const NS_PER_S: u64 = 1_000_000_000;

/// Rows of the kernel's table for one queue.
pub(crate) struct Rows<'a> {
    /// The last one, and when it was read.
    pub last: &'a MsgQueue,
    pub read_ns: u64,
    /// The one with the most bytes.
    fullest: &'a MsgQueue,
}

/// The rows of a queue; `None` if the table was never read with it.
pub(crate) fn rows(model: &Model, obj: ObjKey) -> Option<Rows<'_>> {
    let id = crate::model::msg_id(obj);
    let table = model.msgs.get(id).map(|q| (q.read_ns, &q.row));
    match (model.sampled_queues.get(id), table) {
        (Some(known), Some((read_ns, row))) if read_ns > known.ts_ns => Some(Rows {
            last: row,
            read_ns,
            fullest: if row.bytes > known.fullest.bytes { row } else { &known.fullest },
        }),
        (Some(known), _) => Some(Rows { last: &known.last, read_ns: known.ts_ns, fullest: &known.fullest }),
        (None, Some((read_ns, row))) => Some(Rows { last: row, read_ns, fullest: row }),
        (None, None) => None,
    }
}

impl Rows<'_> {
    /// The row of a moment at which a message of this size did not fit (`msg_fits_inqueue`, ipc/msg.c).
    pub(crate) fn full(&self, message_bytes: u64) -> Option<&MsgQueue> {
        Some(self.fullest).filter(|row| refuses(row, message_bytes))
    }

    /// Whether such a message did not fit when the row was read last.
    pub(crate) fn is_full(&self, message_bytes: u64) -> bool {
        refuses(self.last, message_bytes)
    }
}

fn refuses(row: &MsgQueue, message_bytes: u64) -> bool {
    row.qbytes > 0 && (row.bytes.saturating_add(message_bytes) > row.qbytes || row.messages >= row.qbytes)
}

/// The end of a second of the table's clock, on the boot clock.
pub(crate) fn boot_ns(model: &Model, at_s: u64) -> Option<u64> {
    let s = &model.session;
    let at_ns = at_s.saturating_add(1).saturating_mul(NS_PER_S);
    (s.wall_ns > 0 && at_s > 0).then(|| at_ns.saturating_add(s.start_ns).saturating_sub(s.wall_ns))
}

/// The last receiver: the one that was seen, else the one that the table names.
pub(crate) fn receiver(model: &Model, rows: Option<&Rows<'_>>, last: Option<&Reader>) -> Option<AwaitedReader> {
    if let Some(r) = last {
        return Some(AwaitedReader { proc: r.proc, read_ns: Some(r.ts_ns), about: false });
    }
    let row = rows.map(|s| s.last).filter(|row| row.lrpid != 0 && row.rtime != 0)?;
    let read_ns = boot_ns(model, row.rtime).map(|ns| ns.min(model.now_ns));
    Some(AwaitedReader { proc: process_at(model, row.lrpid, row.rtime), read_ns, about: true })
}

/// A process that is blocked in msgrcv on a queue with messages: none of them has the type that it asks for.
pub(crate) fn blocked_receiver(model: &Model, rows: Option<&Rows<'_>>) -> Option<ProcId> {
    let receives = |call: Option<i64>| call.and_then(|nr| syscall::name(&model.session.arch, nr)) == Some("msgrcv");
    let waiting = rows?.last.waiting.iter().filter_map(|pid| model.processes.by_pid(Tgid(*pid)));
    let mut alive = waiting.filter(|p| p.alive());
    alive.find(|p| receives(p.syscall) || model.waits.of(p.id).any(|t| receives(t.syscall))).map(|p| p.id)
}

/// The evidence that [`add_evidence`] adds.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::MESSAGE_BYTES, evidence::QUEUED_BYTES, evidence::MESSAGES, evidence::QBYTES, evidence::IDS];

/// Adds the object, its creator, and how full it was when a message of this size did not fit.
pub(crate) fn add_evidence(
    d: &mut FindingBuilder<'_>,
    model: &Model,
    obj: ObjKey,
    rows: Option<&Rows<'_>>,
    message_bytes: u64,
) {
    let id = crate::model::msg_id(obj);
    let full = rows.and_then(|s| s.full(message_bytes));
    if let Some(c) = model.msgs.creation(id) {
        d.process("creator", c.by, None).stack("creator", c.by, c.stack);
    }
    d.object(sysv_object("msg", id.ns, id.id, rows.map(|s| s.last.key)))
        .evidence(evidence::MESSAGE_BYTES, message_bytes)
        .evidence(evidence::QUEUED_BYTES, full.map(|row| row.bytes))
        .evidence(evidence::MESSAGES, full.map(|row| row.messages))
        .evidence(evidence::QBYTES, rows.map(|s| s.last.qbytes).filter(|n| *n > 0))
        .ids([id.id.to_string()]);
}

/// `message queue 5 (16 messages, 16384 of 16384 bytes)`; without the fill if it is unknown.
pub(crate) fn phrase(obj: ObjKey, rows: Option<&Rows<'_>>, message_bytes: u64) -> String {
    let full = rows.and_then(|s| s.full(message_bytes));
    let fill = full
        .map_or_else(String::new, |row| format!(" ({} messages, {} of {} bytes)", row.messages, row.bytes, row.qbytes));
    format!("message queue {}{fill}", crate::model::msg_id(obj).id)
}
