//! Tables of `shm-leak`: records in, findings out.

use crate::finding::{Confidence, Finding, Origin, Severity};
use crate::fixture::{MS, NS, P, START, Stream, number, role};
use tracer_common::event::{Body, SysvCreate};
use tracer_common::map::kind;
use tracer_record::{Inventory, ProcessRow, Record, ShmLimitRow, ShmSegment};

const INIT: P = P(1, "init");
const WORKER: P = P(700, "worker");
/// The session's own process.
const TRACER: P = P(9999, "ipctrace");
/// Seconds since 1970 when the session starts.
const START_S: u64 = 1_700_000_000;

/// A segment made `age_s` before the start by a process not in the model; never attached.
fn segment(id: i32, age_s: u64) -> ShmSegment {
    ShmSegment {
        ns: NS,
        id,
        size_bytes: 65_536,
        cpid: 4_000 + id.cast_unsigned(),
        cuid: 1000,
        mode: 0o600,
        ctime: START_S - age_s,
        ..ShmSegment::default()
    }
}

fn inventory(at: u64, rows: Vec<ProcessRow>, segments: Vec<ShmSegment>, shmmni: u64) -> Inventory {
    let used = u64::try_from(segments.len()).unwrap_or(0);
    let limits = ShmLimitRow {
        ns: NS,
        shmmni,
        shmall: u64::MAX - (1 << 24),
        shmmax: u64::MAX - (1 << 24),
        used_segments: used,
        used_pages: used * 16,
        ..ShmLimitRow::default()
    };
    Inventory {
        ts_ns: START + at * MS,
        processes: rows,
        shm_segments: segments,
        shm_limits: vec![limits],
        ..Inventory::default()
    }
}

/// The same tables at the start and at the end.
fn stays(rows: &[ProcessRow], segments: &[ShmSegment]) -> Stream {
    let mut rows = rows.to_vec();
    rows.push(INIT.row('S'));
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory(10, rows.clone(), segments.to_vec(), 4_096)));
    s.record(Record::Closing(inventory(3_000, rows, segments.to_vec(), 4_096)));
    s
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

#[test]
fn orphans_from_before_and_their_healthy_twins() {
    let lone = segment(5, 400);
    let by_worker = |row: ShmSegment| ShmSegment { cpid: WORKER.0, ..row };
    // WORKER started 493 s before the start.
    for (what, row, severity) in [
        ("creator dead, never attached", lone.clone(), Some(Severity::Info)),
        (
            "last user dead as well",
            ShmSegment { lpid: 4_100, dtime: START_S - 300, ..lone.clone() },
            Some(Severity::Info),
        ),
        ("a process has it attached", ShmSegment { nattch: 1, ..lone.clone() }, None),
        ("removed while attached", ShmSegment { nattch: 1, dest: true, ..lone.clone() }, None),
        ("marked for removal", ShmSegment { dest: true, ..lone.clone() }, None),
        ("the creator lives", by_worker(lone.clone()), None),
        ("the last user lives", ShmSegment { lpid: WORKER.0, atime: START_S - 100, ..lone.clone() }, None),
        ("another process has the creator's pid now", by_worker(segment(5, 499)), Some(Severity::Info)),
        (
            "the tracer let go of its memory last",
            ShmSegment { lpid: TRACER.0, dtime: START_S + 1, ..lone.clone() },
            Some(Severity::Info),
        ),
        (
            "the last user's pid is another's now",
            ShmSegment { lpid: WORKER.0, dtime: START_S - 499, ..lone.clone() },
            Some(Severity::Info),
        ),
        ("a creation before the boot: the clock was set", by_worker(segment(5, 90_000)), None),
        ("the creator is not visible here", ShmSegment { cpid: 0, ..lone.clone() }, None),
        ("the last user is not visible here", ShmSegment { atime: START_S - 100, ..lone.clone() }, None),
    ] {
        let found = stays(&[WORKER.row('S'), TRACER.row('S')], &[row]).findings(3_000);
        assert_eq!(found.first().map(|f| f.severity), severity, "{what}: {found:#?}");
        if severity.is_some() {
            let f = one(&found);
            assert_eq!(
                (f.code.as_str(), f.origin, f.confidence),
                ("shm-leak", Origin::Baseline, Confidence::Likely),
                "{what}"
            );
        }
    }
}

#[test]
fn a_zombie_has_nothing_attached() {
    let row = ShmSegment { cpid: WORKER.0, ..segment(5, 400) };
    assert_eq!(stays(&[WORKER.row('Z')], &[row]).findings(3_000).len(), 1);
}

#[test]
fn several_of_one_owner_are_one_finding() {
    let segments: Vec<ShmSegment> = (0..4).map(|i| segment(i, 400 - u64::from(i.cast_unsigned()) * 90)).collect();
    let found = stays(&[], &segments).findings(3_000);
    let f = one(&found);
    assert_eq!(
        (f.severity, number(f, "instances"), number(f, "size_bytes")),
        (Severity::Warning, Some(4.0), Some(262_144.0))
    );
    assert_eq!(number(f, "oldest_age_s"), Some(403.0));
    assert_eq!(number(f, "rate_per_h"), Some(35.7));
    assert_eq!(f.evidence["ids"], serde_json::json!(["0", "1", "2", "3"]));
    assert_eq!(f.evidence["pids"], serde_json::json!([4000, 4001, 4002, 4003]));
    assert_eq!(role(f, "creator"), [4000, 4001, 4002, 4003]);
    assert!(f.processes.iter().all(|p| p.alive == Some(false)));
    assert_eq!(f.remedy.first().and_then(|r| r.command.as_deref()), Some("ipcrm -m 0 -m 1 -m 2 -m 3"));
    let limit = f.limit.as_ref().map(|l| (l.name.as_str(), l.used, l.max));
    assert_eq!(limit, Some(("SHMMNI", Some(4), Some(4096))));
    let object = f.object.as_ref().map(|o| (o.kind.as_str(), o.id.as_str(), o.key.as_deref(), o.ns));
    assert_eq!(object, Some(("shm", "0", Some("0x00000000"), Some(NS))));
}

#[test]
fn other_owners_and_shapes_are_other_findings() {
    let segments = [
        segment(1, 400),
        ShmSegment { cuid: 1001, ..segment(2, 400) },
        ShmSegment { size_bytes: 4096, ..segment(3, 400) },
        ShmSegment { key: 0x5100_0001, ..segment(4, 400) },
        ShmSegment { key: 0x7777_2222, ..segment(5, 100) },
    ];
    let found = stays(&[], &segments).findings(3_000);
    assert_eq!(found.len(), 5);
    assert!(found.iter().all(|f| f.severity == Severity::Info), "{found:#?}");
}

#[test]
fn most_of_the_limit_is_critical() {
    let segments: Vec<ShmSegment> = (0..8).map(|i| segment(i, 400)).collect();
    let mut s = Stream::new();
    s.record(Record::Closing(inventory(3_000, vec![INIT.row('S')], segments, 10)));
    let found = s.findings(3_000);
    assert_eq!((one(&found).severity, one(&found).origin), (Severity::Critical, Origin::Observed));
}

#[test]
fn what_appears_and_stays_is_observed() {
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory(0, vec![INIT.row('S')], vec![], 4_096)));
    s.fork(1_000, INIT, WORKER).gone(2_000, WORKER);
    let row = ShmSegment {
        cpid: WORKER.0,
        lpid: WORKER.0,
        atime: START_S + 1,
        dtime: START_S + 2,
        ctime: START_S + 1,
        ..segment(5, 0)
    };
    // Without a closing snapshot nothing is known about it.
    assert!(s.findings(4_000).is_empty());
    s.record(Record::Closing(inventory(5_000, vec![INIT.row('S')], vec![row], 4_096)));
    let found = s.findings(5_000);
    let f = one(&found);
    assert_eq!((f.origin, f.severity), (Origin::Observed, Severity::Info));
    assert_eq!(f.processes.first().and_then(|p| p.comm.as_deref()), Some("worker"));
}

#[test]
fn the_closing_table_is_believed() {
    for (what, closing) in [
        ("removed", inventory(3_000, vec![INIT.row('S')], vec![], 4_096)),
        (
            "its namespace has no member any more",
            Inventory { ts_ns: START + 3_000 * MS, processes: vec![INIT.row('S')], ..Inventory::default() },
        ),
        (
            "in use again",
            inventory(3_000, vec![INIT.row('S')], vec![ShmSegment { nattch: 1, ..segment(5, 400) }], 4_096),
        ),
    ] {
        let mut s = Stream::new();
        s.record(Record::Baseline(inventory(10, vec![INIT.row('S')], vec![segment(5, 400)], 4_096)));
        assert_eq!(s.findings(2_000).len(), 1, "{what}: before");
        s.record(Record::Closing(closing));
        assert!(s.findings(3_000).is_empty(), "{what}");
    }
}

#[test]
fn a_death_after_the_table_was_read_proves_nothing() {
    // The creator may have removed the segment before it died.
    let mut s = Stream::new();
    let row = ShmSegment { cpid: WORKER.0, ..segment(5, 400) };
    s.record(Record::Baseline(inventory(10, vec![INIT.row('S'), WORKER.row('S')], vec![row], 4_096)));
    s.gone(2_000, WORKER);
    assert!(s.findings(3_000).is_empty());
}

#[test]
fn an_id_in_use_again_is_another_segment() {
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory(10, vec![INIT.row('S')], vec![segment(5, 400)], 4_096)));
    let again = ShmSegment { cpid: 4_999, ..segment(5, 0) };
    s.record(Record::Closing(inventory(3_000, vec![INIT.row('S')], vec![again], 4_096)));
    assert_eq!(one(&s.findings(3_000)).origin, Origin::Observed);
}

#[test]
fn another_namespace_is_entered_to_remove() {
    let (me, member) = (P(9_999, "ipctrace"), P(800, "member"));
    let in_ns = |p: P, ns: u32| ProcessRow { ipc_ns: Some(ns), ..p.row('S') };
    let rows = [in_ns(me, NS + 7), in_ns(member, NS)];
    let found = stays(&rows, &[segment(5, 400)]).findings(3_000);
    assert_eq!(one(&found).remedy.first().and_then(|r| r.command.as_deref()), Some("nsenter -t 800 -i ipcrm -m 5"));
}

#[test]
fn a_target_gets_no_findings_about_others() {
    let mut s = stays(&[WORKER.row('S')], &[segment(5, 400)]);
    s.session.target_pids = vec![WORKER.0];
    assert!(s.findings(3_000).is_empty());
}

#[test]
fn the_creation_of_a_segment_was_recorded() {
    let client = P(710, "client");
    for (what, exact, cpid, creator_dies, want) in [
        ("its creator is dead", 1, 710, true, Some((710, 1))),
        ("its creator lives", 1, 710, false, None),
        ("the call had opened one of another process", 0, 4_005, true, Some((4_005, 0))),
        ("the call may have made it", 0, 710, true, Some((710, 1))),
    ] {
        let mut s = Stream::new();
        s.record(Record::Baseline(inventory(0, vec![INIT.row('S')], vec![], 4_096)));
        s.fork(900, INIT, client);
        let body = SysvCreate { kind: kind::SHM, id: 5, key: 0, flags: 0o1600, ns: NS, exact, size: 65_536 };
        s.stack = 3;
        s.event(1_000, client, Body::SysvCreate(body)).frames(3, &[("/usr/bin/client", 0x5510, 0x510)]);
        if creator_dies {
            s.gone(2_000, client);
        }
        let row = ShmSegment { cpid, ctime: START_S + 1, ..segment(5, 0) };
        let rows = if creator_dies { vec![INIT.row('S')] } else { vec![INIT.row('S'), client.row('S')] };
        s.record(Record::Closing(inventory(5_000, rows, vec![row], 4_096)));
        let found = s.findings(5_000);
        let got = found.first().map(|f| (role(f, "creator").first().copied().unwrap_or(0), f.stacks.len()));
        assert_eq!(got, want, "{what}: {found:#?}");
        assert!(found.iter().all(|f| f.origin == Origin::Observed), "{what}");
    }
}
