//! Matching of findings across runs, and what counts as worse.

use serde_json::{Value, json};

use super::model::{Change, Diff, Kind, Tier, Verdict};
use super::*;
use crate::escape::unsafe_to_show;
use crate::model::{LossRow, NO_END, tests as made};
use tracer_analysis::finding::{FindingStack, Origin, Severity, StackFrame};

/// A report of 60 s from 10:33:38 on.
fn report(findings: Vec<Finding>) -> Report {
    let mut report = made::report(findings, &[]);
    report.window.duration_s = 60.0;
    report.plan.clear();
    report.not_collected.clear();
    for info in tracer_common::site::SITES {
        report.plan.push(tracer_record::PlanRow {
            site: info.name.into(),
            mechanism: "sem".into(),
            backend: "fentry".into(),
            ..Default::default()
        });
    }
    report
}

fn finding(code: &str, evidence: Value) -> Finding {
    let mut f = made::finding(code, Severity::Warning);
    f.evidence = evidence.as_object().cloned().unwrap_or_default();
    f.object = None;
    f.stacks.clear();
    f
}

fn stalls(n: u64, total_ms: f64, max_ms: f64) -> Finding {
    finding("sem-stall", json!({"stalls": n, "total_ms": total_ms, "max_ms": max_ms, "p50_ms": max_ms, "ongoing": 0}))
}

/// With a stack that leads to this line.
fn at(mut f: Finding, function: &str, line: u32) -> Finding {
    let frame = StackFrame {
        symbol: Some(function.into()),
        file: Some("/src/m.c".into()),
        line: Some(line),
        module: Some("/opt/worker".into()),
        ..StackFrame::default()
    };
    f.stacks.push(FindingStack {
        role: "creator".into(),
        pid: 1,
        kind: "user".into(),
        site: Some(format!("/src/m.c:{line} in {function}")),
        exact: true,
        truncated: false,
        frames: vec![frame],
    });
    f
}

fn named(mut f: Finding, name: &str) -> Finding {
    f.object = Some(tracer_analysis::finding::Object {
        kind: "mq".into(),
        id: "7".into(),
        name: Some(name.into()),
        ..Default::default()
    });
    f
}

fn by(mut f: Finding, comm: &str, pid: u32) -> Finding {
    for p in &mut f.processes {
        (p.comm, p.pid, p.start) = (Some(comm.into()), pid, None);
    }
    f
}

fn diff(a: &Report, b: &Report) -> Diff {
    compare(Source { file: "a", report: a }, Source { file: "b", report: b })
}

/// The outcome of one finding that both runs have.
fn both(a: (Finding, f64), b: (Finding, f64)) -> Change {
    let (mut x, mut y) = (report(vec![a.0]), report(vec![b.0]));
    (x.window.duration_s, y.window.duration_s) = (a.1, b.1);
    let mut changes = diff(&x, &y).changes;
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.remove(0)
}

fn kinds(diff: &Diff) -> Vec<(Kind, Option<Tier>)> {
    diff.changes.iter().map(|c| (c.change, c.matched_by)).collect()
}

#[test]
fn worse_is_more_in_total_and_more_per_minute() {
    for (a, b, want, why) in [
        ((10, 60.0), (10, 60.0), Kind::Same, "as many"),
        ((10, 60.0), (20, 120.0), Kind::Same, "twice as many in twice the time"),
        ((10, 60.0), (10, 120.0), Kind::Same, "as many in twice the time"),
        ((20, 120.0), (10, 60.0), Kind::Same, "half as many in half the time"),
        ((100, 60.0), (130, 60.0), Kind::Same, "a third more"),
        ((3, 60.0), (6, 60.0), Kind::Same, "chance"),
        ((10, 60.0), (60, 60.0), Kind::Worse, "six times as many"),
        ((10, 60.0), (60, 120.0), Kind::Worse, "three times as many per minute"),
        ((60, 60.0), (10, 60.0), Kind::Better, "a sixth"),
        ((60, 120.0), (10, 60.0), Kind::Better, "a third per minute"),
        ((60, 0.0), (10, f64::NAN), Kind::Better, "times that make no sense"),
    ] {
        let leak = |n: u64| finding("fd-leak", json!({"outstanding": n}));
        let got = both((leak(a.0), a.1), (leak(b.0), b.1));
        assert_eq!(got.change, want, "{why}: {got:?}");
    }
}

#[test]
fn waits_by_their_share_of_the_time_and_by_the_longest() {
    for (a, b, want, why) in [
        ((stalls(5, 5_000.0, 1_000.0), 60.0), (stalls(10, 10_000.0, 1_000.0), 120.0), Kind::Same, "twice as long"),
        ((stalls(5, 5_000.0, 1_000.0), 60.0), (stalls(5, 9_000.0, 1_900.0), 60.0), Kind::Worse, "nearly twice as much"),
        ((stalls(5, 500.0, 100.0), 60.0), (stalls(5, 750.0, 150.0), 60.0), Kind::Same, "too little"),
        ((stalls(5, 5_000.0, 1_000.0), 60.0), (stalls(4, 5_000.0, 3_000.0), 60.0), Kind::Worse, "a longer one"),
        ((stalls(50, 5_000.0, 1_000.0), 60.0), (stalls(5, 500.0, 300.0), 60.0), Kind::Better, "fewer and shorter"),
    ] {
        let got = both(a, b);
        assert_eq!(got.change, want, "{why}: {got:?}");
    }
    // A hang that lasts as long as the run is the same hang; its severity grows with time.
    let hang = |ms: f64| {
        let mut f = stalls(1, ms, ms);
        f.evidence.insert("ongoing".into(), json!(1));
        f
    };
    let mut long = hang(20_000.0);
    long.severity = Severity::Critical;
    let got = both((hang(5_000.0), 5.0), (long.clone(), 20.0));
    assert_eq!(got.change, Kind::Same, "{got:?}");
    assert_eq!(both((hang(20_000.0), 20.0), (long, 20.0)).change, Kind::Worse, "more severe in the same time");
}

#[test]
fn severity_limits_and_numbers_in_strings_count() {
    let exhausted = |used: u64| {
        let mut f = finding("sem-exhausted", json!({"failed": "0"}));
        f.limit = Some(tracer_analysis::finding::Limit {
            name: "SEMMNI".into(),
            used: Some(used),
            max: Some(100),
            eta_s: None,
        });
        f
    };
    assert_eq!(both((exhausted(80), 60.0), (exhausted(95), 60.0)).change, Kind::Worse);
    assert_eq!(both((exhausted(80), 60.0), (exhausted(85), 60.0)).change, Kind::Same);
    let shrunk = |bytes: u64| finding("pipe-shrunk", json!({"instances": 3, "capacity_bytes": bytes}));
    assert_eq!(both((shrunk(65_536), 60.0), (shrunk(4_096), 60.0)).change, Kind::Worse, "less is bad");
    let text = |n: &str| finding("fd-leak", json!({"outstanding": n}));
    assert_eq!(both((text("10"), 60.0), (text("18446744073709551614"), 60.0)).change, Kind::Worse);
    for odd in ["", "x", "NaN", "inf", "-5"] {
        assert_eq!(both((text("10"), 60.0), (text(odd), 60.0)).measures, [], "{odd}");
    }
}

#[test]
fn one_finding_across_runs() {
    let leak = |comm: &str, pid: u32| by(finding("sem-leak", json!({"instances": 20})), comm, pid);
    let run = |f: Finding, g: Finding| kinds(&diff(&report(vec![f]), &report(vec![g])));
    let gone_and_new = [(Kind::New, None), (Kind::Gone, None)];
    let same = |tier: Tier| [(Kind::Same, Some(tier))];
    assert_eq!(run(at(leak("app", 1), "f", 7), at(leak("app", 9), "f", 7)), same(Tier::Line), "other pids");
    assert_eq!(run(at(leak("app-1", 1), "f", 7), at(leak("app-22", 9), "f", 7)), same(Tier::Line), "numbered workers");
    assert_eq!(run(at(leak("app", 1), "f", 7), at(leak("app", 9), "f", 9)), same(Tier::Function), "the line moved");
    assert_eq!(run(at(leak("app", 1), "f", 7), leak("app", 9)), same(Tier::Program), "no symbols");
    assert_eq!(run(at(leak("app", 1), "f", 7), at(leak("app", 9), "g", 7)), gone_and_new, "another function");
    assert_eq!(run(leak("app", 1), leak("web", 1)), gone_and_new, "another program");
    let stall = |name: &str| named(stalls(20, 9e3, 1e3), name);
    assert_eq!(run(stall("/jobs"), stall("/jobs")), same(Tier::Object));
    assert_eq!(
        run(at(stall("/jobs"), "f", 7), at(stall("/jobs"), "g", 1)),
        same(Tier::Object),
        "called from elsewhere"
    );
    assert_eq!(run(at(stall("/jobs"), "f", 7), at(stall("/mail"), "f", 7)), gone_and_new, "another queue");
    assert_eq!(run(stall("/jobs-123"), stall("/jobs-9")), same(Tier::Program), "a name with a pid");
    assert_eq!(run(named(leak("app", 1), "/psm_ab"), named(leak("app", 1), "/psm_xy")), same(Tier::Program), "made up");
    // The new one may be the one that is gone.
    let moved = diff(&report(vec![at(leak("app", 1), "f", 7)]), &report(vec![at(leak("app", 9), "g", 7)]));
    assert!(moved.changes[0].note.as_deref().is_some_and(|n| n.contains("m.c:7 in f")), "{:?}", moved.changes[0].note);
}

#[test]
fn the_most_similar_match_and_nothing_matches_twice() {
    let leak = |n: u64| finding("fd-leak", json!({"outstanding": n}));
    let a = report(vec![leak(1_000), leak(10), leak(100)]);
    let b = report(vec![leak(11), leak(990)]);
    let got = diff(&a, &b);
    let pairs: Vec<(Option<usize>, Option<usize>)> =
        got.changes.iter().map(|c| (c.a.as_ref().map(|a| a.number), c.b.as_ref().map(|b| b.number))).collect();
    assert_eq!(pairs, [(Some(3), None), (Some(2), Some(1)), (Some(1), Some(2))]);
    assert_eq!((got.verdict, got.counts.gone, got.counts.same), (Verdict::Better, 1, 2));
    // Too many pairs to compare.
    let many = report(vec![leak(10); 3_000]);
    let got = diff(&many, &many);
    assert_eq!((got.counts.same, got.warnings.len()), (3_000, 1), "{:?}", got.warnings);
}

#[test]
fn what_could_not_be_seen_is_unknown() {
    let a = report(vec![stalls(10, 5_000.0, 500.0)]);
    type Spoil = fn(&mut Report);
    let cases: [(&str, Spoil); 9] = [
        ("watched only pipe", |r| r.target.mechanisms = vec!["pipe".into()]),
        ("did not watch sem_op", |r| r.plan.retain(|p| p.site != "sem_op")),
        ("did not watch sem_op", |r| r.plan.iter_mut().for_each(|p| p.backend = "none".into())),
        ("lost records", |r| r.loss.sites = vec![LossRow { site: "sem_op".into(), events: 3 }]),
        ("lost records", |r| r.loss.sites = vec![LossRow { site: "?".into(), events: 3 }]),
        ("watched pid 7", |r| r.target.words = "7".into()),
        ("watched /a.slice", |r| r.target.words = "/a.slice".into()),
        ("reports only waits of at least 1 s", |r| r.target.min_stall_ms = 1_000.0),
        ("watched for 2 s, and ", |r| r.window.duration_s = 2.0),
    ];
    for (want, spoil) in cases {
        let mut b = report(vec![]);
        spoil(&mut b);
        for (x, y, name) in [(&a, &b, "B "), (&b, &a, "A ")] {
            let got = diff(x, y);
            assert_eq!((got.verdict, got.counts.unknown), (Verdict::Unknown, 1), "{want}: {:?}", got.changes);
            let reasons = &got.changes[0].reasons;
            assert!(reasons.iter().any(|r| r.starts_with(name) && r.contains(want)), "{want}: {reasons:?}");
        }
    }
    assert_eq!(diff(&a, &report(vec![])).verdict, Verdict::Better);
    let mut pids = (a.clone(), report(vec![]));
    (pids.0.target.words, pids.1.target.words) = ("7".into(), "8,9".into());
    assert_eq!(diff(&pids.0, &pids.1).verdict, Verdict::Better, "pids differ always");
    pids.1.target.follow = false;
    assert_eq!(diff(&pids.0, &pids.1).verdict, Verdict::Unknown, "children");
    // Only leaks need the tables read at the end.
    let mut cut = report(vec![]);
    cut.not_collected.push(format!("{NO_END}: it is still written"));
    assert_eq!(diff(&a, &cut).verdict, Verdict::Better);
    let leak = report(vec![finding("fd-leak", json!({"outstanding": 30}))]);
    assert_eq!(diff(&leak, &cut).verdict, Verdict::Unknown);
    // One hang in a minute: a few seconds without one prove little.
    let mut hang = stalls(1, 50_000.0, 50_000.0);
    hang.evidence.insert("ongoing".into(), json!(1));
    let mut few = report(vec![]);
    few.window.duration_s = 2.0;
    assert_eq!(diff(&report(vec![hang]), &few).verdict, Verdict::Unknown);
    // A finding that took a minute to appear.
    let mut late = stalls(1, 500.0, 500.0);
    late.first_seen = Some("2014-03-30T10:34:33.000Z".into());
    let mut short = report(vec![]);
    short.window.duration_s = 30.0;
    assert_eq!(diff(&report(vec![late.clone()]), &short).verdict, Verdict::Unknown);
    short.window.duration_s = 55.0;
    assert_eq!(diff(&report(vec![late]), &short).verdict, Verdict::Better);
}

#[test]
fn less_in_a_run_with_losses_is_not_better() {
    let (many, few) = (stalls(100, 50_000.0, 500.0), stalls(10, 5_000.0, 500.0));
    let mut lossy = report(vec![few]);
    let full = report(vec![many]);
    assert_eq!(diff(&full, &lossy).verdict, Verdict::Better);
    lossy.loss = crate::model::Loss { events: 9, sites: vec![LossRow { site: "sem_op".into(), events: 9 }] };
    assert_eq!(diff(&full, &lossy).verdict, Verdict::Unknown);
    assert_eq!(diff(&lossy, &full).verdict, Verdict::Unknown, "A may have had as many");
    lossy.loss.sites[0].site = "pipe_write".into();
    assert_eq!(diff(&full, &lossy).verdict, Verdict::Better, "it does not rest on those");
    lossy.target.min_stall_ms = 400.0;
    assert_eq!(diff(&full, &lossy).verdict, Verdict::Unknown, "short ones are not reported");
}

#[test]
fn what_the_first_run_left_behind_is_noted() {
    let a = finding("sem-leak", json!({"instances": 20}));
    let mut b = a.clone();
    b.origin = Origin::Baseline;
    let got = both((a, 60.0), (b, 60.0));
    assert_eq!(got.change, Kind::Same);
    assert!(got.note.is_some_and(|n| n.contains("existed before")));
}

#[test]
fn differences_between_runs_are_reported() {
    let a = report(vec![]);
    assert_eq!(diff(&a, &a).warnings, [""; 0]);
    let mut b = a.clone();
    b.host.name = "other".into();
    b.kernel.release = "5.10".into();
    b.tool.version = "9".into();
    b.target.words = "/x".into();
    b.target.min_stall_ms = 7.0;
    b.target.mechanisms = vec!["sem".into()];
    b.plan.iter_mut().for_each(|p| p.backend = "tracepoint".into());
    b.window.duration_s = 600.0;
    b.window.start = "2014-03-30T10:00:00.000Z".into();
    b.loss = crate::model::Loss { events: 1, sites: vec![LossRow { site: "sem_op".into(), events: 1 }] };
    b.not_collected.push("limits".into());
    let got = diff(&a, &b).warnings.join("\n");
    for want in [
        "hosts differ: A host, B other",
        "kernels differ",
        "versions of ipctrace differ",
        "targets differ: A all processes, B /x and children",
        "min-stall thresholds differ: A 100 ms, B 7 ms",
        "mechanisms watched differ: A all, B sem",
        "by fentry and tracepoint, and ",
        "A watched only 60 s, B 10 min",
        "B was recorded before A",
        "B lost 1 record (1 sem_op)",
        "only B did not collect: limits",
    ] {
        assert!(got.contains(want), "{want} is not in\n{got}");
    }
}

#[test]
fn hostile_names_are_inert() {
    let evil = "x\u{1b}]0;pwn\x07\u{9b}2J\u{202e}\ny";
    let mut f = at(named(stalls(5, 5e3, 1e3), evil), evil, 1);
    f.title = evil.into();
    f.stacks[0].site = Some(evil.into());
    f.remedy[0].what = evil.into();
    f = by(f, evil, 1);
    let mut unknown = f.clone();
    unknown.code = evil.into();
    let mut a = report(vec![f, unknown]);
    a.not_collected.push(evil.into());
    a.host.name = evil.into();
    a.target.words = evil.into();
    a.target.mechanisms = vec![evil.into()];
    a.window.start = evil.into();
    a.tool.version = evil.into();
    a.plan.iter_mut().for_each(|p| p.reason = evil.into());
    a.loss = crate::model::Loss { events: 1, sites: vec![LossRow { site: evil.into(), events: 1 }] };
    let mut b = report(vec![]);
    b.plan.clear();
    for (x, y) in [(&a, &b), (&b, &a), (&a, &a)] {
        let got = compare(Source { file: evil, report: x }, Source { file: evil, report: y });
        for text in [text::render(&got, 100, false), json(&got).expect("JSON")] {
            assert!(!text.chars().any(|c| c != '\n' && unsafe_to_show(c)), "{text}");
        }
    }
}

#[test]
fn the_first_line_is_the_verdict() {
    let first = |a: Vec<Finding>, b: Vec<Finding>| {
        let got = diff(&report(a), &report(b));
        text::render(&got, 100, false).lines().next().unwrap_or_default().to_owned()
    };
    let leak = |n: u64| finding("fd-leak", json!({"outstanding": n}));
    assert_eq!(first(vec![], vec![]), "NO CHANGE: no findings in A, none in B");
    assert_eq!(first(vec![leak(9)], vec![leak(9)]), "NO CHANGE: 1 the same");
    assert_eq!(first(vec![leak(9)], vec![]), "BETTER: 1 gone (fd-leak), nothing new or worse");
    assert_eq!(
        first(vec![leak(9)], vec![leak(90), stalls(9, 9e3, 1e3)]),
        "WORSE: 1 new (sem-stall), 1 worse (fd-leak)"
    );
}

#[test]
fn a_whole_diff() {
    let a = report(vec![at(finding("fd-leak", json!({"outstanding": 10})), "take", 7)]);
    let b = report(vec![at(finding("fd-leak", json!({"outstanding": 60})), "take", 9)]);
    let want = "\
WORSE: 1 worse (fd-leak)

WORSE    WARNING  fd-leak  worker creates semaphore sets and never removes them
   worse      outstanding 10 -> 60, 10 -> 60 per minute
   see        finding 1 of A, 1 of B
   at         /src/m.c:9 in take; in A /src/m.c:7 in take
   matched    program and function; the line moved
   fix        remove the sets that nobody uses

A         a: 1 finding
          all processes for 60 s from 2014-03-30T10:33:38.000Z: all mechanisms; stalls of at least
          100 ms
          host, Linux 6.18.0 x86_64, ipctrace 0.1.0; nothing lost
B         b: 1 finding
          all processes for 60 s from 2014-03-30T10:33:38.000Z: all mechanisms; stalls of at least
          100 ms
          host, Linux 6.18.0 x86_64, ipctrace 0.1.0; nothing lost
";
    assert_eq!(text::render(&diff(&a, &b), 100, false), want);
}
