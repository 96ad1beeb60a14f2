//! Tables of `zombie-leak`: records in, findings out.

use crate::finding::{Confidence, Finding, Origin, Severity};
use crate::fixture::{P, Stream, number, role};
use tracer_common::event::{Body, Exec};
use tracer_record::ProcessRow;

const PARENT: P = P(900, "python3");

fn kid(n: u32) -> P {
    P(1_000 + n, "child")
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

/// `n` children end at `at`; the first `reaped` of them are reaped at `reap_at`.
fn burst(s: &mut Stream, n: u32, at: u64, reaped: u32, reap_at: u64) {
    s.event(1, PARENT, Body::Exec(Exec { old_tid: PARENT.0, _pad: 0 }));
    for i in 0..n {
        s.fork(at - 10, PARENT, kid(i));
    }
    for i in 0..n {
        s.exit(at, kid(i), PARENT);
    }
    for i in 0..reaped {
        s.free(reap_at, kid(i));
    }
}

fn zombies(n: std::ops::Range<u32>) -> Vec<ProcessRow> {
    n.map(|i| kid(i).child_of(PARENT, 'Z')).collect()
}

/// The parent, asleep in wait4.
fn waiting() -> ProcessRow {
    ProcessRow { syscall: Some(61), ..PARENT.row('S') }
}

#[test]
fn one_wait_for_each_signal() {
    let mut s = Stream::new();
    burst(&mut s, 200, 100, 1, 800);
    s.children(2_000, PARENT, |c| {
        c.exits = 200;
        c.sigchld_generated = 200;
        c.sigchld_coalesced = 199;
        (c.delivered, c.waits_any, c.reaped_any) = (1, 1, 1);
    });
    let mut rows = zombies(1..200);
    rows.push(PARENT.row('S'));
    s.closing(3_000, rows);
    let found = s.findings(3_000);
    let f = one(&found);
    assert_eq!((f.code.as_str(), f.confidence), ("zombie-leak", Confidence::Certain));
    assert_eq!(role(f, "parent"), [900]);
    assert_eq!(
        (number(f, "unreaped"), number(f, "exits"), number(f, "sigchld_coalesced")),
        (Some(199.0), Some(200.0), Some(199.0))
    );
    assert_eq!(f.evidence["cause"], "one-wait-per-signal");
    assert_eq!(f.evidence["pids"].as_array().map(Vec::len), Some(199));
    assert_eq!(f.severity, Severity::Warning);
}

#[test]
fn causes() {
    type Fill = fn(&mut Stream, &mut ProcessRow);
    let cases: &[(&str, Fill)] = &[
        ("never-waits", |_, _| {}),
        ("init-does-not-reap", |_, p| (p.ns_pid, p.pid_ns) = (Some(1), Some(77))),
        ("parent-blocked", |_, p| p.state = 'T'),
        ("parent-blocked", |s, _| {
            s.blocked(2_500, &[(PARENT, crate::fixture::pipe(8), 1_000, None)]);
        }),
        ("sigchld-blocked", |_, p| p.sigchld_blocked = Some(true)),
        ("waits-for-others", |s, _| {
            s.children(2_000, PARENT, |c| (c.waits_one, c.last_pid) = (1, 5_000));
        }),
        ("waits-for-others", |_, p| p.syscall = Some(61)),
        ("unknown", |s, _| {
            s.children(2_000, PARENT, |c| (c.waits_any, c.reaped_any) = (50, 1));
        }),
    ];
    for (cause, fill) in cases {
        let mut s = Stream::new();
        burst(&mut s, 20, 100, 0, 0);
        let mut parent = PARENT.row('S');
        fill(&mut s, &mut parent);
        let mut rows = zombies(0..20);
        rows.push(parent);
        s.closing(3_000, rows);
        let found = s.of("zombie-leak", 3_000);
        assert_eq!(one(&found).evidence["cause"], *cause, "{found:#?}");
    }
}

#[test]
fn causes_of_zombies_from_before() {
    type Fill = fn(&mut ProcessRow);
    let cases: &[(&str, Fill)] = &[
        ("never-waits", |p| p.sigchld_caught = Some(false)),
        // The handler's actions are unknown, except that it did not reap them all.
        ("unknown", |p| p.sigchld_caught = Some(true)),
        ("sigchld-blocked", |p| (p.sigchld_caught, p.sigchld_blocked) = (Some(true), Some(true))),
        ("waits-for-others", |p| p.syscall = Some(61)),
        ("parent-blocked", |p| p.syscall = Some(1)),
        ("never-waits", |p| p.syscall = Some(0)),
        ("parent-blocked", |p| p.state = 'T'),
        ("init-does-not-reap", |p| (p.ns_pid, p.pid_ns) = (Some(1), Some(77))),
    ];
    for (number, (cause, fill)) in cases.iter().enumerate() {
        let mut parent = PARENT.row('S');
        fill(&mut parent);
        let mut rows = zombies(0..20);
        rows.push(parent);
        let mut s = Stream::new();
        s.baseline(10, rows.clone()).closing(2_000, rows);
        let found = s.of("zombie-leak", 2_000);
        assert_eq!(one(&found).evidence["cause"], *cause, "case {number}: {found:#?}");
    }
}

#[test]
fn healthy_parents() {
    type Fill = fn(&mut Stream);
    let cases: &[(&str, bool, u64, Fill)] = &[
        ("all reaped, most signals coalesced", false, 5_000, |s| {
            burst(s, 200, 100, 200, 110);
            s.children(2_000, PARENT, |c| (c.exits, c.sigchld_coalesced) = (200, 199));
        }),
        ("just ended", false, 600, |s| burst(s, 200, 100, 0, 0)),
        ("not reaped for a second", true, 1_200, |s| burst(s, 200, 100, 0, 0)),
        ("one single child for a while", false, 4_000, |s| burst(s, 1, 100, 0, 0)),
        ("one single child for long", true, 6_000, |s| burst(s, 1, 100, 0, 0)),
        ("a parent that reaps every ten seconds", false, 24_000, |s| {
            burst(s, 50, 100, 50, 10_000);
            for i in 50..100 {
                s.exit(12_000, kid(i), PARENT);
            }
        }),
        ("a parent that reaped every ten seconds, once", true, 40_000, |s| {
            burst(s, 50, 100, 50, 10_000);
            for i in 50..100 {
                s.exit(12_000, kid(i), PARENT);
            }
        }),
        ("late reaping that leaves most behind", true, 20_000, |s| burst(s, 200, 100, 3, 18_000)),
        ("two finished while it waits for a third", false, 3_000, |s| {
            burst(s, 2, 100, 0, 0);
            s.children(2_000, PARENT, |c| c.waits_one = 1);
        }),
        ("a dozen finished while it waits for the first of them", false, 4_000, |s| {
            burst(s, 12, 100, 0, 0);
            s.closing(4_000, zombies(0..12).into_iter().chain([waiting()]).collect());
        }),
        ("a dozen left behind by a parent that waits for something else", true, 6_000, |s| {
            burst(s, 12, 100, 0, 0);
            s.closing(6_000, zombies(0..12).into_iter().chain([waiting()]).collect());
        }),
        ("the parent exited too", false, 5_000, |s| {
            burst(s, 20, 100, 0, 0);
            s.gone(2_000, PARENT);
        }),
        ("the closing table has none", false, 5_000, |s| {
            burst(s, 20, 100, 0, 0);
            s.closing(4_000, vec![PARENT.row('S')]);
        }),
        ("the tracer's own", false, 5_000, |s| {
            for i in 0..20 {
                s.exit(100, kid(i), P(9999, "ipctrace"));
            }
        }),
    ];
    for (what, leak, at, fill) in cases {
        let mut s = Stream::new();
        fill(&mut s);
        let found = s.findings(*at);
        assert_eq!(!found.is_empty(), *leak, "{what}: {found:#?}");
    }
}

#[test]
fn zombies_of_a_dead_parent_belong_to_their_new_parent() {
    let mut s = Stream::new();
    let init = P(901, "sleep");
    burst(&mut s, 12, 500, 0, 0);
    s.gone(600, PARENT);
    let mut rows: Vec<ProcessRow> = (0..12).map(|i| kid(i).child_of(init, 'Z')).collect();
    rows.push(ProcessRow { ns_pid: Some(1), ..init.row('S') });
    s.closing(3_000, rows);
    let found = s.findings(3_000);
    assert_eq!(role(one(&found), "parent"), [901]);
    assert_eq!(one(&found).evidence["cause"], "init-does-not-reap");
}

#[test]
fn zombies_from_before() {
    let mut s = Stream::new();
    let mut rows = zombies(0..30);
    rows.push(PARENT.row('S'));
    s.baseline(10, rows.clone()).closing(2_000, rows);
    let found = s.findings(2_000);
    let f = one(&found);
    assert_eq!((f.origin, number(f, "unreaped")), (Origin::Baseline, Some(30.0)));
    assert!(f.evidence["exits"].is_null(), "not collected is not zero");
    // A process whose main thread exited first shows as Z but still runs.
    let mut s = Stream::new();
    s.baseline(10, vec![kid(0).child_of(PARENT, 'Z'), PARENT.row('S')]);
    s.sem_create(500, kid(0), 1, 0);
    assert!(s.of("zombie-leak", 20_000).is_empty());
}

/// A shell waits for each of its children, then executes a program that does not: the shell's waits prove nothing.
#[test]
fn waits_before_an_exec_are_another_programs() {
    let exec = Body::Exec(Exec { old_tid: PARENT.0, _pad: 0 });
    for (recorded_ms, cause) in [(400, "never-waits"), (2_000, "one-wait-per-signal")] {
        let mut s = Stream::new();
        s.children(recorded_ms, PARENT, |c| {
            (c.delivered, c.waits_any, c.reaped_any) = (20, 20, 20);
            (c.exits, c.sigchld_coalesced) = (60, 20);
        });
        s.event(500, PARENT, exec);
        for i in 0..40 {
            s.fork(600, PARENT, kid(i)).exit(700, kid(i), PARENT);
        }
        s.closing(3_000, zombies(0..40).into_iter().chain([PARENT.row('S')]).collect());
        let found = s.of("zombie-leak", 3_000);
        assert_eq!(one(&found).evidence["cause"], cause, "recorded at {recorded_ms} ms: {found:#?}");
    }
}

#[test]
fn without_coalesced_signals_the_cause_is_not_one_wait_per_signal() {
    let mut s = Stream::new();
    burst(&mut s, 40, 100, 0, 0);
    s.children(2_000, PARENT, |c| (c.delivered, c.waits_any, c.reaped_any) = (10, 10, 10));
    s.closing(3_000, zombies(0..40).into_iter().chain([PARENT.row('S')]).collect());
    let found = s.of("zombie-leak", 3_000);
    assert_eq!(one(&found).evidence["cause"], "unknown", "{found:#?}");
}
