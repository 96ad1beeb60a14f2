//! Tables of `shm-exhausted`: records in, findings out. What all kinds share is in the tables of `sem-exhausted`.

use crate::finding::Finding;
use crate::fixture::{MS, NS, P, START, Stream, role};
use tracer_common::event::{Body, SysvCreate, SysvFail};
use tracer_common::map::kind;
use tracer_record::{Inventory, Record, ShmLimitRow, ShmSegment};

const WORKER: P = P(700, "worker");
const OTHER: P = P(800, "other");

fn inventory(segments: Vec<ShmSegment>, used: (u64, u64), max: (u64, u64)) -> Record {
    let limits = ShmLimitRow {
        ns: NS,
        shmmni: max.0,
        shmall: max.1,
        used_segments: used.0,
        used_pages: used.1,
        ..ShmLimitRow::default()
    };
    Record::Baseline(Inventory {
        ts_ns: START + 10 * MS,
        processes: vec![WORKER.row('S'), OTHER.row('S')],
        shm_segments: segments,
        shm_limits: vec![limits],
        ..Inventory::default()
    })
}

fn create(s: &mut Stream, id: i32, pages: u64) {
    let size = pages * 4096;
    let body = SysvCreate { kind: kind::SHM, id, key: 0, flags: 0o1600, ns: NS, exact: 1, size };
    s.event(100, WORKER, Body::SysvCreate(body));
}

fn fail(s: &mut Stream, errno: i32, flags: u32, pages: u64) {
    let body = SysvFail { kind: kind::SHM, errno, key: 0, flags, ns: NS, _pad: 0, size: pages * 4096 };
    s.event(200, WORKER, Body::SysvFail(body));
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

#[test]
fn which_limit() {
    for (what, used, max, wanted, name, at) in [
        ("segments", (6, 6), (8, 1 << 40), 1, "SHMMNI", 8),
        ("pages", (2, 90), (4_096, 100), 10, "SHMALL", 92),
        ("pages, of a large one", (1, 1), (4_096, 100), 1_000, "SHMALL", 3),
    ] {
        let mut s = Stream::new();
        s.record(inventory(vec![], used, max));
        create(&mut s, 100, 1);
        create(&mut s, 101, 1);
        fail(&mut s, 28, 0o1600, wanted);
        let found = s.of("shm-exhausted", 1_000);
        let limit = one(&found).limit.as_ref().map(|l| (l.name.as_str(), l.used));
        assert_eq!(limit, Some((name, Some(at))), "{what}");
    }
}

#[test]
fn holders_from_before_are_those_of_the_table() {
    let made = START / 1_000_000_000 - 1_000 + 1_700_000_000;
    let segment = |id| ShmSegment {
        ns: NS,
        id,
        size_bytes: 8_192,
        cpid: OTHER.0,
        ctime: made,
        nattch: 1,
        ..ShmSegment::default()
    };
    let mut s = Stream::new();
    s.record(inventory((0..7).map(segment).collect(), (7, 14), (8, 1 << 40)));
    create(&mut s, 100, 1);
    fail(&mut s, 28, 0o1600, 1);
    let found = s.of("shm-exhausted", 1_000);
    let f = one(&found);
    assert_eq!((role(f, "creator"), role(f, "blocked")), (vec![800, 700], vec![700]));
    assert!(f.title.contains("other (800) created 7 segments (14 pages)"), "{}", f.title);
}

#[test]
fn huge_pages_that_are_tried_are_no_exhaustion() {
    for (what, flags, want) in [("huge pages", 0o5600, 0), ("plain ones", 0o1600, 1)] {
        let mut s = Stream::new();
        fail(&mut s, 12, flags, 512);
        assert_eq!(s.of("shm-exhausted", 1_000).len(), want, "{what}");
    }
}
