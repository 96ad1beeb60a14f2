//! Tables of `fd-leak` from inventories alone: rows in, findings out.

use crate::finding::{Confidence, Origin, Severity};
use crate::fixture::{MS, P, START, Stream, number, role};
use tracer_common::map::kind;
use tracer_record::{Inventory, ObjKey, ProcessRow, ReceivedFdsRow, Record};

const WORKER: P = P(800, "worker");
const BOSS: P = P(801, "boss");

fn row(fds: u32, ino: u64, from_ancestor: bool) -> ReceivedFdsRow {
    ReceivedFdsRow {
        tgid: WORKER.0,
        start_ns: WORKER.row('S').start_ns,
        opener: BOSS.0,
        opener_start_ns: BOSS.row('S').start_ns,
        from_ancestor,
        obj: ObjKey { kind: kind::FILE, ns: 1, id: ino },
        fds,
        fd: 7,
        link: (ino == 9).then(|| "/etc/passwd".to_owned()),
    }
}

fn snapshot(limit: u64, rows: &[ReceivedFdsRow], at: u64) -> Inventory {
    let worker = ProcessRow { nofile_soft: Some(limit), ..WORKER.row('S') };
    let processes = vec![worker, BOSS.row('S')];
    Inventory { ts_ns: START + at * MS, processes, passed: Some(rows.to_vec()), ..Inventory::default() }
}

fn session(limit: u64, before: &[ReceivedFdsRow], after: &[ReceivedFdsRow]) -> Stream {
    let mut s = Stream::new();
    s.record(Record::Baseline(snapshot(limit, before, 0)));
    s.record(Record::Closing(snapshot(limit, after, 2_000)));
    s
}

#[test]
fn leaks_and_no_leaks() {
    let distinct = |n: u64, from_ancestor| (0..n).map(|i| row(1, 100 + i, from_ancestor)).collect::<Vec<_>>();
    let same = |fds, from_ancestor| vec![row(fds, 9, from_ancestor)];
    for (what, limit, before, after, want) in [
        ("over half of the limit", 64, distinct(40, false), distinct(40, false), Some(40.0)),
        ("as many of a large limit", 1_024, distinct(40, false), distinct(40, false), None),
        ("many of one file", 1_024, same(24, false), same(24, false), Some(24.0)),
        ("many of one file of a parent", 1_024, same(30, true), same(30, true), Some(30.0)),
        ("single ones of a parent may be inherited", 64, distinct(40, true), distinct(40, true), None),
        ("some of one file", 1_024, same(12, false), same(12, false), None),
        ("some of one file, and more of it", 1_024, same(12, false), same(13, false), Some(13.0)),
        ("fewer at the end", 1_024, same(40, false), same(30, false), None),
        ("all arrived while tracing: events cover them", 64, vec![], same(40, false), None),
        ("a few of a small limit", 12, same(7, false), same(7, false), None),
    ] {
        let found = session(limit, &before, &after).findings(2_500);
        let got = found.iter().find(|f| f.code == "fd-leak").map(|f| number(f, "outstanding"));
        assert_eq!(got, want.map(Some), "{what}: {found:#?}");
    }
}

#[test]
fn a_device_is_another_object_at_each_open() {
    let queues = |fds| ReceivedFdsRow { obj: ObjKey { kind: kind::DEVICE, ns: 1, id: 9 }, ..row(fds, 9, false) };
    assert_eq!(session(1_024, &[queues(64)], &[queues(64)]).findings(2_500), []);
    assert_eq!(session(64, &[queues(40)], &[queues(40)]).findings(2_500).len(), 1, "but room is room");
}

#[test]
fn processes_objects_and_confidence() {
    let found = session(64, &[row(59, 9, true)], &[row(60, 9, true)]).findings(2_500);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((f.severity, f.confidence, f.origin), (Severity::Critical, Confidence::Likely, Origin::Baseline));
    assert_eq!((role(f, "receiver"), role(f, "peer")), (vec![WORKER.0], vec![BOSS.0]));
    assert!(f.title.contains("60 descriptors") && f.title.contains("/etc/passwd"), "{}", f.title);
    assert_eq!((number(f, "outstanding_at_start"), number(f, "received")), (Some(59.0), None));
}

#[test]
fn without_a_table_there_is_no_finding() {
    let mut s = Stream::new();
    s.record(Record::Baseline(Inventory { passed: None, ..snapshot(64, &[], 0) }));
    assert_eq!(s.findings(2_500), []);
}

#[test]
fn an_exited_process_leaks_nothing() {
    let mut s = session(64, &[row(60, 9, false)], &[]);
    s.gone(2_100, WORKER);
    assert_eq!(s.findings(2_500), []);
}
