//! Tables of `sem-orphaned-lock`: records in, findings out.

use crate::finding::{Confidence, Origin};
use crate::fixture::{NS, P, Stream, number, role, sem, sem_inventory, sem_limits, sem_row};
use tracer_common::event::{Body, SemHeldAtExit, SemRemove, SemSet};
use tracer_common::state::SemState;
use tracer_record::{ProcessRow, Record};

const OWNER: P = P(600, "script");
const HOLDER: P = P(700, "holder");
const WAITERS: [P; 3] = [P(701, "w"), P(702, "w"), P(703, "w")];

fn killed() -> Stream {
    let mut s = Stream::new();
    s.sem_create(100, OWNER, 5, 77);
    s.event(1_000, HOLDER, Body::SemHeldAtExit(SemHeldAtExit { id: 5, ns: NS, num: 0, net: -1 })).gone(1_001, HOLDER);
    s
}

fn wait(s: &mut Stream, at: u64) {
    s.blocked(at, &WAITERS.map(|w| (w, sem(5), 500, None)));
}

fn close(s: &mut Stream, at: u64, value: u32, ncnt: u32) {
    let rows = vec![OWNER.row('S'), WAITERS[0].row('S'), WAITERS[1].row('S'), WAITERS[2].row('S')];
    let sets = vec![sem_row(5, 77, 0, &[(value, 700, ncnt)])];
    s.record(Record::Closing(sem_inventory(at, rows, sets, sem_limits(1, 1, 100, 100))));
}

#[test]
fn a_dead_holder_and_its_waiters() {
    let mut s = killed();
    wait(&mut s, 2_500);
    for closed in [false, true] {
        if closed {
            close(&mut s, 3_000, 0, 3);
        }
        let found = s.findings(3_000);
        let [f] = found.as_slice() else { unreachable!("{found:#?}") };
        assert_eq!((f.code.as_str(), f.confidence), ("sem-orphaned-lock", Confidence::Certain));
        assert_eq!((role(f, "holder"), role(f, "blocked")), (vec![700], vec![701, 702, 703]));
        assert_eq!((number(f, "waiters"), number(f, "holder_died_s")), (Some(3.0), Some(2.0)));
        assert!(f.title.contains("set 5") && f.title.contains("holder (700)"), "{}", f.title);
        assert!(f.processes.iter().any(|p| p.role == "holder" && p.alive == Some(false)));
    }
}

#[test]
fn resolved_since() {
    for (what, fill) in [
        (
            "set anew",
            (|s: &mut Stream| {
                s.event(2_000, OWNER, Body::SemSet(SemSet { id: 5, ns: NS, num: 0, value: 1, all: 0, _pad: 0 }));
            }) as fn(&mut Stream),
        ),
        ("all set anew", |s| {
            s.event(2_000, OWNER, Body::SemSet(SemSet { id: 5, ns: NS, num: 0, value: 0, all: 1, _pad: 0 }));
        }),
        ("removed", |s| {
            s.event(2_000, OWNER, Body::SemRemove(SemRemove { id: 5, ns: NS, ns_end: 0, _pad: 0 }));
        }),
        ("a thread got it", |s| {
            s.stall_with(2_000, WAITERS[0], sem(5), 1_500, None, SemState::operation(0, -1).into(), 0);
        }),
        ("free at the end", |s| close(s, 2_900, 1, 0)),
        ("nobody wants it", |s| {
            s.blocked(2_000, &[]);
        }),
    ] {
        let mut s = killed();
        if what != "nobody wants it" {
            wait(&mut s, 1_800);
        }
        fill(&mut s);
        if what == "set anew" || what == "all set anew" {
            s.blocked(2_500, &[]);
        }
        let found = s.of("sem-orphaned-lock", 3_000);
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
}

#[test]
fn a_set_reused_under_the_same_id_is_another_one() {
    let mut s = killed();
    s.event(1_500, OWNER, Body::SemRemove(SemRemove { id: 5, ns: NS, ns_end: 0, _pad: 0 }))
        .sem_create(1_600, OWNER, 5, 77);
    wait(&mut s, 2_500);
    assert!(s.of("sem-orphaned-lock", 3_000).is_empty());
}

#[test]
fn failed_tries_count_as_well() {
    let mut s = killed();
    s.refused(2_500, WAITERS[0], sem(5), 9, (1_500, 2_400), None);
    let found = s.of("sem-orphaned-lock", 3_000);
    assert_eq!(number(&found[0], "failed"), Some(9.0));
    // Tries that ended before the death say nothing.
    let mut s = killed();
    s.refused(2_500, WAITERS[0], sem(5), 9, (500, 900), None);
    assert!(s.of("sem-orphaned-lock", 3_000).is_empty());
}

#[test]
fn found_stuck_at_the_start() {
    let sleeping = |p: P| ProcessRow { syscall: Some(220), ..p.row('S') };
    for (what, last, value, ncnt, at, found) in [
        ("the last one to operate is dead", 700, 0, 3, 3_000, true),
        ("it lives", 600, 0, 3, 3_000, false),
        ("not locked", 700, 1, 0, 3_000, false),
        ("nobody waits", 700, 0, 0, 3_000, false),
        ("too early to be sure", 700, 0, 3, 500, false),
    ] {
        let mut s = Stream::new();
        let rows = vec![OWNER.row('S'), sleeping(WAITERS[0]), sleeping(WAITERS[1]), sleeping(WAITERS[2])];
        let sets = vec![sem_row(5, 77, 1, &[(value, last, ncnt)])];
        let limits = sem_limits(1, 1, 100, 100);
        s.record(Record::Baseline(sem_inventory(10, rows.clone(), sets.clone(), limits)));
        s.record(Record::Closing(sem_inventory(at, rows, sets, limits)));
        let got = s.of("sem-orphaned-lock", at);
        assert_eq!(!got.is_empty(), found, "{what}: {got:#?}");
        if let [f] = got.as_slice() {
            assert_eq!((f.confidence, f.origin), (Confidence::Likely, Origin::Baseline), "{what}");
            assert_eq!((role(f, "holder"), role(f, "blocked")), (vec![700], vec![701, 702, 703]), "{what}");
            assert_eq!(number(f, "waiters"), Some(3.0), "{what}");
        }
    }
}

/// In another namespace the same id is another set: whoever follows the advice must get into the right one.
#[test]
fn commands_enter_the_namespace_of_the_set() {
    let tracer = P(9999, "ipctrace");
    for (own, member, want) in
        [(NS, true, Some("ipcrm -s 5")), (NS + 1, true, Some("nsenter -t 701 -i ipcrm -s 5")), (NS + 1, false, None)]
    {
        let mut s = killed();
        wait(&mut s, 2_500);
        let of = |p: P, ns| ProcessRow { ipc_ns: Some(ns), ..p.row('S') };
        let mut rows = vec![of(tracer, own), of(P(800, "other"), own)];
        rows.extend(WAITERS.map(|w| of(w, NS)).into_iter().filter(|_| member));
        let sets = vec![sem_row(5, 77, 0, &[(0, 700, 3)])];
        s.record(Record::Closing(sem_inventory(3_000, rows, sets, sem_limits(1, 1, 100, 100))));
        let found = s.of("sem-orphaned-lock", 3_000);
        let commands: Vec<_> = found[0].remedy.iter().map(|r| r.command.as_deref()).collect();
        assert_eq!(commands.get(1).copied().flatten(), want, "{commands:?}");
        assert_eq!(commands[0].is_some(), want.is_some(), "{commands:?}");
    }
}
