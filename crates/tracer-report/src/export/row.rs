//! Records as rows of the table of events. A record may have many rows: one for each waiting thread or listed object.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use tracer_common::event::Body;
use tracer_common::map::kind;
use tracer_common::site::{Mechanism, Site};
use tracer_common::syscall::Syscall;

use super::object::{fill, sysv};
use super::payload;
use super::table::{EventRow, Wall};
use tracer_record::decode::{Context, KernelEvent};
use tracer_record::{BlockedThread, Clocks, Inventory, ObjKey, ProcessRow, Record, RefusedRow, State, TICK_NS};

/// Kinds of rows that are not kernel events.
pub const READ: &[&str] = &[
    "tick",
    "end",
    "lost",
    "blocked",
    "refused",
    "children",
    "holder",
    "fd_table",
    "process",
    "fork_limits",
    "pipe_user",
    "msg_queue",
    "socket",
    "futex",
    "thread",
    "reader",
    "stack",
    "same_stack",
    "symbols",
    "semaphore_set",
    "sem_limits",
    "shm_segment",
    "shm_limits",
    "msg_limits",
    "passed",
    "posix_object",
    "in_flight",
    "small_pipes",
    "system_limits",
    "problem",
];

/// Kinds of rows that are kernel events.
pub fn kernel_kinds() -> impl Iterator<Item = String> {
    Body::NAMES.iter().map(|name| snake(name))
}

/// Receives rows.
type Put<'a> = &'a mut dyn FnMut(&EventRow<'_>) -> io::Result<()>;

/// Passes each row of a record to `put`.
pub(super) fn each(clocks: Clocks, record: &Record, event: Option<&KernelEvent>, put: Put<'_>) -> io::Result<()> {
    let rows = Rows { clocks };
    match record {
        Record::Session(_) => Ok(()),
        Record::Kernel(_) => event.map_or(Ok(()), |e| put(&rows.kernel(&e.context, &e.body)?)),
        Record::Baseline(inventory) => rows.inventory("baseline", inventory, put),
        Record::Closing(inventory) => rows.inventory("closing", inventory, put),
        Record::Tick { ts_ns } => put(&rows.at("tick", *ts_ns)),
        Record::End { ts_ns } => put(&rows.at("end", *ts_ns)),
        Record::Lost { ts_ns, site, count } => {
            let site = Site::from_raw(*site);
            put(&EventRow {
                site: site.map(|s| s.info().name.into()),
                mechanism: site.map(|s| s.info().mechanism.name().into()),
                ..rows.with("lost", *ts_ns, &serde_json::json!({ "count": count }))?
            })
        }
        Record::Blocked { ts_ns, threads } => threads.iter().try_for_each(|t| put(&rows.blocked(*ts_ns, t)?)),
        Record::Refused { ts_ns, rows: all } => all.iter().try_for_each(|r| put(&rows.refused(*ts_ns, r)?)),
        Record::Children { ts_ns, rows: all } => all.iter().try_for_each(|r| {
            put(&EventRow {
                mechanism: named(Mechanism::Child),
                ..of(rows.with("children", *ts_ns, r)?, r.tgid, r.start_ns)
            })
        }),
        Record::Holders { ts_ns, obj, holders, complete } => holders.iter().try_for_each(|h| {
            let payload = serde_json::json!({ "holder": h, "complete": complete });
            let row = of(rows.with("holder", *ts_ns, &payload)?, h.tgid, h.start_ns);
            put(&about(EventRow { comm: text(&h.comm), fd: Some(h.fd.into()), ..row }, *obj))
        }),
        Record::FdTable(t) => put(&of(rows.with("fd_table", t.ts_ns, t)?, t.tgid, t.start_ns)),
        Record::Process { ts_ns, row } => put(&rows.process(*ts_ns, row)?),
        Record::ForkLimits { ts_ns, tgid, limits } => {
            put(&EventRow { pid: Some((*tgid).into()), ..rows.with("fork_limits", *ts_ns, limits)? })
        }
        Record::PipeUser { ts_ns, uid, processes, soft_pages } => {
            let payload = serde_json::json!({ "processes": processes, "soft_pages": soft_pages });
            put(&EventRow { uid: Some((*uid).into()), ..rows.with("pipe_user", *ts_ns, &payload)? })
        }
        Record::Queues { ts_ns, rows: all } => all.iter().try_for_each(|q| put(&rows.queue(*ts_ns, q)?)),
        Record::Sockets { ts_ns, rows: all } => all.iter().try_for_each(|s| {
            let obj = ObjKey { kind: kind::SOCKET, ns: 0, id: s.ino };
            let row = about(rows.with("socket", *ts_ns, s)?, obj);
            put(&EventRow { fill: s.pending, capacity: s.backlog, fill_unit: s.pending.map(|_| "count".into()), ..row })
        }),
        Record::Futexes { ts_ns, rows: all } => {
            all.iter().try_for_each(|f| put(&about(rows.with("futex", *ts_ns, f)?, f.obj)))
        }
        Record::Threads { ts_ns, rows: all } => all.iter().try_for_each(|t| {
            let row = of(rows.with("thread", *ts_ns, t)?, t.tgid, t.start_ns);
            put(&EventRow { tid: Some(t.tid.into()), comm: text(&t.comm), stack: t.stack.map(i64::from), ..row })
        }),
        Record::Readers { ts_ns, rows: all } => all.iter().try_for_each(|r| {
            let row = about(of(rows.with("reader", *ts_ns, r)?, r.tgid, r.start_ns), r.obj);
            put(&EventRow { tid: Some(r.tid.into()), stack: r.stack.map(i64::from), ..row })
        }),
        Record::Stack { id, frames, unwound } => {
            let payload = serde_json::json!({ "frames": frames, "unwound": unwound });
            put(&EventRow { stack: Some((*id).into()), ..rows.timeless("stack", &payload)? })
        }
        Record::SameStack { id, of } => {
            let payload = serde_json::json!({ "of": of });
            put(&EventRow { stack: Some((*id).into()), ..rows.timeless("same_stack", &payload)? })
        }
        Record::Symbols { id, places } => {
            put(&EventRow { stack: Some((*id).into()), ..rows.timeless("symbols", &places)? })
        }
    }
}

struct Rows {
    clocks: Clocks,
}

impl Rows {
    fn at(&self, kind: &'static str, ts_ns: u64) -> EventRow<'static> {
        EventRow {
            time_ns: Some(ts_ns),
            time: self.clocks.wall_ns(ts_ns).and_then(|ns| i64::try_from(ns).ok()).map(Wall),
            source: Some("sample".into()),
            kind: Some(kind.into()),
            ..EventRow::default()
        }
    }

    fn with(&self, kind: &'static str, ts_ns: u64, payload: &impl Serialize) -> io::Result<EventRow<'static>> {
        Ok(EventRow { payload: Some(payload::read(payload)?), ..self.at(kind, ts_ns) })
    }

    fn timeless(&self, kind: &'static str, payload: &impl Serialize) -> io::Result<EventRow<'static>> {
        Ok(EventRow { time_ns: None, time: None, ..self.with(kind, 0, payload)? })
    }

    /// The row of a kernel event with everything that all events have.
    fn header<'a>(&self, context: &'a Context, body: &Body) -> io::Result<EventRow<'a>> {
        Ok(EventRow {
            source: Some("kernel".into()),
            kind: Some(snake(body.name()).into()),
            mechanism: context.site.map(|s| s.info().mechanism.name().into()),
            site: context.site.map(|s: Site| s.info().name.into()),
            pid: Some(context.proc.pid().into()),
            tid: Some(context.tid.0.into()),
            start_ns: started(context.proc.start_ticks.saturating_mul(TICK_NS)),
            uid: Some(context.uid.into()),
            comm: Some(context.comm.to_string_lossy()).filter(|comm| !comm.is_empty()),
            stack: context.stack.map(|s| s.0.into()),
            payload: Some(payload::kernel(body)?),
            ..self.at("", context.ts_ns)
        })
    }

    fn kernel<'a>(&self, context: &'a Context, body: &Body) -> io::Result<EventRow<'a>> {
        let mut row = self.header(context, body)?;
        let ino = |kind: u32, id: u64| ObjKey { kind, ns: 0, id };
        match body {
            Body::Stall(e) => {
                let obj = ObjKey::from(e.obj);
                row.call = called(Syscall::from_raw(u8::try_from(e.call).unwrap_or(0)));
                row.result = Some(e.ret);
                row.errno = (e.ret < 0).then(|| e.ret.unsigned_abs());
                row.fd = (e.fd >= 0).then(|| e.fd.into());
                row.duration_ns = Some(e.until_ns.saturating_sub(e.since_ns));
                row = filled(about(row, obj), obj, e.state.into());
            }
            // The header of this event names whichever process was running.
            Body::Free(e) => {
                row = of(EventRow { tid: None, uid: None, comm: None, ..row }, e.tgid, e.start_ns);
            }
            Body::SemRemove(e) => row = about(unless_gone(row, e.ns_end), sysv(kind::SEM, e.ns, e.id)),
            Body::SysvRemove(e) => row = about(unless_gone(row, e.ns_end), sysv(e.kind, e.ns, e.id)),
            Body::ForkFail(e) => row = failed(row, e.errno),
            Body::SemFail(e) => row = failed(row, e.errno),
            Body::SysvFail(e) => row = failed(row, e.errno),
            Body::MqFail(e) => row = failed(row, e.errno),
            Body::FdFail(e) => {
                row = failed(row, e.errno);
                row.call = called(Syscall::from_raw(u8::try_from(e.call).unwrap_or(0)));
            }
            Body::SemCreate(e) => row = about(row, sysv(kind::SEM, e.ns, e.id)),
            Body::SemFirstUse(e) => row = about(row, sysv(kind::SEM, e.ns, e.id)),
            Body::SemHeldAtExit(e) => row = about(row, sysv(kind::SEM, e.ns, e.id)),
            Body::SemSet(e) => row = about(row, sysv(kind::SEM, e.ns, e.id)),
            Body::SysvCreate(e) => row = about(row, sysv(e.kind, e.ns, e.id)),
            Body::PipeCreate(e) => row = about(row, ino(kind::PIPE, e.ino)),
            Body::PipeResize(e) => {
                row = about(row, ino(kind::PIPE, e.ino));
                row.result = Some(e.ret);
                row.errno = (e.ret < 0).then(|| e.ret.unsigned_abs());
            }
            Body::FdReceive(e) => row = about(EventRow { fd: Some(e.fd.into()), ..row }, e.obj.into()),
            Body::FdTruncated(e) => row = about(row, ino(kind::SOCKET, e.sock)),
            Body::FdClose(e) => row.fd = Some(e.fd.into()),
            Body::FdDup(e) => row.fd = Some(e.new.into()),
            Body::FdFlags(e) => row.fd = Some(e.fd.into()),
            Body::FdSend(e) => row = about(row, ino(kind::SOCKET, e.sock)),
            Body::FdOverflow(e) => row = about(row, ino(kind::SOCKET, e.sock)),
            Body::SocketAddress(e) => row = about(row, ino(kind::SOCKET, e.sock)),
            Body::EventfdCreate(e) => row = about(EventRow { fd: Some(e.fd.into()), ..row }, ino(kind::EVENTFD, e.id)),
            Body::PosixCreate(e) => row = about(row, e.obj.into()),
            Body::Fork(_) | Body::Exec(_) | Body::Exit(_) | Body::FdCloseRange(_) => {}
        }
        Ok(row)
    }

    fn blocked(&self, ts_ns: u64, t: &BlockedThread) -> io::Result<EventRow<'static>> {
        let row = of(self.with("blocked", ts_ns, t)?, t.tgid, t.start_ns);
        let row = EventRow {
            tid: Some(t.tid.into()),
            comm: text(&t.comm).map(|c| c.into_owned().into()),
            call: called(Syscall::from_raw(t.call)),
            fd: (t.fd >= 0).then(|| t.fd.into()),
            duration_ns: Some(ts_ns.saturating_sub(t.since_ns)),
            stack: t.stack.map(i64::from),
            ..row
        };
        Ok(filled(about(row, t.obj), t.obj, t.state))
    }

    fn refused(&self, ts_ns: u64, r: &RefusedRow) -> io::Result<EventRow<'static>> {
        let row = of(self.with("refused", ts_ns, r)?, r.tgid, r.start_ns);
        let row = EventRow {
            tid: Some(r.tid.into()),
            comm: text(&r.comm).map(|c| c.into_owned().into()),
            fd: (r.fd >= 0).then(|| r.fd.into()),
            ..row
        };
        Ok(filled(about(row, r.obj), r.obj, r.state))
    }

    fn process(&self, ts_ns: u64, p: &ProcessRow) -> io::Result<EventRow<'static>> {
        let row = of(self.with("process", ts_ns, p)?, p.tgid, p.start_ns);
        Ok(EventRow { uid: Some(p.uid.into()), comm: text(&p.comm).map(|c| c.into_owned().into()), ..row })
    }

    fn queue(&self, ts_ns: u64, q: &tracer_record::MsgQueue) -> io::Result<EventRow<'static>> {
        let row = about(self.with("msg_queue", ts_ns, q)?, sysv(kind::MSG, q.ns, q.id));
        let known = q.qbytes > 0;
        Ok(EventRow {
            fill: known.then_some(q.bytes),
            capacity: known.then_some(q.qbytes),
            fill_unit: known.then(|| "bytes".into()),
            ..row
        })
    }

    fn inventory(&self, source: &'static str, all: &Inventory, put: Put<'_>) -> io::Result<()> {
        let ts_ns = all.ts_ns;
        let mut put = |row: EventRow<'_>| put(&EventRow { source: Some(source.into()), ..row });
        for p in &all.processes {
            put(self.process(ts_ns, p)?)?;
        }
        for s in &all.sem_sets {
            put(about(self.with("semaphore_set", ts_ns, s)?, sysv(kind::SEM, s.ns, s.id)))?;
        }
        for s in &all.shm_segments {
            put(about(self.with("shm_segment", ts_ns, s)?, sysv(kind::SHM, s.ns, s.id)))?;
        }
        for q in &all.msg_queues {
            put(self.queue(ts_ns, q)?)?;
        }
        for l in &all.sem_limits {
            put(EventRow { mechanism: named(Mechanism::Sem), ..self.with("sem_limits", ts_ns, l)? })?;
        }
        for l in &all.shm_limits {
            put(EventRow { mechanism: named(Mechanism::Shm), ..self.with("shm_limits", ts_ns, l)? })?;
        }
        for l in &all.msg_limits {
            put(EventRow { mechanism: named(Mechanism::Msg), ..self.with("msg_limits", ts_ns, l)? })?;
        }
        for p in all.passed.iter().flatten() {
            let row = of(self.with("passed", ts_ns, p)?, p.tgid, p.start_ns);
            let row = EventRow { fd: Some(p.fd.into()), ..about(row, p.obj) };
            put(EventRow { mechanism: named(Mechanism::Fdpass), ..row })?;
        }
        for o in all.posix.iter().flat_map(|p| &p.objects) {
            let of = match o.kind {
                tracer_record::PosixKind::Mq => (Mechanism::Mq, kind::MQ),
                tracer_record::PosixKind::Sem => (Mechanism::PosixSem, kind::FILE),
                tracer_record::PosixKind::Shm => (Mechanism::PosixShm, kind::FILE),
            };
            let key = ObjKey { kind: of.1, ns: o.device, id: o.ino };
            put(EventRow { mechanism: named(of.0), ..about(self.with("posix_object", ts_ns, o)?, key) })?;
        }
        for f in all.in_flight.iter().flatten() {
            let row = of(self.with("in_flight", ts_ns, f)?, f.tgid, f.start_ns);
            put(about(row, ObjKey { kind: kind::SOCKET, ns: 0, id: f.ino }))?;
        }
        for p in all.small_pipes.iter().flatten() {
            put(EventRow { mechanism: named(Mechanism::Pipe), ..self.with("small_pipes", ts_ns, p)? })?;
        }
        put(self.with("system_limits", ts_ns, &all.system)?)?;
        for p in &all.problems {
            put(self.with("problem", ts_ns, p)?)?;
        }
        Ok(())
    }
}

/// The row with this process.
fn of(row: EventRow<'_>, tgid: u32, start_ns: u64) -> EventRow<'_> {
    EventRow { pid: Some(tgid.into()), start_ns: started(start_ns / TICK_NS * TICK_NS), ..row }
}

/// The row with this object.
fn about(row: EventRow<'_>, obj: ObjKey) -> EventRow<'_> {
    if obj.kind == kind::NONE {
        return row;
    }
    EventRow {
        mechanism: kind::mechanism(obj.kind).and_then(named).or(row.mechanism),
        object_kind: Some(kind::name(obj.kind).into()),
        object_id: Some(obj.id),
        object_ns: (obj.ns != 0).then(|| obj.ns.into()),
        ..row
    }
}

fn filled(row: EventRow<'_>, obj: ObjKey, state: State) -> EventRow<'_> {
    let fill = fill(obj, state);
    EventRow {
        fill: fill.map(|f| f.fill),
        capacity: fill.map(|f| f.capacity),
        fill_unit: fill.map(|f| f.unit.into()),
        ..row
    }
}

fn failed(row: EventRow<'_>, errno: i32) -> EventRow<'_> {
    let errno = errno.unsigned_abs();
    EventRow { result: Some(-i64::from(errno)), errno: Some(errno.into()), ..row }
}

/// The row without a process if the end of a namespace removed the object: the process that ran then did not.
fn unless_gone(row: EventRow<'_>, ns_end: u32) -> EventRow<'_> {
    if ns_end == 0 {
        return row;
    }
    EventRow { pid: None, tid: None, start_ns: None, uid: None, comm: None, stack: None, ..row }
}

fn named(m: Mechanism) -> Option<Cow<'static, str>> {
    Some(m.name().into())
}

fn called(call: Syscall) -> Option<Cow<'static, str>> {
    (call != Syscall::None).then(|| call.name().into())
}

/// A start time; 0 is unknown.
fn started(start_ns: u64) -> Option<u64> {
    (start_ns != 0).then_some(start_ns)
}

/// A name; empty is unknown.
fn text(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

/// `SemCreate` as `sem_create`.
pub(super) fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 3);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_unique() {
        assert_eq!(snake("SemHeldAtExit"), "sem_held_at_exit");
        assert_eq!(snake("Fork"), "fork");
        let mut all: Vec<String> = kernel_kinds().chain(READ.iter().map(|k| (*k).to_owned())).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
