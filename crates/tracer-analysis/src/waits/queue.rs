//! What `msg-stall` and `msg-full` share: how full a queue was, and who receives from it.

use crate::finding::builder::FindingBuilder;
use crate::finding::evidence::{self, Evidence};
use crate::finding::object::sysv_object;
use crate::finding::syscall;
use crate::finding::time::duration;
use crate::model::Model;
use crate::model::pid_at::process_at;
use crate::model::stall::Reader;
use tracer_record::{MsgQueue, ObjKey};
use tracer_record::{ProcId, Tgid};

const NS_PER_S: u64 = 1_000_000_000;

/// A queue as the tables told it.
pub(crate) struct Seen<'a> {
    /// Read last, and when.
    pub last: &'a MsgQueue,
    pub read_ns: u64,
    /// With the most bytes in it.
    fullest: &'a MsgQueue,
}

/// What the tables told of a queue; `None` if nobody read it.
pub(crate) fn seen(model: &Model, obj: ObjKey) -> Option<Seen<'_>> {
    let id = crate::model::msg_id(obj);
    let table = model.msgs.get(id).map(|q| (q.read_ns, &q.row));
    match (model.queues.get(id), table) {
        (Some(look), Some((read_ns, row))) if read_ns > look.ts_ns => {
            Some(Seen { last: row, read_ns, fullest: if row.bytes > look.fullest.bytes { row } else { &look.fullest } })
        }
        (Some(look), _) => Some(Seen { last: &look.last, read_ns: look.ts_ns, fullest: &look.fullest }),
        (None, Some((read_ns, row))) => Some(Seen { last: row, read_ns, fullest: row }),
        (None, None) => None,
    }
}

impl Seen<'_> {
    /// The row of a moment at which a message of so many bytes did not fit (`msg_fits_inqueue`, ipc/msg.c).
    pub(crate) fn full(&self, message_bytes: u64) -> Option<&MsgQueue> {
        Some(self.fullest).filter(|row| refuses(row, message_bytes))
    }

    /// Whether such a message did not fit when the queue was read last.
    pub(crate) fn is_full(&self, message_bytes: u64) -> bool {
        refuses(self.last, message_bytes)
    }
}

fn refuses(row: &MsgQueue, message_bytes: u64) -> bool {
    row.qbytes > 0 && (row.bytes.saturating_add(message_bytes) > row.qbytes || row.messages >= row.qbytes)
}

/// When the whole second of a table's time was over, on the boot clock.
pub(crate) fn boot_ns(model: &Model, at_s: u64) -> Option<u64> {
    let s = &model.session;
    let at_ns = at_s.saturating_add(1).saturating_mul(NS_PER_S);
    (s.wall_ns > 0 && at_s > 0).then(|| at_ns.saturating_add(s.start_ns).saturating_sub(s.wall_ns))
}

/// Who received last from a queue.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub proc: ProcId,
    /// `None` if the clocks do not tell.
    pub at_ns: Option<u64>,
    /// It was not seen: the table tells, to the second.
    pub about: bool,
}

impl Receiver {
    /// How long that is ago, in words.
    pub(crate) fn ago(&self, now_ns: u64) -> Option<String> {
        let about = if self.about { "about " } else { "" };
        self.at_ns.map(|t| format!("{about}{}", duration(now_ns.saturating_sub(t))))
    }
}

/// Who received last: as it was seen, else as the tables tell.
pub(crate) fn receiver(model: &Model, seen: Option<&Seen<'_>>, last: Option<&Reader>) -> Option<Receiver> {
    if let Some(r) = last {
        return Some(Receiver { proc: r.proc, at_ns: Some(r.ts_ns), about: false });
    }
    let row = seen.map(|s| s.last).filter(|row| row.lrpid != 0 && row.rtime != 0)?;
    let at_ns = boot_ns(model, row.rtime).map(|ns| ns.min(model.now_ns));
    Some(Receiver { proc: process_at(model, row.lrpid, row.rtime), at_ns, about: true })
}

/// Who sits in msgrcv on a queue in which messages lie: what it asks for is not among them.
pub(crate) fn sitting(model: &Model, seen: Option<&Seen<'_>>) -> Option<ProcId> {
    let receives = |call: Option<i64>| call.and_then(|nr| syscall::name(&model.session.arch, nr)) == Some("msgrcv");
    let waiting = seen?.last.waiting.iter().filter_map(|pid| model.processes.by_pid(Tgid(*pid)));
    let mut alive = waiting.filter(|p| p.alive());
    alive.find(|p| receives(p.syscall) || model.waits.of(p.id).any(|t| receives(t.syscall))).map(|p| p.id)
}

/// What [`tell`] fills in.
pub(crate) const EVIDENCE: &[Evidence] =
    &[evidence::MESSAGE_BYTES, evidence::QUEUED_BYTES, evidence::MESSAGES, evidence::QBYTES, evidence::IDS];

/// Fills in the object, its creator, and how full it was when a message of so many bytes did not fit.
pub(crate) fn tell(
    d: &mut FindingBuilder<'_>,
    model: &Model,
    obj: ObjKey,
    seen: Option<&Seen<'_>>,
    message_bytes: u64,
) {
    let id = crate::model::msg_id(obj);
    let full = seen.and_then(|s| s.full(message_bytes));
    if let Some(c) = model.msgs.creation(id) {
        d.process("creator", c.by, None).stack("creator", c.by, c.stack);
    }
    d.object(sysv_object("msg", id.ns, id.id, seen.map(|s| s.last.key)))
        .evidence(evidence::MESSAGE_BYTES, message_bytes)
        .evidence(evidence::QUEUED_BYTES, full.map(|row| row.bytes))
        .evidence(evidence::MESSAGES, full.map(|row| row.messages))
        .evidence(evidence::QBYTES, seen.map(|s| s.last.qbytes).filter(|n| *n > 0))
        .ids([id.id.to_string()]);
}

/// `message queue 5, 16 messages, 16384 of 16384 bytes`, as far as it is known.
pub(crate) fn words(obj: ObjKey, seen: Option<&Seen<'_>>, message_bytes: u64) -> String {
    let full = seen.and_then(|s| s.full(message_bytes));
    let fill = full.map_or_else(String::new, |row| {
        format!(", {} messages, {} of {} bytes full", row.messages, row.bytes, row.qbytes)
    });
    format!("message queue {}{fill}", crate::model::msg_id(obj).id)
}
