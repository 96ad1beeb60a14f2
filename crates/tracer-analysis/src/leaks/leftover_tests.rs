//! Tables of `mq-leak`, `posix-sem-leak` and `posix-shm-leak`: records in, findings out.

use super::stem;
use crate::finding::builder::shell_word;
use crate::finding::{Confidence, Origin, Severity};
use crate::fixture::{MS, P, START, Stream, mq_create, number, role};
use tracer_record::{PosixHolder, PosixInventory, PosixKind, PosixObject, Record};

const WORKER: P = P(700, "worker");
const START_S: u64 = 1_700_000_000;

/// A name last touched `age_s` before the start.
fn row(kind: PosixKind, name: &str, ino: u64, age_s: u64) -> PosixObject {
    PosixObject {
        kind,
        name: name.to_owned(),
        path: String::new(),
        dev: 9,
        device: 9,
        ino,
        size_bytes: 4_096,
        uid: 1000,
        gid: 1000,
        mode: 0o600,
        mtime: START_S - age_s,
        ctime: START_S - age_s,
        queue: None,
        holders: Vec::new(),
        complete: true,
    }
}

fn held(object: PosixObject) -> PosixObject {
    let holder = PosixHolder { tgid: 700, start_ns: WORKER.start_ns(), open: false, mapped: true };
    PosixObject { holders: vec![holder], ..object }
}

fn opaque(object: PosixObject) -> PosixObject {
    PosixObject { complete: false, ..object }
}

/// A session of 10 s that finds these names at its start, without their users, and at its end.
fn session(objects: &[PosixObject], from_before: bool) -> Stream {
    let mut s = Stream::new();
    let inventory = |at: u64, objects: Vec<PosixObject>| tracer_record::Inventory {
        ts_ns: START + at * MS,
        processes: vec![WORKER.row('S')],
        posix: Some(PosixInventory { objects, queues_max: 256, shm_max_bytes: 1 << 30, ..PosixInventory::default() }),
        ..tracer_record::Inventory::default()
    };
    let early = objects.iter().filter(|_| from_before).cloned();
    let early = early.map(|o| PosixObject { holders: Vec::new(), complete: false, ..o }).collect();
    s.record(Record::Baseline(inventory(0, early)));
    s.record(Record::Closing(inventory(10_000, objects.to_vec())));
    s
}

#[test]
fn leftover_names_and_their_severity() {
    use PosixKind::{Mq, Sem, Shm};
    let alike = |n: u64| (0..n).map(|i| row(Shm, &format!("/job-{i}"), i, 60 + i)).collect::<Vec<_>>();
    for (what, objects, want) in [
        ("one old name", vec![row(Shm, "/cache", 1, 90)], Some(("posix-shm-leak", Severity::Info, 1.0))),
        ("several alike", alike(3), Some(("posix-shm-leak", Severity::Warning, 3.0))),
        (
            "strangers",
            vec![row(Sem, "/a", 1, 90), row(Sem, "/b", 2, 90)],
            Some(("posix-sem-leak", Severity::Info, 2.0)),
        ),
        ("a queue", vec![row(Mq, "/q-1", 1, 90)], Some(("mq-leak", Severity::Info, 1.0))),
        ("one in use", vec![held(row(Shm, "/cache", 1, 90))], None),
        ("its users are unknown", vec![opaque(row(Shm, "/cache", 1, 90))], None),
        ("nothing", vec![], None),
    ] {
        let found = session(&objects, true).findings(10_000);
        let reported = found.first().map(|f| (f.code.as_str(), f.severity, number(f, "instances").unwrap_or(0.0)));
        assert_eq!(reported, want, "{what}");
        assert!(found.len() <= 1, "{what}: {found:#?}");
        for f in &found {
            assert_eq!((f.confidence, f.origin), (Confidence::Likely, Origin::Baseline), "{what}");
        }
    }
}

#[test]
fn most_of_the_file_system_is_critical() {
    let object = PosixObject { size_bytes: 900 << 20, ..row(PosixKind::Shm, "/big", 1, 90) };
    assert_eq!(session(&[object], true).findings(10_000)[0].severity, Severity::Critical);
}

#[test]
fn a_young_name_may_be_about_to_be_used() {
    let mut object = row(PosixKind::Sem, "/new", 1, 0);
    object.ctime = START_S + 8;
    assert!(session(&[object.clone()], false).findings(10_000).is_empty());
    object.ctime = START_S + 7;
    assert_eq!(session(&[object], false).findings(10_000).len(), 1);
    // Only the mtime of a queue counts: reading its fill changes the ctime.
    let mut queue = row(PosixKind::Mq, "/new", 1, 90);
    queue.ctime = START_S + 9;
    assert_eq!(session(&[queue], false).findings(10_000).len(), 1);
}

#[test]
fn a_dead_creator_is_named_and_a_living_one_may_come_back() {
    let objects = |n: u64| (1..=n).map(|i| row(PosixKind::Mq, &format!("/q-{i}"), i, 20)).collect::<Vec<_>>();
    for (what, n, dies, want) in [
        ("it exited", 2, true, Some("worker (700) created 2 POSIX message queues")),
        ("it lives and has a few", 7, false, None),
        ("it lives and keeps creating", 8, false, Some("worker (700) created 8 POSIX message queues")),
    ] {
        let mut s = session(&objects(n), false);
        let closing = s.records.pop();
        for i in 1..=n {
            s.event(100, WORKER, mq_create(i, &format!("q-{i}")));
        }
        if dies {
            s.gone(200, WORKER);
        }
        s.records.extend(closing);
        let found = s.findings(10_000);
        assert_eq!(found.len(), usize::from(want.is_some()), "{what}: {found:#?}");
        if let (Some(want), [f]) = (want, found.as_slice()) {
            assert!(f.title.contains(want), "{what}: {}", f.title);
            assert_eq!((role(f, "creator"), f.origin, f.severity), (vec![700], Origin::Observed, Severity::Warning));
        }
    }
}

#[test]
fn stems_and_shell_words() {
    for (name, want) in
        [("/job-17", "job"), ("/psm_ab12", "psm"), ("/x", "x"), ("/17", ""), ("plain", "plain"), ("/é", "")]
    {
        assert_eq!(stem(name), want, "{name}");
    }
    assert_eq!(shell_word("mq:/a-1"), "mq:/a-1");
    assert_eq!(shell_word("mq:/a b'c"), "'mq:/a b'\\''c'");
}
