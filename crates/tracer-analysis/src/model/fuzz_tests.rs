//! Hostile streams: whatever bytes the kernel or a file contain, nothing may panic, and the model stays bounded.

use super::Model;
use crate::detectors;
use crate::fixture::{P, START, Stream};
use tracer_common::event::Header;
use tracer_record::decode::header_bytes;
use tracer_record::{
    BlockedThread, ChildRow, FdTable, Frame, FutexOwner, FutexPlace, FutexRow, FutexUser, Holder, InFlightRow,
    Inventory, LimitRow, MsgLimitRow, MsgQueue, ObjKey, PassedRow, PipeOwner, Place, PosixHolder, PosixInventory,
    PosixKind, PosixObject, PosixQueue, ProcessRow, ReaderLook, ReaderRow, Record, RefusedRow, SemLimitRow, SemSetRow,
    SemValue, ShmLimitRow, ShmSegment, SmallPipes, SocketRow, State, SystemLimits,
};

/// A small generator of numbers, so that a failure can be repeated from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly small, so that things meet; sometimes extreme.
    fn number(&mut self) -> u64 {
        match self.roll() % 10 {
            0 => self.roll(),
            1 => u64::MAX - self.roll() % 3,
            2 => u64::from(u32::MAX) - self.roll() % 3,
            _ => self.roll() % 6,
        }
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).unwrap_or(0)
    }

    fn time(&mut self) -> u64 {
        match self.roll() % 12 {
            0 => self.number(),
            _ => START + self.roll() % 20_000_000_000,
        }
    }

    fn obj(&mut self) -> ObjKey {
        ObjKey { kind: u32::try_from(self.roll() % 14).unwrap_or(0), ns: self.word(), id: self.number() }
    }

    fn state(&mut self) -> State {
        State { a: self.number(), b: self.number(), c: self.number() }
    }

    fn reader(&mut self) -> Option<ReaderRow> {
        (self.roll().is_multiple_of(2)).then(|| ReaderRow {
            tgid: self.word(),
            start_ns: self.number(),
            ts_ns: self.time(),
            comm: "\u{1b}[2J".to_owned(),
            gap_ns: self.number(),
            gap_end_ns: self.time(),
        })
    }

    fn kernel(&mut self) -> Record {
        const KINDS: [u16; 36] = [
            1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 20, 30, 31, 40, 41, 42, 43, 44, 45, 46, 47, 50, 0, 999, 40, 3, 4, 1,
            16, 17, 18, 80, 81, 60, 61,
        ];
        let header = Header {
            ts_ns: self.time(),
            start_ns: self.number(),
            kind: KINDS[usize::try_from(self.roll()).unwrap_or(0) % KINDS.len()],
            site: u16::try_from(self.roll() % 40).unwrap_or(0),
            tgid: self.word(),
            tid: self.word(),
            uid: self.word(),
            stack: self.word().cast_signed(),
            comm: [b'a'; 16],
            ..Header::default()
        };
        let mut bytes = header_bytes(&header);
        for _ in 0..16 {
            // Fields of 4 and of 8 bytes both get their share of small numbers.
            if self.roll().is_multiple_of(2) {
                bytes.extend(self.number().to_ne_bytes());
            } else {
                bytes.extend(self.word().to_ne_bytes());
                bytes.extend(self.word().to_ne_bytes());
            }
        }
        let cut = usize::try_from(self.roll()).unwrap_or(0) % (bytes.len() * 8);
        bytes.truncate(cut);
        Record::Kernel(bytes)
    }

    fn process(&mut self) -> ProcessRow {
        ProcessRow {
            tgid: self.word(),
            start_ns: self.number(),
            ppid: self.word(),
            state: ['R', 'S', 'T', 'Z', 'D'][usize::try_from(self.roll() % 5).unwrap_or(0)],
            ns_pid: (self.roll().is_multiple_of(3)).then(|| self.word()),
            syscall: (self.roll().is_multiple_of(2)).then(|| self.number().cast_signed()),
            nofile_soft: Some(self.number()),
            cgroup: Some("/a/docker-\u{fffd}.scope".to_owned()),
            ..ProcessRow::default()
        }
    }

    fn posix(&mut self) -> PosixInventory {
        let kinds = [PosixKind::Mq, PosixKind::Sem, PosixKind::Shm];
        let objects = (0..self.roll() % 6).map(|_| PosixObject {
            kind: kinds[usize::try_from(self.roll() % 3).unwrap_or(0)],
            name: ["/a-1", "/a-2", "", "\u{1b}"][usize::try_from(self.roll() % 4).unwrap_or(0)].to_owned(),
            path: String::new(),
            dev: self.number(),
            device: self.word(),
            ino: self.number(),
            size_bytes: self.number(),
            uid: self.word(),
            gid: self.word(),
            mode: self.word(),
            mtime: self.number(),
            ctime: self.number(),
            queue: self.roll().is_multiple_of(2).then(|| PosixQueue {
                bytes: self.number(),
                notify_pid: self.word(),
                attributes: Some([self.number(), self.number(), self.number()]),
            }),
            holders: (0..self.roll() % 2)
                .map(|_| PosixHolder { tgid: self.word(), start_ns: self.number(), open: true, mapped: false })
                .collect(),
            complete: self.roll().is_multiple_of(2),
        });
        PosixInventory {
            objects: objects.collect(),
            unlisted: Vec::new(),
            queues_max: self.number(),
            shm_used_bytes: self.number(),
            shm_max_bytes: self.number(),
        }
    }

    fn inventory(&mut self) -> Inventory {
        let in_flight = InFlightRow {
            ino: self.number(),
            fds: self.number(),
            tgid: self.word(),
            start_ns: self.number(),
            fd: self.word(),
        };
        let small_pipes = SmallPipes {
            uid: self.word(),
            slots: self.word(),
            count: self.number(),
            inos: (0..self.roll() % 3).map(|_| self.number()).collect(),
            pages: self.number(),
            soft_pages: self.number(),
            holders: (0..self.roll() % 2).map(|_| PipeOwner { tgid: self.word(), ..PipeOwner::default() }).collect(),
            pipes: self.number(),
        };
        Inventory {
            ts_ns: self.time(),
            until_ns: self.time(),
            small_pipes: self.roll().is_multiple_of(2).then(|| vec![small_pipes]),
            posix: self.roll().is_multiple_of(2).then(|| self.posix()),
            in_flight: self.roll().is_multiple_of(2).then(|| vec![in_flight]),
            processes: (0..self.roll() % 8).map(|_| self.process()).collect(),
            sem_sets: (0..self.roll() % 5)
                .map(|_| SemSetRow {
                    ns: self.word(),
                    id: self.word().cast_signed(),
                    key: self.word().cast_signed(),
                    nsems: self.word(),
                    otime: self.number(),
                    ctime: self.number(),
                    values: (0..self.roll() % 3)
                        .map(|_| SemValue {
                            value: self.word(),
                            pid: self.word(),
                            ncnt: self.word(),
                            zcnt: self.word(),
                        })
                        .collect(),
                    ..SemSetRow::default()
                })
                .collect(),
            shm_segments: (0..self.roll() % 5)
                .map(|_| ShmSegment {
                    ns: self.word(),
                    id: self.word().cast_signed(),
                    key: self.word().cast_signed(),
                    size_bytes: self.number(),
                    nattch: self.roll() % 2,
                    cpid: self.word(),
                    lpid: self.word(),
                    atime: self.number(),
                    ctime: self.number(),
                    ..ShmSegment::default()
                })
                .collect(),
            shm_limits: vec![ShmLimitRow {
                ns: self.word(),
                shmmni: self.number(),
                shmall: self.number(),
                used_segments: self.number(),
                ..ShmLimitRow::default()
            }],
            msg_queues: (0..self.roll() % 5)
                .map(|_| MsgQueue {
                    ns: self.word(),
                    id: self.word().cast_signed(),
                    key: self.word().cast_signed(),
                    bytes: self.number(),
                    messages: self.number(),
                    qbytes: self.number(),
                    lspid: self.word(),
                    lrpid: self.word(),
                    stime: self.number(),
                    rtime: self.number(),
                    ctime: self.number(),
                    waiting_complete: self.roll().is_multiple_of(2),
                    ..MsgQueue::default()
                })
                .collect(),
            msg_limits: vec![MsgLimitRow {
                ns: self.word(),
                msgmni: self.number(),
                used_queues: self.number(),
                ..MsgLimitRow::default()
            }],
            sem_limits: (0..self.roll() % 3)
                .map(|_| SemLimitRow {
                    ns: self.word(),
                    semmns: self.number(),
                    semmni: self.number(),
                    used_sets: self.number(),
                    used_sems: self.number(),
                    ..SemLimitRow::default()
                })
                .collect(),
            passed: self.roll().is_multiple_of(2).then(|| {
                (0..self.roll() % 4)
                    .map(|_| PassedRow {
                        tgid: self.word(),
                        start_ns: self.number(),
                        opener: self.word(),
                        opener_start_ns: self.number(),
                        from_ancestor: self.roll().is_multiple_of(2),
                        obj: self.obj(),
                        fds: self.word(),
                        fd: self.word(),
                        link: None,
                    })
                    .collect()
            }),
            system: SystemLimits {
                pipe_max_size: self.number(),
                pipe_user_pages_soft: self.number(),
                ..SystemLimits::default()
            },
            problems: Vec::new(),
        }
    }

    fn record(&mut self) -> Record {
        let ts_ns = self.time();
        match self.roll() % 27 {
            0 => Record::Baseline(self.inventory()),
            1 => Record::Closing(self.inventory()),
            2 => Record::Tick { ts_ns },
            3 => Record::Lost { ts_ns, site: u16::try_from(self.roll() % 50).unwrap_or(0), count: self.number() },
            4 => Record::Blocked {
                ts_ns,
                threads: (0..self.roll() % 4)
                    .map(|_| BlockedThread {
                        obj: self.obj(),
                        state: self.state(),
                        tgid: self.word(),
                        tid: self.word(),
                        start_ns: self.number(),
                        since_ns: self.time(),
                        comm: "b".to_owned(),
                        call: u8::try_from(self.roll() % 256).unwrap_or(0),
                        fd: self.word().cast_signed(),
                        estimated: self.roll().is_multiple_of(2),
                        reader: self.reader(),
                        stack: None,
                    })
                    .collect(),
            },
            5 => Record::Refused {
                ts_ns,
                rows: (0..self.roll() % 4)
                    .map(|_| RefusedRow {
                        obj: self.obj(),
                        state: self.state(),
                        tgid: self.word(),
                        tid: self.word(),
                        start_ns: self.number(),
                        comm: String::new(),
                        fd: self.word().cast_signed(),
                        count: self.number(),
                        in_a_row: self.number(),
                        first_ns: self.time(),
                        last_ns: self.time(),
                        reader: self.reader(),
                    })
                    .collect(),
            },
            6 => Record::Children {
                ts_ns,
                rows: vec![ChildRow {
                    exits: self.number(),
                    sigchld_coalesced: self.number(),
                    delivered: self.number(),
                    waits_any: self.number(),
                    reaped_any: self.number(),
                    waits_one: self.number(),
                    reaped_one: self.number(),
                    ..ChildRow::new(self.word(), &Default::default())
                }],
            },
            7 => Record::Holders {
                ts_ns,
                obj: self.obj(),
                holders: vec![Holder {
                    tgid: self.word(),
                    start_ns: self.number(),
                    comm: String::new(),
                    fd: self.word(),
                    reads: Some(self.roll().is_multiple_of(2)),
                    writes: None,
                }],
                complete: true,
            },
            8 => Record::FdTable(FdTable {
                ts_ns,
                tgid: self.word(),
                start_ns: self.number(),
                limit: Some(self.number()),
                fds: vec![(self.word(), "socket:[".to_owned()), (self.word(), String::new())],
                complete: self.roll().is_multiple_of(2),
            }),
            9 => Record::Process { ts_ns, row: self.process() },
            10 => Record::ForkLimits {
                ts_ns,
                tgid: self.word(),
                limits: vec![LimitRow { name: "pids.max".to_owned(), used: self.number(), max: self.number() }],
            },
            11 => Record::PipeUser {
                ts_ns,
                uid: self.word(),
                processes: vec![
                    PipeOwner { tgid: self.word(), start_ns: self.number(), comm: String::new(), pipes: self.number() },
                    PipeOwner { tgid: self.word(), start_ns: self.number(), comm: String::new(), pipes: self.number() },
                ],
                soft_pages: self.number(),
            },
            12 => Record::Queues { ts_ns, rows: self.inventory().msg_queues },
            13 => Record::Sockets {
                ts_ns,
                rows: vec![SocketRow {
                    ino: self.number(),
                    listening: self.roll().is_multiple_of(2),
                    address: Some("\u{1b}[2J".to_owned()),
                    named: Some(self.number()),
                    peer: Some(self.number()),
                    pending: Some(self.number()),
                    backlog: Some(self.number()),
                    ..SocketRow::default()
                }],
            },
            14 => Record::Futexes {
                ts_ns,
                rows: vec![FutexRow {
                    obj: self.obj(),
                    start_ns: self.number(),
                    place: self.roll().is_multiple_of(2).then(|| FutexPlace {
                        ino: self.number(),
                        offset: self.number(),
                        path: "\u{1b} (deleted)".to_owned(),
                        users: vec![FutexUser { tgid: self.word(), start_ns: self.number(), threads: self.word() }],
                        complete: self.roll().is_multiple_of(2),
                        ..FutexPlace::default()
                    }),
                    owner_tid: self.word(),
                    owner: self.roll().is_multiple_of(2).then(|| FutexOwner {
                        tid: self.word(),
                        tgid: self.word(),
                        start_ns: self.number(),
                        comm: String::new(),
                    }),
                }],
            },
            15 => Record::Stack { id: self.number_of_stack(), frames: vec![Frame::default()], unwound: 9 },
            16 => Record::SameStack { id: self.number_of_stack(), of: self.number_of_stack() },
            17 => Record::Symbols { id: self.number_of_stack(), places: vec![vec![Place::default()]; 3] },
            18 => Record::Readers {
                ts_ns,
                rows: vec![ReaderLook {
                    obj: self.obj(),
                    tgid: self.word(),
                    start_ns: self.number(),
                    state: char::from(b'A' + (self.roll() % 26) as u8),
                    syscall: Some(self.roll().cast_signed() % 400),
                    stack: Some(self.number_of_stack()),
                    kernel: vec!["\u{1b}[2J".to_owned()],
                    ..ReaderLook::default()
                }],
            },
            _ => self.kernel(),
        }
    }

    fn number_of_stack(&mut self) -> i32 {
        self.word().cast_signed()
    }
}

#[test]
fn nothing_panics() {
    for seed in 1..=100u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut session = Stream::new().session;
        session.page_bytes = if seed % 3 == 0 { dice.number() } else { 4096 };
        session.wall_ns = if seed % 4 == 0 { dice.number() } else { session.wall_ns };
        session.target_pids = if seed % 5 == 0 { vec![1, 2] } else { Vec::new() };
        let mut model = Model::new(&session);
        for _ in 0..400 {
            let record = dice.record();
            // Some of them cannot be decoded.
            let _ = model.apply(&record);
            if dice.roll().is_multiple_of(50) {
                detectors::run(&model, dice.time());
            }
        }
        detectors::run(&model, dice.time());
        model.problems();
    }
}

#[test]
fn memory_is_bounded_and_what_was_dropped_is_said() {
    let mut s = Stream::new();
    let mut model = Model::new(&s.session);
    for i in 0..100_000u32 {
        s.records.clear();
        s.gone(u64::from(i), P(10 + i, "x"));
        for record in &s.records {
            model.apply(record).unwrap();
        }
    }
    assert!(model.processes.iter().count() <= 70_000);
    assert!(!model.problems().is_empty());
}
