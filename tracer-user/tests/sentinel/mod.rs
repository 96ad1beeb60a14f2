//! A trace with a mark in every text that a record can hold. Structures have no `..`, so that a new text needs a mark, too.

use tracer_common::event::{Body, FdReceive, HEADER_LEN, Header, PosixCreate, SocketAddress, Stall};
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_common::state::PipeState;
use tracer_record::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 100 * SECOND;
/// A process of the target, and one that reads what it writes.
const PID: u32 = 100;
const OTHER: u32 = 200;
const PIPE: ObjKey = ObjKey { kind: kind::PIPE, ns: 0, id: 7 };
const FUTEX: ObjKey = ObjKey { kind: kind::FUTEX, ns: PID, id: 0x7000 };

/// Records with `mark` in every text, and with `function` as the name of functions.
pub fn records(mark: &str, function: &str) -> Vec<Record> {
    let text = || mark.to_owned();
    let some = || Some(text());
    let reader =
        || ReaderRow { tgid: OTHER, start_ns: START - SECOND, ts_ns: START, comm: text(), gap_ns: 0, gap_end_ns: 0 };
    let sockets = vec![SocketRow {
        ino: 9,
        listed: true,
        listening: false,
        name: some(),
        address: some(),
        named: None,
        peer: Some(10),
        pending: None,
        backlog: None,
    }];
    let thread = ThreadRow {
        tgid: PID,
        start_ns: START - SECOND,
        tid: PID,
        comm: text(),
        state: 'D',
        syscall: Some(1),
        switches: 3,
        timeout: false,
        waits: vec![WaitRow {
            obj: PIPE,
            way: Way::Give,
            fd: 3,
            part: 0,
            name: text(),
            releasers: vec![Releaser { tgid: OTHER, start_ns: START - SECOND }],
            complete: true,
        }],
        more: false,
        stack: Some(1),
        kernel: vec![function.to_owned()],
    };
    let place = FutexPlace {
        dev_minor: 1,
        ino: 5,
        offset: 0,
        path: text(),
        users: vec![FutexUser { tgid: PID, start_ns: START - SECOND, threads: 1 }],
        complete: true,
    };
    let owner = FutexOwner { tid: OTHER, tgid: OTHER, start_ns: START - SECOND, comm: text() };
    let futex =
        FutexRow { obj: FUTEX, start_ns: START - SECOND, place: Some(place), owner_tid: OTHER, owner: Some(owner) };
    let look = ReaderSampleRow {
        obj: PIPE,
        tgid: OTHER,
        start_ns: START - SECOND,
        tid: OTHER,
        state: 'D',
        syscall: None,
        stack: Some(1),
        kernel: vec![function.to_owned()],
    };
    let blocked = |obj, call| BlockedThread {
        obj,
        state: PipeState { capacity_slots: 16, used_slots: 4, used_bytes: 9 }.into(),
        tgid: PID,
        tid: PID,
        start_ns: START - SECOND,
        since_ns: START,
        comm: text(),
        call,
        fd: 3,
        estimated: false,
        reader: Some(reader()),
        stack: Some(1),
    };
    let refused = RefusedRow {
        obj: PIPE,
        state: State::default(),
        tgid: PID,
        tid: PID,
        start_ns: START - SECOND,
        comm: text(),
        fd: 3,
        count: 90,
        in_a_row: 90,
        first_ns: START,
        last_ns: START + SECOND,
        reader: Some(reader()),
    };
    let holder =
        Holder { tgid: PID, start_ns: START - SECOND, comm: text(), fd: 3, reads: Some(false), writes: Some(true) };
    let frame = Frame { addr: 0x1000, module: some(), offset: Some(16) };
    let line = Place { function: Some(function.to_owned()), file: some(), line: Some(1), inlined: false };
    let table = FdTable {
        ts_ns: START + SECOND,
        tgid: PID,
        start_ns: START - SECOND,
        limit: Some(64),
        fds: vec![(3, text()), (5, text())],
        complete: true,
    };
    let limits = vec![LimitRow { name: text(), used: 10, max: 10 }];
    let owners = vec![PipeOwner { tgid: PID, start_ns: START - SECOND, comm: text(), pipes: 9 }];
    let mut all = vec![
        Record::Session(session(mark, function)),
        Record::Baseline(inventory(mark, START)),
        Record::Process { ts_ns: START, row: process(mark, PID) },
        Record::Stack { id: 1, frames: vec![frame], unwound: 1 },
        Record::Symbols { id: 1, places: vec![vec![line]] },
        Record::Blocked { ts_ns: START + SECOND, threads: vec![blocked(PIPE, 1), blocked(FUTEX, 12)] },
        Record::Refused { ts_ns: START + SECOND, rows: vec![refused] },
        Record::Holders { ts_ns: START + SECOND, obj: PIPE, holders: vec![holder], complete: true },
        Record::FdTable(table),
        Record::ForkLimits { ts_ns: START + SECOND, tgid: PID, limits },
        Record::PipeUser { ts_ns: START + SECOND, uid: 0, processes: owners, soft_pages: 16 },
        Record::Sockets { ts_ns: START + SECOND, rows: sockets },
        Record::Futexes { ts_ns: START + SECOND, rows: vec![futex] },
        Record::Threads { ts_ns: START + SECOND, rows: vec![thread] },
        Record::Readers { ts_ns: START + SECOND, rows: vec![look] },
        Record::Tick { ts_ns: START + SECOND },
    ];
    all.extend(kernel(mark.as_bytes()).into_iter().map(Record::Kernel));
    all.push(Record::Closing(inventory(mark, START + 20 * SECOND)));
    all.push(Record::End { ts_ns: START + 20 * SECOND });
    all
}

fn session(mark: &str, function: &str) -> Session {
    let text = || mark.to_owned();
    Session {
        tool_version: text(),
        host: text(),
        kernel: text(),
        arch: text(),
        page_bytes: 4096,
        start_ns: START,
        wall_ns: 1_700_000_000 * SECOND,
        min_stall_ns: 100_000_000,
        plan: vec![PlanRow {
            site: text(),
            mechanism: text(),
            backend: text(),
            reason: text(),
            functions: vec![function.to_owned()],
        }],
        not_collected: vec![text()],
        target: text(),
        target_pids: vec![PID],
        follow: true,
        // With `only` some detectors would not run.
        only: vec![],
        self_pid: 1,
        redacted: false,
    }
}

fn process(mark: &str, tgid: u32) -> ProcessRow {
    ProcessRow {
        tgid,
        start_ns: START - SECOND,
        ppid: 1,
        pgrp: tgid,
        comm: mark.to_owned(),
        state: 'S',
        uid: 1000,
        exe: Some(mark.to_owned()),
        ns_pid: Some(1),
        ipc_ns: Some(2),
        pid_ns: Some(3),
        sigchld_blocked: Some(false),
        sigchld_ignored: Some(false),
        sigchld_caught: Some(true),
        signals_blocked: Some(0),
        signals_queued: Some((1, 2)),
        syscall: Some(1),
        nofile_soft: Some(64),
        cgroup: Some(format!("/system.slice/{mark}/docker-{mark}.scope/{mark}.service")),
    }
}

fn inventory(mark: &str, ts_ns: u64) -> Inventory {
    let posix = |kind, ino, directory: &str| PosixObject {
        kind,
        name: format!("/{mark}"),
        path: format!("{directory}{mark}"),
        dev: 1,
        device: 1,
        ino,
        size_bytes: 32,
        uid: 0,
        gid: 0,
        mode: 0o600,
        mtime: 1_699_999_000,
        ctime: 1_699_999_000,
        queue: None,
        holders: vec![],
        complete: true,
    };
    let passed = ReceivedFdsRow {
        tgid: PID,
        start_ns: START - SECOND,
        opener: OTHER,
        opener_start_ns: START - SECOND,
        from_ancestor: false,
        obj: ObjKey { kind: kind::FILE, ns: 1, id: 77 },
        fds: 60,
        fd: 4,
        link: Some(mark.to_owned()),
    };
    Inventory {
        ts_ns,
        until_ns: ts_ns + 1,
        processes: vec![process(mark, PID), process(mark, OTHER)],
        sem_sets: vec![],
        sem_limits: vec![],
        shm_segments: vec![],
        shm_limits: vec![],
        msg_queues: vec![],
        msg_limits: vec![],
        passed: Some(vec![passed]),
        posix: Some(PosixInventory {
            objects: vec![
                posix(PosixKind::Mq, 1, "/dev/mqueue/"),
                posix(PosixKind::Sem, 2, "/dev/shm/sem."),
                posix(PosixKind::Shm, 3, "/dev/shm/"),
            ],
            unlisted: vec![],
            queues_max: 256,
            shm_used_bytes: 1,
            shm_max_bytes: 100,
        }),
        in_flight: None,
        small_pipes: Some(vec![SmallPipes {
            holders: vec![PipeOwner { tgid: PID, comm: mark.to_owned(), ..PipeOwner::default() }],
            ..SmallPipes::default()
        }]),
        system: SystemLimits::default(),
        problems: vec![mark.to_owned()],
    }
}

fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    out
}

/// Every event with text, and records that cannot be decoded.
fn kernel(mark: &[u8]) -> Vec<Vec<u8>> {
    let obj = ObjRef { kind: PIPE.kind, ns: PIPE.ns, id: PIPE.id };
    let file = ObjRef { kind: kind::FILE, ns: 1, id: 77 };
    let mut abstract_name = vec![0];
    abstract_name.extend(mark);
    let address = |name: &[u8]| {
        let mut all = [[0; 32]; 4];
        all.as_flattened_mut().iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        let len = u32::try_from(name.len().min(108)).unwrap_or(0);
        Body::SocketAddress(SocketAddress { sock: 9, len, _pad: 0, name: all })
    };
    let events = [
        (
            Site::PipeWrite,
            Body::Stall(Stall {
                obj,
                since_ns: START,
                until_ns: START + SECOND,
                reader: OTHER,
                reader_comm: padded(mark),
                ..Stall::default()
            }),
        ),
        (Site::FdReceive, Body::FdReceive(FdReceive { obj: file, fd: 5, name: padded(mark), ..FdReceive::default() })),
        (Site::MqOpen, Body::PosixCreate(PosixCreate { obj: file, exact: 1, _pad: 0, name: padded(mark) })),
        (Site::SocketSend, address(mark)),
        (Site::SocketSend, address(&abstract_name)),
    ];
    let record = |kind: Option<u16>, site: Site, body: &Body| {
        let mut payload = Vec::new();
        let own = body.encode(|bytes| payload.extend_from_slice(bytes));
        let header = Header {
            ts_ns: START + SECOND,
            start_ns: START - SECOND,
            kind: kind.unwrap_or(own),
            site: site as u16,
            tgid: PID,
            tid: PID,
            stack: 1,
            comm: padded(mark),
            ..Header::default()
        };
        let mut bytes = header_bytes(&header);
        bytes.extend(payload);
        bytes
    };
    let mut all: Vec<Vec<u8>> = events.iter().map(|(site, body)| record(None, *site, body)).collect();
    // A kind of a later version, a record that is cut off, one with extra bytes, and no record at all.
    all.extend(events.iter().map(|(site, body)| record(Some(9_999), *site, body)));
    let mut cut = all[1].clone();
    cut.truncate(cut.len() - 1);
    let mut longer = all[0].clone();
    longer.extend(mark);
    all.extend([cut, longer, mark.to_vec(), all[0][..HEADER_LEN].to_vec()]);
    all
}

fn header_bytes(h: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend(h.ts_ns.to_ne_bytes());
    out.extend(h.start_ns.to_ne_bytes());
    out.extend(h.kind.to_ne_bytes());
    out.extend(h.site.to_ne_bytes());
    out.extend(h.tgid.to_ne_bytes());
    out.extend(h.tid.to_ne_bytes());
    out.extend(h.uid.to_ne_bytes());
    out.extend(h.stack.to_ne_bytes());
    out.extend(h.copy.to_ne_bytes());
    out.extend(h.comm);
    out
}
