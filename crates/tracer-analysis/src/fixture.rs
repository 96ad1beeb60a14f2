//! Record streams for tests: a builder for tables of (records, findings).
//!
//! It must not be part of a release: only tests, and crates with the feature `fixture`, contain it.

use crate::detectors;
use crate::finding::Finding;
use crate::model::Model;
use tracer_common::event::{Body, Exit, FdReceive, Fork, Free, Header, PosixCreate, SemCreate, Stall, UNKNOWN};
use tracer_common::map::{ObjRef, kind};
use tracer_common::state::{EventfdState, PipeState, SemState};
use tracer_common::syscall::Syscall;
use tracer_record::decode::header_bytes;
use tracer_record::{
    BlockedThread, ChildRow, FdTable, Frame, Holder, Inventory, LimitRow, ObjKey, PipeOwner, ProcessRow, ReaderRow,
    ReaderSampleRow, Record, RefusedRow, SemLimitRow, SemSetRow, SemValue, Session, State,
};

/// Milliseconds and seconds in nanoseconds.
pub const MS: u64 = 1_000_000;
pub const S: u64 = 1_000 * MS;
/// Start of the sessions of tests, boot clock.
pub const START: u64 = 1_000 * S;
/// The IPC namespace of tests.
pub const NS: u32 = 4_026_531_839;

/// A process of a test: pid and comm. The start follows from the pid.
#[derive(Clone, Copy)]
pub struct P(pub u32, pub &'static str);

impl P {
    /// Exact start as in events; /proc rounds it down to clock ticks.
    pub fn start_ns(self) -> u64 {
        START - 500 * S + u64::from(self.0) * 10 * MS + 3
    }

    pub fn row(self, state: char) -> ProcessRow {
        ProcessRow {
            tgid: self.0,
            start_ns: self.start_ns() / 10_000_000 * 10_000_000,
            ppid: 1,
            comm: self.1.to_owned(),
            state,
            ..ProcessRow::default()
        }
    }

    pub fn child_of(self, parent: P, state: char) -> ProcessRow {
        ProcessRow { ppid: parent.0, ..self.row(state) }
    }
}

/// A blocked thread of a snapshot: (process, object, since ms, last reader and when it read in ms).
pub type Wait = (P, ObjKey, u64, Option<(P, u64)>);

/// A stream of records under construction. Times are milliseconds since [`START`], unless a name says otherwise.
pub struct Stream {
    pub session: Session,
    pub records: Vec<Record>,
    pub uid: u32,
    pub stack: i32,
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    pub fn new() -> Self {
        let session = Session {
            arch: "x86_64".to_owned(),
            page_bytes: 4096,
            start_ns: START,
            wall_ns: 1_700_000_000 * S,
            min_stall_ns: 100 * MS,
            target: "all".to_owned(),
            follow: true,
            self_pid: 9999,
            ..Session::default()
        };
        Self { session, records: Vec::new(), uid: 1000, stack: -1 }
    }

    pub fn record(&mut self, record: Record) -> &mut Self {
        self.records.push(record);
        self
    }

    /// A kernel event of process `p` at `at` milliseconds.
    pub fn event(&mut self, at: u64, p: P, body: Body) -> &mut Self {
        let mut payload = Vec::new();
        let kind = body.encode(|b| payload.extend_from_slice(b));
        let mut comm = [0; 16];
        comm[..p.1.len()].copy_from_slice(p.1.as_bytes());
        let header = Header {
            ts_ns: START + at * MS,
            start_ns: p.start_ns(),
            kind,
            tgid: p.0,
            tid: p.0,
            uid: self.uid,
            stack: self.stack,
            comm,
            ..Header::default()
        };
        let mut bytes = header_bytes(&header);
        bytes.extend(payload);
        self.record(Record::Kernel(bytes))
    }

    pub fn baseline(&mut self, at: u64, rows: Vec<ProcessRow>) -> &mut Self {
        self.record(Record::Baseline(Inventory { ts_ns: START + at * MS, processes: rows, ..Inventory::default() }))
    }

    pub fn closing(&mut self, at: u64, rows: Vec<ProcessRow>) -> &mut Self {
        self.record(Record::Closing(Inventory { ts_ns: START + at * MS, processes: rows, ..Inventory::default() }))
    }

    pub fn fork(&mut self, at: u64, parent: P, child: P) -> &mut Self {
        let body = Fork { child: child.0, _pad: 0, child_start_ns: child.start_ns() };
        self.event(at, parent, Body::Fork(body))
    }

    pub fn exit(&mut self, at: u64, p: P, parent: P) -> &mut Self {
        self.event(at, p, Body::Exit(Exit { code: 0, parent: parent.0, parent_start_ns: parent.start_ns() }))
    }

    pub fn free(&mut self, at: u64, p: P) -> &mut Self {
        self.event(at, P(77, "idle"), Body::Free(Free { tgid: p.0, _pad: 0, start_ns: p.start_ns() }))
    }

    /// The process exits and its parent reaps it at once.
    pub fn gone(&mut self, at: u64, p: P) -> &mut Self {
        self.exit(at, p, P(1, "init")).free(at, p)
    }

    pub fn sem_create(&mut self, at: u64, p: P, id: i32, key: i32) -> &mut Self {
        let body = SemCreate { id, key, nsems: 1, flags: 0o1600, ns: NS, exact: 1 };
        self.event(at, p, Body::SemCreate(body))
    }

    /// A wait of `p` for `ms` that ended at `at`.
    pub fn stall(&mut self, at: u64, p: P, obj: ObjKey, ms: u64, reader: Option<P>) -> &mut Self {
        self.stall_with(at, p, obj, ms, reader, pipe_state(), 1)
    }

    #[allow(clippy::too_many_arguments)]
    pub fn stall_with(
        &mut self,
        at: u64,
        p: P,
        obj: ObjKey,
        ms: u64,
        reader: Option<P>,
        state: State,
        ret: i64,
    ) -> &mut Self {
        let call = match obj.kind {
            kind::SEM => Syscall::Semtimedop,
            kind::MQ => Syscall::MqTimedsend,
            _ => Syscall::Write,
        };
        let body = Stall {
            obj: obj_ref(obj),
            state: state.into(),
            since_ns: START + (at - ms) * MS,
            until_ns: START + at * MS,
            ret,
            reader: reader.map_or(0, |r| r.0),
            fd: 1,
            reader_start_ns: reader.map_or(0, P::start_ns),
            read_ns: reader.map_or(0, |_| START + at * MS - 1000),
            call: u16::from(call as u8),
            reader_running_ns: UNKNOWN,
            ..Stall::default()
        };
        self.event(at, p, Body::Stall(body))
    }

    /// A wait in write during which the reader ran for `running_ms`.
    pub fn stall_while(&mut self, at: u64, p: P, obj: ObjKey, ms: u64, reader: P, running_ms: u64) -> &mut Self {
        let body = Stall {
            obj: obj_ref(obj),
            state: pipe_state().into(),
            since_ns: START + (at - ms) * MS,
            until_ns: START + at * MS,
            ret: 1,
            reader: reader.0,
            fd: 1,
            reader_start_ns: reader.start_ns(),
            read_ns: START + at * MS - 1000,
            reader_running_ns: running_ms * MS,
            call: u16::from(Syscall::Write as u8),
            ..Stall::default()
        };
        self.event(at, p, Body::Stall(body))
    }

    /// A snapshot of blocked threads.
    pub fn blocked(&mut self, at: u64, waits: &[Wait]) -> &mut Self {
        self.snapshot(at, waits, false)
    }

    /// As [`Stream::blocked`], of threads that slept before they were watched.
    pub fn found_asleep(&mut self, at: u64, waits: &[Wait]) -> &mut Self {
        self.snapshot(at, waits, true)
    }

    fn snapshot(&mut self, at: u64, waits: &[Wait], estimated: bool) -> &mut Self {
        let threads = waits
            .iter()
            .map(|(p, obj, since, reader)| BlockedThread {
                obj: *obj,
                state: if obj.kind == kind::PIPE { pipe_state() } else { SemState::operation(0, -1).into() },
                tgid: p.0,
                tid: p.0,
                start_ns: p.start_ns(),
                since_ns: START + since * MS,
                comm: p.1.to_owned(),
                call: if obj.kind == kind::SEM { Syscall::Semtimedop } else { Syscall::Write } as u8,
                fd: 1,
                estimated,
                reader: reader.map(|(r, t)| reader_row(r, t)),
                stack: None,
            })
            .collect();
        self.record(Record::Blocked { ts_ns: START + at * MS, threads })
    }

    /// Totals of refused writes; `span`: first and last refusal, `reader`: the last reader and when it read.
    pub fn refused(
        &mut self,
        at: u64,
        p: P,
        obj: ObjKey,
        count: u64,
        span: (u64, u64),
        reader: Option<(P, u64)>,
    ) -> &mut Self {
        let state = if obj.kind == kind::PIPE {
            pipe_state()
        } else {
            EventfdState { counter: EventfdState::COUNTER_MAX }.into()
        };
        self.refused_in(at, p, obj, state, count, span, reader)
    }

    /// As [`Stream::refused`], with the state of the object.
    #[allow(clippy::too_many_arguments)]
    pub fn refused_in(
        &mut self,
        at: u64,
        p: P,
        obj: ObjKey,
        state: State,
        count: u64,
        span: (u64, u64),
        reader: Option<(P, u64)>,
    ) -> &mut Self {
        let row = RefusedRow {
            obj,
            state,
            tgid: p.0,
            tid: p.0,
            start_ns: p.start_ns(),
            comm: p.1.to_owned(),
            fd: 3,
            count,
            in_a_row: 0,
            first_ns: START + span.0 * MS,
            last_ns: START + span.1 * MS,
            reader: reader.map(|(r, t)| reader_row(r, t)),
        };
        self.record(Record::Refused { ts_ns: START + at * MS, rows: vec![row] })
    }

    pub fn holders(&mut self, at: u64, obj: ObjKey, who: &[(P, bool, bool)]) -> &mut Self {
        let holders = who
            .iter()
            .map(|(p, reads, writes)| Holder {
                tgid: p.0,
                start_ns: p.start_ns(),
                comm: p.1.to_owned(),
                fd: 3,
                reads: Some(*reads),
                writes: Some(*writes),
            })
            .collect();
        self.record(Record::Holders { ts_ns: START + at * MS, obj, holders, complete: true })
    }

    /// `times` samples of the reader `p` in a state.
    pub fn sample(&mut self, obj: ObjKey, p: P, state: char, times: u64) -> &mut Self {
        let row = ReaderSampleRow {
            obj,
            tgid: p.0,
            start_ns: p.start_ns(),
            tid: p.0,
            state,
            syscall: None,
            stack: None,
            kernel: Vec::new(),
        };
        for at in 0..times {
            self.record(Record::Readers { ts_ns: START + at * MS, rows: vec![row.clone()] });
        }
        self
    }

    pub fn process(&mut self, at: u64, row: ProcessRow) -> &mut Self {
        self.record(Record::Process { ts_ns: START + at * MS, row })
    }

    pub fn receive(&mut self, at: u64, p: P, fd: u32, obj: ObjKey, name: &str) -> &mut Self {
        let mut cut = [0; 32];
        cut[..name.len()].copy_from_slice(name.as_bytes());
        let body = FdReceive {
            obj: obj_ref(obj),
            files: files(p),
            sock: 500 + u64::from(p.0),
            fd,
            via: 0,
            cloexec: 0,
            _pad: 0,
            name: cut,
        };
        self.event(at, p, Body::FdReceive(body))
    }

    pub fn fd_table(&mut self, at: u64, p: P, limit: u64, fds: Vec<(u32, String)>) -> &mut Self {
        self.record(Record::FdTable(FdTable {
            ts_ns: START + at * MS,
            tgid: p.0,
            start_ns: p.start_ns(),
            limit: Some(limit),
            fds,
            complete: true,
        }))
    }

    pub fn children(&mut self, at: u64, p: P, fill: impl FnOnce(&mut ChildRow)) -> &mut Self {
        let mut row =
            ChildRow::new(p.0, &tracer_common::map::ChildStats { start_ns: p.start_ns(), ..Default::default() });
        fill(&mut row);
        self.record(Record::Children { ts_ns: START + at * MS, rows: vec![row] })
    }

    pub fn fork_limits(&mut self, at: u64, p: P, limits: &[(&str, u64, u64)]) -> &mut Self {
        let limits =
            limits.iter().map(|(n, used, max)| LimitRow { name: (*n).to_owned(), used: *used, max: *max }).collect();
        self.record(Record::ForkLimits { ts_ns: START + at * MS, tgid: p.0, limits })
    }

    pub fn pipe_user(&mut self, at: u64, uid: u32, owners: &[(P, u64)]) -> &mut Self {
        let processes = owners
            .iter()
            .map(|(p, n)| PipeOwner { tgid: p.0, start_ns: p.start_ns(), comm: p.1.to_owned(), pipes: *n })
            .collect();
        self.record(Record::PipeUser { ts_ns: START + at * MS, uid, processes, soft_pages: 16_384 })
    }

    pub fn lost(&mut self, at: u64, site: tracer_common::site::Site) -> &mut Self {
        self.record(Record::Lost { ts_ns: START + at * MS, site: site as u16, count: 3 })
    }

    pub fn frames(&mut self, id: i32, frames: &[(&str, u64, u64)]) -> &mut Self {
        let frames: Vec<Frame> = frames
            .iter()
            .map(|(module, addr, offset)| Frame {
                addr: *addr,
                module: Some((*module).to_owned()),
                offset: Some(*offset),
            })
            .collect();
        let unwound = frames.len();
        self.record(Record::Stack { id, frames, unwound })
    }

    /// The model after all records, at `at`.
    pub fn model(&self, at: u64) -> Model {
        let mut model = Model::new(&self.session);
        for record in &self.records {
            if let Err(e) = model.apply(record) {
                unreachable!("{e}");
            }
        }
        if let Err(e) = model.apply(&Record::End { ts_ns: START + at * MS }) {
            unreachable!("{e}");
        }
        model
    }

    /// All findings at `at`.
    pub fn findings(&self, at: u64) -> Vec<Finding> {
        detectors::run(&self.model(at), START + at * MS)
    }

    /// Findings of one code at `at`.
    pub fn of(&self, code: &str, at: u64) -> Vec<Finding> {
        self.findings(at).into_iter().filter(|f| f.code == code).collect()
    }
}

fn reader_row(r: P, at: u64) -> ReaderRow {
    let (ts_ns, comm) = (START + at * MS, r.1.to_owned());
    ReaderRow { tgid: r.0, start_ns: r.start_ns(), ts_ns, comm, gap_ns: 0, gap_end_ns: 0 }
}

/// A full pipe of the default size.
pub fn pipe_state() -> State {
    PipeState { capacity_slots: 16, used_slots: 16, used_bytes: 65_536 }.into()
}

pub fn pipe(ino: u64) -> ObjKey {
    ObjKey { kind: kind::PIPE, ns: 0, id: ino }
}

pub fn eventfd(id: u64) -> ObjKey {
    ObjKey { kind: kind::EVENTFD, ns: 0, id }
}

pub fn mq(id: u64) -> ObjKey {
    ObjKey { kind: kind::MQ, ns: 9, id }
}

/// mq_open with O_CREAT returned this queue, which it may have created.
pub fn mq_create(id: u64, name: &str) -> Body {
    let mut cut = [0; 32];
    cut[..name.len()].copy_from_slice(name.as_bytes());
    Body::PosixCreate(PosixCreate { obj: obj_ref(mq(id)), exact: 0, _pad: 0, name: cut })
}

pub fn sem(id: u64) -> ObjKey {
    ObjKey { kind: kind::SEM, ns: NS, id }
}

pub fn file(id: u64) -> ObjKey {
    ObjKey { kind: kind::FILE, ns: 8, id }
}

pub fn obj_ref(o: ObjKey) -> ObjRef {
    ObjRef { kind: o.kind, ns: o.ns, id: o.id }
}

/// The descriptor table of a process.
pub fn files(p: P) -> u64 {
    0xffff_0000_0000_0000 + u64::from(p.0)
}

/// A row of the table of sets, created `age_s` before the start. `values`: (value, last pid, waiters for more).
pub fn sem_row(id: i32, key: i32, age_s: u64, values: &[(u32, u32, u32)]) -> SemSetRow {
    SemSetRow {
        ns: NS,
        id,
        key,
        nsems: u32::try_from(values.len()).unwrap_or(0),
        cuid: 1000,
        ctime: 1_700_000_000 - age_s,
        values: values
            .iter()
            .map(|(value, pid, ncnt)| SemValue { value: *value, pid: *pid, ncnt: *ncnt, zcnt: 0 })
            .collect(),
        ..SemSetRow::default()
    }
}

pub fn sem_limits(sets: u64, sems: u64, semmni: u64, semmns: u64) -> SemLimitRow {
    SemLimitRow { ns: NS, semmsl: 32_000, semmns, semopm: 500, semmni, used_sets: sets, used_sems: sems }
}

/// An inventory with semaphore sets.
pub fn sem_inventory(at: u64, rows: Vec<ProcessRow>, sets: Vec<SemSetRow>, limits: SemLimitRow) -> Inventory {
    Inventory {
        ts_ns: START + at * MS,
        processes: rows,
        sem_sets: sets,
        sem_limits: vec![limits],
        ..Inventory::default()
    }
}

/// Evidence as a number; `None` if it is null, missing or not a number.
pub fn number(f: &Finding, name: &str) -> Option<f64> {
    f.evidence.get(name).and_then(serde_json::Value::as_f64)
}

/// Pids of the processes with a role.
pub fn role(f: &Finding, role: &str) -> Vec<u32> {
    f.processes.iter().filter(|p| p.role == role).map(|p| p.pid).collect()
}
