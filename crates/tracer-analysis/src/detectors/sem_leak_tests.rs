//! Tables of `sem-leak`: records in, findings out.

use crate::finding::{Confidence, Finding, Origin, Severity};
use crate::fixture::{NS, P, Stream, number, role, sem_inventory, sem_limits, sem_row};
use tracer_common::event::{Body, SemCreate, SemFirstUse, SemRemove};
use tracer_common::site::Site;
use tracer_record::{Record, SemSetRow};

const WORKER: P = P(700, "worker");

fn use_it(s: &mut Stream, at: u64, p: P, id: i32) {
    s.event(at, p, Body::SemFirstUse(SemFirstUse { id, ns: NS }));
}

fn remove(s: &mut Stream, at: u64, p: P, id: i32) {
    s.event(at, p, Body::SemRemove(SemRemove { id, ns: NS, ns_end: 0, _pad: 0 }));
}

fn close(s: &mut Stream, at: u64, rows: Vec<tracer_record::ProcessRow>, sets: Vec<SemSetRow>) {
    let n = u64::try_from(sets.len()).unwrap_or(0);
    s.record(Record::Closing(sem_inventory(at, rows, sets, sem_limits(n, n, 32_000, 1_000_000))));
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

#[test]
fn generations_that_were_killed_are_one_finding() {
    let mut s = Stream::new();
    let mut sets = Vec::new();
    for g in 0..5u32 {
        let (master, kid) = (P(700 + g * 10, "apache2"), P(701 + g * 10, "apache2"));
        let at = 1_000 + u64::from(g) * 500;
        for n in 0..2 {
            let id = i32::try_from(g).unwrap_or(0) * 2 + n;
            s.sem_create(at, master, id, 0);
            use_it(&mut s, at + 10, kid, id);
            sets.push(sem_row(id, 0, 0, &[(1, kid.0, 0)]));
        }
        s.fork(at + 5, master, kid).gone(at + 300, kid).gone(at + 300, master);
    }
    // The last generation exits properly: it removes its sets.
    let last = P(790, "apache2");
    s.sem_create(4_000, last, 90, 0);
    remove(&mut s, 4_100, last, 90);
    s.gone(4_200, last);
    close(&mut s, 5_000, vec![P(1, "init").row('S')], sets);
    let found = s.findings(5_000);
    let f = one(&found);
    assert_eq!((f.code.as_str(), f.severity, f.confidence), ("sem-leak", Severity::Warning, Confidence::Certain));
    assert_eq!(number(f, "instances"), Some(10.0));
    assert_eq!(f.evidence["pids"], serde_json::json!([700, 710, 720, 730, 740]));
    assert_eq!(f.evidence["ids"].as_array().map(Vec::len), Some(10));
    assert_eq!(f.object.as_ref().and_then(|o| o.key.as_deref()), Some("0x00000000"));
}

#[test]
fn orphans_and_their_healthy_twins() {
    let helper = P(720, "helper");
    for (what, severity, fill) in [
        ("one lone orphan", Some(Severity::Info), (|_: &mut Stream| {}) as fn(&mut Stream)),
        ("a user still lives", None, |s| use_it(s, 1_100, P(720, "helper"), 5)),
        ("another process removed it", None, |s| remove(s, 3_000, P(730, "ipcrm"), 5)),
        ("a user that exited as well", Some(Severity::Info), |s| {
            use_it(s, 1_100, P(721, "gone"), 5);
            s.gone(1_200, P(721, "gone"));
        }),
    ] {
        let mut s = Stream::new();
        s.sem_create(1_000, WORKER, 5, 0x1234);
        fill(&mut s);
        s.gone(2_000, WORKER);
        assert_eq!(one_severity(&s.findings(4_000)), severity, "{what}, without the closing inventory");
        let there = severity.is_some() || what == "a user still lives";
        let sets = if there { vec![sem_row(5, 0x1234, 0, &[(1, 0, 0)])] } else { vec![] };
        close(&mut s, 5_000, vec![P(1, "init").row('S'), helper.row('S')], sets);
        let found = s.findings(5_000);
        assert_eq!(one_severity(&found), severity, "{what}: {found:#?}");
    }
}

fn one_severity(found: &[Finding]) -> Option<Severity> {
    assert!(found.len() <= 1, "{found:#?}");
    found.first().map(|f| f.severity)
}

#[test]
fn the_creator_lives() {
    let mut s = Stream::new();
    s.sem_create(1_000, WORKER, 5, 0).sem_create(1_001, WORKER, 6, 0);
    close(&mut s, 3_000, vec![WORKER.row('S')], vec![sem_row(5, 0, 0, &[(0, 0, 0)]), sem_row(6, 0, 0, &[(0, 0, 0)])]);
    assert!(s.findings(3_000).is_empty());
}

#[test]
fn the_closing_table_is_believed() {
    // The removal was lost, or not recorded.
    let mut s = Stream::new();
    s.sem_create(1_000, WORKER, 5, 0).gone(2_000, WORKER);
    close(&mut s, 3_000, vec![P(1, "init").row('S')], vec![]);
    assert!(s.findings(3_000).is_empty());
}

#[test]
fn a_living_process_that_keeps_creating() {
    for (what, many, every_ms, used, removed, found) in [
        ("ten in ten seconds", 10, 1_000, false, false, true),
        ("a pool made at once", 10, 1, false, false, false),
        ("very many at once", 80, 1, false, false, true),
        ("used later on", 10, 1_000, true, false, false),
        ("it removes some", 10, 1_000, false, true, false),
        ("too few", 7, 1_000, false, false, false),
    ] {
        let mut s = Stream::new();
        for i in 0..many {
            let at = 1_000 + i * every_ms;
            let id = i32::try_from(i).unwrap_or(0);
            s.sem_create(at, WORKER, id, 0);
            if used {
                use_it(&mut s, at + 2_000, P(720, "peer"), id);
            }
        }
        if removed {
            remove(&mut s, 12_000, WORKER, 0);
        }
        let got = s.findings(15_000);
        assert_eq!(!got.is_empty(), found, "{what}: {got:#?}");
        if found {
            assert_eq!(role(one(&got), "creator"), [700], "{what}");
        }
    }
}

#[test]
fn orphans_from_before() {
    let dead = (1, 4_000, 0);
    for (what, sets, rows, found) in [
        ("last users dead", vec![sem_row(1, 0, 500, &[dead]), sem_row(2, 0, 500, &[dead])], vec![], true),
        ("a single one, used a moment ago", vec![sem_row(1, 7, 5, &[dead])], vec![], false),
        ("one never operated on", vec![sem_row(1, 0, 500, &[(0, 0, 0)])], vec![], false),
        ("three never operated on", (1..4).map(|i| sem_row(i, 0, 500, &[(0, 0, 0)])).collect(), vec![], true),
        ("a process waits", vec![sem_row(1, 0, 500, &[(0, 0, 1)])], vec![], false),
        ("the last user lives", vec![sem_row(1, 7, 1, &[(1, 700, 0)])], vec![WORKER.row('S')], false),
        ("values unreadable", vec![SemSetRow { nsems: 100, ..sem_row(1, 0, 500, &[]) }], vec![], false),
    ] {
        let mut s = Stream::new();
        let limits = sem_limits(2, 2, 32_000, 1_000_000);
        let mut rows = rows;
        rows.push(P(1, "init").row('S'));
        s.record(Record::Baseline(sem_inventory(10, rows.clone(), sets.clone(), limits)));
        s.record(Record::Closing(sem_inventory(3_000, rows, sets, limits)));
        let got = s.findings(3_000);
        assert_eq!(!got.is_empty(), found, "{what}: {got:#?}");
        if found {
            let f = one(&got);
            assert_eq!((f.origin, f.confidence), (Origin::Baseline, Confidence::Likely), "{what}");
            assert!(role(f, "creator").is_empty(), "{what}: the creator is unknown");
        }
    }
}

#[test]
fn an_old_set_in_use_is_healthy() {
    let mut s = Stream::new();
    let sets = vec![sem_row(1, 0, 500, &[(1, 4_000, 0)])];
    let limits = sem_limits(1, 1, 32_000, 1_000_000);
    s.record(Record::Baseline(sem_inventory(10, vec![WORKER.row('S')], sets, limits)));
    use_it(&mut s, 500, WORKER, 1);
    assert!(s.findings(3_000).is_empty());
}

#[test]
fn a_reused_pid_is_another_process() {
    // The set was last touched 400 s before the start; process 700 started after that.
    let mut s = Stream::new();
    let late = P(40_000, "other");
    let sets = vec![sem_row(1, 0, 400, &[(1, late.0, 0)])];
    let limits = sem_limits(1, 1, 32_000, 1_000_000);
    s.record(Record::Baseline(sem_inventory(10, vec![late.row('S')], sets, limits)));
    assert_eq!(s.findings(3_000).len(), 1);
}

#[test]
fn losses_make_it_uncertain() {
    let mut s = Stream::new();
    s.sem_create(1_000, WORKER, 5, 0).lost(1_500, Site::SemRemove).gone(2_000, WORKER);
    close(&mut s, 3_000, vec![P(1, "init").row('S')], vec![sem_row(5, 0, 0, &[(1, 0, 0)])]);
    assert_eq!(one(&s.findings(3_000)).confidence, Confidence::Uncertain);
}

#[test]
fn semget_of_an_old_set_is_no_creation() {
    let open = SemCreate { id: 5, key: 7, nsems: 1, flags: 0o1600, ns: NS, exact: 0 };
    // The open comes before the baseline, which has the age of the set.
    let mut s = Stream::new();
    s.event(5, WORKER, Body::SemCreate(open));
    let sets = vec![sem_row(5, 7, 900, &[(1, 720, 0)])];
    let rows = vec![WORKER.row('S'), P(720, "owner").row('S')];
    s.record(Record::Baseline(sem_inventory(10, rows, sets, sem_limits(1, 1, 32_000, 1_000_000))));
    s.gone(2_000, WORKER);
    assert!(s.findings(3_000).is_empty());
    // And one of a set that the baseline has.
    s.event(2_500, P(730, "other"), Body::SemCreate(open)).gone(2_600, P(730, "other"));
    assert!(s.findings(3_000).is_empty());
}

#[test]
fn each_line_is_a_finding_of_its_own() {
    let mut s = Stream::new();
    // Programs are loaded at different addresses; the third stack has a different offset in the same file.
    s.frames(1, &[("/bin/w", 0x1010, 0x10)]).frames(2, &[("/bin/w", 0x2010, 0x10)]);
    s.frames(3, &[("/lib/libc.so.6", 0x7010, 0x10), ("/bin/w", 0x2020, 0x20)]);
    for stack in [1, 3, 2, 2] {
        let p = P(700 + u32::try_from(s.records.len()).unwrap_or(0), "w");
        s.stack = stack;
        s.sem_create(1_000, p, p.0.cast_signed(), 0).gone(1_100, p);
    }
    let found = s.findings(3_000);
    let reported: Vec<_> = found
        .iter()
        .map(|f| (number(f, "instances"), f.stacks.iter().map(|s| s.site.as_deref()).collect::<Vec<_>>()))
        .collect();
    let want = [(Some(3.0), vec![Some("/bin/w+0x10")]), (Some(1.0), vec![Some("/bin/w+0x20")])];
    assert_eq!(reported, want);
}

#[test]
fn stacks_that_follow_their_events_and_ids_of_the_same_stack() {
    let mut s = Stream::new();
    for (stack, pid) in [(11, 700), (12, 701), (13, 702), (14, 703)] {
        s.stack = stack;
        s.sem_create(1_000, P(pid, "w"), pid.cast_signed(), 0).gone(1_100, P(pid, "w"));
    }
    // A trace cut off before any stack was recorded has the same leak.
    let found = s.findings(3_000);
    assert!(matches!(&found[..], [f] if number(f, "instances") == Some(4.0) && f.stacks.is_empty()), "{found:?}");
    s.frames(11, &[("/bin/w", 0x1010, 0x10)]).record(Record::SameStack { id: 13, of: 11 });
    s.frames(12, &[("/bin/w", 0x1020, 0x20)]);
    let sites = |f: &Finding| f.stacks.iter().filter_map(|s| s.site.clone()).collect::<Vec<_>>();
    let reported: Vec<_> = s.findings(3_000).iter().map(|f| (number(f, "instances"), sites(f))).collect();
    // The set of an unknown line joins the largest group.
    assert_eq!(reported, [(Some(3.0), vec!["/bin/w+0x10".to_owned()]), (Some(1.0), vec!["/bin/w+0x20".to_owned()])]);
}
