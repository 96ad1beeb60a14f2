//! Objects that are created while a table is read that already has them: after a loss the collector reads the tables again,
//! and kernel records wait meanwhile.

use crate::fixture::{MS, NS, P, START, Stream, mq, mq_create, sem_inventory, sem_limits, sem_row};
use crate::model::Model;
use tracer_common::event::{Body, SemCreate, SysvCreate};
use tracer_common::map::kind;
use tracer_record::SemId;
use tracer_record::{Inventory, MsgQueue, ObjKey, PosixInventory, PosixKind, PosixObject, Record};

const MAKER: P = P(700, "maker");
/// Seconds since 1970 when the session starts.
const START_S: u64 = 1_700_000_000;
const ID: i32 = 5;
/// When the tables are read, in milliseconds.
const READ: std::ops::RangeInclusive<u64> = 10_000..=12_000;

/// The second snapshot of the tables; the objects are `age_s` older than the begin of its reading.
fn again(age_s: u64) -> Inventory {
    let made_s = START_S + READ.start() / 1_000 - age_s;
    let queue = MsgQueue { ns: NS, id: ID, ctime: made_s, ..MsgQueue::default() };
    let ObjKey { ns: device, id: ino, .. } = mq(5);
    let object = PosixObject {
        kind: PosixKind::Mq,
        name: "/q".to_owned(),
        path: String::new(),
        dev: 9,
        device,
        ino,
        size_bytes: 0,
        uid: 0,
        gid: 0,
        mode: 0o600,
        mtime: made_s,
        ctime: made_s,
        queue: None,
        holders: Vec::new(),
        complete: false,
    };
    let set = tracer_record::SemSetRow { ctime: made_s, ..sem_row(ID, 0, 0, &[(1, 0, 0)]) };
    Inventory {
        until_ns: START + READ.end() * MS,
        msg_queues: vec![queue],
        posix: Some(PosixInventory { objects: vec![object], ..PosixInventory::default() }),
        ..sem_inventory(*READ.start(), vec![MAKER.row('S')], vec![set], sem_limits(1, 1, 32_000, 1_000_000))
    }
}

/// Whether the creation of the semaphore set, the SysV queue and the POSIX queue is known.
fn creations_known(model: &Model) -> [bool; 3] {
    let set = model.sems.get(SemId::new(NS, ID)).is_some_and(|set| set.created.is_some());
    let queue = model.msgs.iter().next().is_some_and(|q| model.msgs.creation(q.id).is_some() && !q.baseline);
    let posix = model.posix.iter().next().is_some_and(|o| model.posix.creation(o.key).is_some() && !o.baseline);
    [set, queue, posix]
}

#[test]
fn a_creation_is_known_for_objects_created_meanwhile_and_not_for_older_ones() {
    let during = (READ.start() + READ.end()) / 2;
    for (what, at, age_s, exact, want) in [
        ("created while the tables were read", during, 0, 0, [true; 3]),
        ("the same, with an exact event", during, 0, 1, [true; 3]),
        ("the event is slightly older than the snapshot", READ.start() - 3, 0, 0, [true; 3]),
        ("an old object, opened meanwhile", during, 60, 0, [false; 3]),
        ("opened after the snapshot", READ.end() + 1, 0, 0, [false; 3]),
    ] {
        let mut s = Stream::new();
        s.baseline(0, vec![MAKER.row('S')]).record(Record::Baseline(again(age_s)));
        let flags = 0o1600;
        s.event(at, MAKER, Body::SemCreate(SemCreate { id: ID, key: 0, nsems: 1, flags, ns: NS, exact }));
        s.event(
            at,
            MAKER,
            Body::SysvCreate(SysvCreate { kind: kind::MSG, id: ID, key: 0, flags, ns: NS, exact, size: 0 }),
        );
        let mut open = mq_create(5, "q");
        if let Body::PosixCreate(e) = &mut open {
            e.exact = exact;
        }
        s.event(at, MAKER, open);
        let model = s.model(READ.end() + 1_000);
        assert_eq!(creations_known(&model), want, "{what}");
        let used: Vec<_> = model.sems.namespaces().filter_map(|(_, ns)| ns.used_now()).collect();
        assert_eq!(used, [(1, 1)], "{what}");
    }
}
