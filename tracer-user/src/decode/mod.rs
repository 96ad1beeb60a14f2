//! Records to events: bytes of the ring buffer become typed, everything else passes through.
//!
//! Pure: it must not read a clock, a file or the kernel, and it must not panic on any bytes.

pub mod futex;
mod id;

pub use id::{Fd, FilesId, Inode, MsgId, NsId, ProcId, SemId, ShmId, StackId, TICK_NS, Tgid, Tid};

use crate::record::{
    BlockedThread, ChildRow, Comm, FdTable, Frame, FutexRow, Holder, Inventory, LimitRow, MsgQueue, ObjKey, PipeOwner,
    Place, ProcessRow, ReaderLook, Record, RefusedRow, SocketRow, ThreadRow,
};
use tracer_common::event::{Body, HEADER_LEN, Header, WireError, read};
use tracer_common::site::Site;

/// One thing that happened or was seen; the only type that flows into the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// The kernel said so.
    Kernel(Context, Body),
    Baseline(&'a Inventory),
    Closing(&'a Inventory),
    Tick {
        ts_ns: u64,
    },
    Lost {
        ts_ns: u64,
        site: Option<Site>,
        count: u64,
    },
    Blocked {
        ts_ns: u64,
        threads: &'a [BlockedThread],
    },
    Refused {
        ts_ns: u64,
        rows: &'a [RefusedRow],
    },
    Children {
        ts_ns: u64,
        rows: &'a [ChildRow],
    },
    Holders {
        ts_ns: u64,
        obj: ObjKey,
        holders: &'a [Holder],
        complete: bool,
    },
    FdTable(&'a FdTable),
    Process {
        ts_ns: u64,
        row: &'a ProcessRow,
    },
    ForkLimits {
        ts_ns: u64,
        tgid: Tgid,
        limits: &'a [LimitRow],
    },
    PipeUser {
        ts_ns: u64,
        uid: u32,
        processes: &'a [PipeOwner],
        soft_pages: u64,
    },
    Queues {
        ts_ns: u64,
        rows: &'a [MsgQueue],
    },
    Stack {
        id: StackId,
        frames: &'a [Frame],
        unwound: usize,
    },
    SameStack {
        id: StackId,
        of: StackId,
    },
    Symbols {
        id: StackId,
        places: &'a [Vec<Place>],
    },
    End {
        ts_ns: u64,
    },
    Sockets {
        ts_ns: u64,
        rows: &'a [SocketRow],
    },
    Futexes {
        ts_ns: u64,
        rows: &'a [FutexRow],
    },
    Threads {
        ts_ns: u64,
        rows: &'a [ThreadRow],
    },
    Readers {
        ts_ns: u64,
        rows: &'a [ReaderLook],
    },
}

/// Who caused a kernel event, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub ts_ns: u64,
    pub proc: ProcId,
    pub tid: Tid,
    pub uid: u32,
    pub site: Option<Site>,
    pub stack: Option<StackId>,
    pub comm: Comm,
}

/// Why a record is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("kernel record cannot be decoded: {0}; the trace was written by another version or is damaged")]
    Wire(WireError),
}

/// Decodes one record; `None` for records that say nothing about the world (the session's own facts).
///
/// # Errors
/// A kernel record with too few bytes or of an unknown kind. The caller counts it and goes on.
pub fn decode(record: &Record) -> Result<Option<Event<'_>>, DecodeError> {
    Ok(Some(match record {
        Record::Session(_) => return Ok(None),
        Record::Kernel(bytes) => return kernel(bytes).map(Some),
        Record::Baseline(inventory) => Event::Baseline(inventory),
        Record::Closing(inventory) => Event::Closing(inventory),
        Record::Tick { ts_ns } => Event::Tick { ts_ns: *ts_ns },
        Record::Lost { ts_ns, site, count } => {
            Event::Lost { ts_ns: *ts_ns, site: Site::from_raw(*site), count: *count }
        }
        Record::Blocked { ts_ns, threads } => Event::Blocked { ts_ns: *ts_ns, threads },
        Record::Refused { ts_ns, rows } => Event::Refused { ts_ns: *ts_ns, rows },
        Record::Children { ts_ns, rows } => Event::Children { ts_ns: *ts_ns, rows },
        Record::Holders { ts_ns, obj, holders, complete } => {
            Event::Holders { ts_ns: *ts_ns, obj: *obj, holders, complete: *complete }
        }
        Record::FdTable(table) => Event::FdTable(table),
        Record::Process { ts_ns, row } => Event::Process { ts_ns: *ts_ns, row },
        Record::ForkLimits { ts_ns, tgid, limits } => Event::ForkLimits { ts_ns: *ts_ns, tgid: Tgid(*tgid), limits },
        Record::PipeUser { ts_ns, uid, processes, soft_pages } => {
            Event::PipeUser { ts_ns: *ts_ns, uid: *uid, processes, soft_pages: *soft_pages }
        }
        Record::Queues { ts_ns, rows } => Event::Queues { ts_ns: *ts_ns, rows },
        Record::Stack { id, frames, unwound } => Event::Stack { id: StackId(*id), frames, unwound: *unwound },
        Record::SameStack { id, of } => Event::SameStack { id: StackId(*id), of: StackId(*of) },
        Record::Symbols { id, places } => Event::Symbols { id: StackId(*id), places },
        Record::End { ts_ns } => Event::End { ts_ns: *ts_ns },
        Record::Sockets { ts_ns, rows } => Event::Sockets { ts_ns: *ts_ns, rows },
        Record::Futexes { ts_ns, rows } => Event::Futexes { ts_ns: *ts_ns, rows },
        Record::Threads { ts_ns, rows } => Event::Threads { ts_ns: *ts_ns, rows },
        Record::Readers { ts_ns, rows } => Event::Readers { ts_ns: *ts_ns, rows },
    }))
}

fn kernel(bytes: &[u8]) -> Result<Event<'static>, DecodeError> {
    let header: Header = read(bytes).map_err(DecodeError::Wire)?;
    let body = Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()).map_err(DecodeError::Wire)?;
    let context = Context {
        ts_ns: header.ts_ns,
        proc: ProcId::new(header.tgid, header.start_ns),
        tid: Tid(header.tid),
        uid: header.uid,
        site: Site::from_raw(header.site),
        stack: (header.stack >= 0).then_some(StackId(header.stack)),
        comm: header.comm.into(),
    };
    Ok(Event::Kernel(context, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::event::SemFirstUse;

    fn header(kind: u16) -> Vec<u8> {
        let h = Header { ts_ns: 5, start_ns: 123_456_789, kind, tgid: 7, tid: 8, stack: -1, ..Header::default() };
        crate::world::fixture::header_bytes(&h)
    }

    #[test]
    fn kernel_records() {
        let body = SemFirstUse { id: 3, ns: 4 };
        let mut good = header(13);
        Body::SemFirstUse(body).encode(|b| good.extend_from_slice(b));
        let record = Record::Kernel(good.clone());
        let event = decode(&record).ok().flatten();
        let Some(Event::Kernel(context, Body::SemFirstUse(got))) = event else {
            unreachable!("not decoded: {event:?}")
        };
        assert_eq!((context.proc, context.tid, context.stack), (ProcId::new(7, 123_000_000), Tid(8), None));
        assert_eq!(got, body);
        // Every cut and every unknown kind is an error, never a panic.
        for cut in 0..good.len() {
            assert!(decode(&Record::Kernel(good[..cut].to_vec())).is_err(), "cut at {cut}");
        }
        assert_eq!(decode(&Record::Kernel(header(9999))), Err(DecodeError::Wire(WireError::UnknownKind(9999))));
    }
}
