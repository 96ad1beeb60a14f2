//! Tables of `pipe-stall`: records in, findings out.

use crate::finding::{Origin, Severity};
use crate::fixture::{P, START, Stream, number, pipe, pipe_state, role};
use tracer_record::Record;

const YES: P = P(300, "yes");
const HEAD: P = P(301, "head");
const PV: P = P(302, "pv");

#[test]
fn a_stopped_reader_is_named_with_every_stall() {
    let mut s = Stream::new();
    for i in 0..10 {
        s.stall(1_000 + i * 700, YES, pipe(8), 500, Some(PV));
    }
    let found = s.of("pipe-stall", 9_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((role(f, "writer"), role(f, "reader")), (vec![300], vec![302]));
    assert_eq!(number(f, "stalls"), Some(10.0));
    assert_eq!(number(f, "total_ms"), Some(5_000.0));
    assert_eq!((number(f, "max_ms"), number(f, "ongoing")), (Some(500.0), Some(0.0)));
    assert_eq!((number(f, "capacity_bytes"), number(f, "slots_used")), (Some(65_536.0), Some(16.0)));
    // One capacity per 200 ms between stalls, 500 ms to bridge: 160 KiB, so 256 KiB.
    assert_eq!(number(f, "suggested_capacity_bytes"), Some(262_144.0));
    assert_eq!(f.object.as_ref().map(|o| (o.kind.as_str(), o.id.as_str())), Some(("pipe", "8")));
    assert_eq!(f.severity, Severity::Warning);
}

#[test]
fn an_endless_stall_names_the_holder_that_waits_for_its_child() {
    let mut s = Stream::new();
    let parent = P(310, "python3");
    s.blocked(2_000, &[(YES, pipe(8), 1_000, None)])
        .holders(2_001, pipe(8), &[(parent, true, false), (YES, false, true)])
        .process(2_002, tracer_record::ProcessRow { syscall: Some(61), ..parent.row('S') })
        .blocked(5_000, &[(YES, pipe(8), 1_000, None)]);
    let found = s.of("pipe-stall", 5_100);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((role(f, "writer"), role(f, "reader")), (vec![300], vec![310]));
    assert_eq!((number(f, "ongoing"), number(f, "max_ms")), (Some(1.0), Some(4_100.0)));
    assert!(f.title.contains("waits in wait4"), "{}", f.title);
    assert_eq!(s.of("pipe-stall", 12_000)[0].severity, Severity::Critical);
}

#[test]
fn a_thread_found_asleep_is_of_the_baseline_and_its_time_an_estimate() {
    let mut s = Stream::new();
    s.found_asleep(2_000, &[(YES, pipe(8), 0, None)]);
    let [f] = &s.of("pipe-stall", 3_000)[..] else { unreachable!() };
    assert_eq!((f.origin, number(f, "began_before_start")), (Origin::Baseline, Some(1.0)));
    assert!(f.title.contains("blocked for about 3 s in write()"), "{}", f.title);
    // With one that was seen from its beginning, it is not only that.
    s.stall(2_900, PV, pipe(8), 500, None);
    let [f] = &s.of("pipe-stall", 3_000)[..] else { unreachable!() };
    assert_eq!(
        (f.origin, number(f, "began_before_start"), number(f, "stalls")),
        (Origin::Observed, Some(1.0), Some(2.0))
    );
}

#[test]
fn a_stall_that_ended_is_not_counted_twice() {
    let mut s = Stream::new();
    s.blocked(2_000, &[(YES, pipe(8), 1_000, None)]).stall(2_500, YES, pipe(8), 1_500, Some(PV));
    let found = s.of("pipe-stall", 3_000);
    assert_eq!((number(&found[0], "stalls"), number(&found[0], "max_ms")), (Some(1.0), Some(1_500.0)));
}

#[test]
fn the_root_of_a_cascade_is_named_once() {
    let mut s = Stream::new();
    // yes -> pipe 8 -> head -> pipe 9 -> pv, which is stopped.
    for i in 0..3u64 {
        let at = 2_000 + i * 1_500;
        s.stall(at, HEAD, pipe(9), 1_000, Some(PV)).stall(at + 1, YES, pipe(8), 980, Some(HEAD));
    }
    let found = s.of("pipe-stall", 9_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!(f.object.as_ref().map(|o| o.id.as_str()), Some("9"));
    assert_eq!(number(f, "stalls"), Some(3.0));
    assert!(f.chain[0].contains("pipe:[8]"), "{:?}", f.chain);
    assert_eq!(f.evidence["ids"], serde_json::json!(["9", "8"]));
}

#[test]
fn stalls_of_its_own_stay_its_own() {
    let mut s = Stream::new();
    s.stall(2_000, HEAD, pipe(9), 1_000, Some(PV)).stall(2_001, YES, pipe(8), 990, Some(HEAD));
    // And now head itself is slow.
    s.stall(6_000, YES, pipe(8), 2_000, Some(HEAD));
    assert_eq!(s.of("pipe-stall", 9_000).len(), 2);
}

#[test]
fn a_ring_of_stalls_keeps_all_its_members() {
    let mut s = Stream::new();
    s.blocked(3_000, &[(YES, pipe(8), 1_000, Some((HEAD, 900))), (HEAD, pipe(9), 1_000, Some((YES, 900)))]);
    assert_eq!(s.of("pipe-stall", 3_000).len(), 2);
}

#[test]
fn short_waits_and_waits_of_the_tracer_are_silent() {
    let mut s = Stream::new();
    s.blocked(1_000, &[(YES, pipe(8), 950, None)]);
    assert!(s.findings(1_010).is_empty(), "below min-stall");
    let mut s = Stream::new();
    s.stall(2_000, P(9999, "ipctrace"), pipe(8), 500, Some(PV));
    assert!(s.findings(3_000).is_empty(), "the tracer itself");
}

#[test]
fn a_hitch_of_programs_that_are_gone() {
    for (what, stalls, ms, gone, found) in [
        ("a short one", 1, 150, true, false),
        ("a short one of programs that live", 1, 150, false, true),
        ("half a second", 1, 500, true, true),
        ("many short ones", 20, 150, true, true),
    ] {
        let mut s = Stream::new();
        // It began a second before it waited.
        let writer = P(50_100, "initdb");
        for i in 0..stalls {
            s.stall(2_000 + i * 200, writer, pipe(8), ms, Some(PV));
        }
        if gone {
            s.gone(6_000, writer).gone(6_000, PV);
        }
        assert_eq!(!s.findings(7_000).is_empty(), found, "{what}");
    }
    // A long life makes half a second small.
    let mut s = Stream::new();
    s.stall(2_000, YES, pipe(8), 500, Some(PV)).gone(6_000, YES).gone(6_000, PV);
    assert!(s.findings(7_000).is_empty());
}

#[test]
fn only_the_target_is_reported() {
    for (target, follow, many) in [(vec![], true, 1), (vec![300], true, 1), (vec![302], true, 1), (vec![400], true, 0)]
    {
        let mut s = Stream::new();
        s.session.target_pids = target.clone();
        s.session.follow = follow;
        s.stall(2_000, YES, pipe(8), 500, Some(PV));
        assert_eq!(s.findings(3_000).len(), many, "{target:?}");
    }
    // A child of the target is followed, unless that is not wanted.
    for (follow, many) in [(true, 1), (false, 0)] {
        let mut s = Stream::new();
        s.session.target_pids = vec![200];
        s.session.follow = follow;
        s.fork(1_000, P(200, "sh"), YES).stall(2_000, YES, pipe(8), 500, None);
        assert_eq!(s.findings(3_000).len(), many, "follow {follow}");
    }
}

#[test]
fn a_dead_writer_waits_no_longer() {
    let mut s = Stream::new();
    s.blocked(2_000, &[(YES, pipe(8), 1_000, None)]).gone(2_500, YES);
    assert!(s.findings(3_000).is_empty());
    assert_eq!(START % 10, 0);
}

#[test]
fn a_reader_that_computes_is_slow_and_not_stuck() {
    // (reader's share of the CPU in percent, both exited) -> severity, if reported at all
    let cases = [
        (95, false, Some(Severity::Info)),
        (95, true, None),
        (40, false, Some(Severity::Warning)),
        (0, false, Some(Severity::Warning)),
        (0, true, Some(Severity::Warning)),
    ];
    for (percent, ended, severity) in cases {
        let mut s = Stream::new();
        for i in 0..10 {
            s.stall_while(2_000 + i * 600, YES, pipe(8), 500, PV, 5 * percent);
        }
        if ended {
            s.gone(9_000, YES).gone(9_000, PV);
        }
        let found = s.findings(9_500);
        assert_eq!(found.first().map(|f| f.severity), severity, "{percent} % {ended}: {found:#?}");
        for f in &found {
            assert_eq!(number(f, "reader_running_ms"), Some((50 * percent) as f64));
        }
    }
    // Most waits must have been observed.
    let mut s = Stream::new();
    s.stall(2_000, YES, pipe(8), 500, Some(PV)).stall_while(3_000, YES, pipe(8), 500, PV, 500);
    assert_eq!(s.findings(9_500).first().map(|f| f.severity), Some(Severity::Warning));
}

#[test]
fn where_it_waits_and_waited() {
    for lasts in [true, false] {
        let mut s = Stream::new();
        if lasts {
            s.blocked(2_000, &[(YES, pipe(8), 1_000, None)]);
            let Some(Record::Blocked { threads, .. }) = s.records.last_mut() else { unreachable!() };
            threads.iter_mut().for_each(|t| t.stack = Some(7));
        } else {
            s.stack = 7;
            s.stall(2_000, YES, pipe(8), 500, None);
        }
        s.frames(7, &[("/usr/lib/libc.so.6", 0x7010, 0x10), ("/usr/bin/yes", 0x5520, 0x520)]);
        let found = s.findings(3_000);
        let stacks: Vec<_> = found.iter().flat_map(|f| &f.stacks).collect();
        let shown: Vec<_> = stacks.iter().map(|s| (s.role.as_str(), s.pid, s.site.as_deref())).collect();
        assert_eq!(shown, [("writer", YES.0, Some("/usr/bin/yes+0x520"))], "{lasts}");
    }
}

#[test]
fn who_read_last_is_blamed_and_not_who_only_has_it_open() {
    let parent = P(290, "parent");
    // (it lasts, the reader has ended, it was seen to read, it is stopped) -> the first reader named
    for (what, lasts, ended, read, stopped, blamed) in [
        ("a wait that is over, and the reader too", false, true, true, false, 302),
        ("a wait that is over", false, false, true, false, 302),
        ("nobody was seen to read", false, true, false, false, 290),
        ("a wait that lasts", true, false, true, false, 302),
        ("the reader of a wait that lasts has ended", true, true, true, false, 290),
        ("two that can read, one of them stopped", true, false, false, true, 302),
    ] {
        let mut s = Stream::new();
        let reader = read.then_some(PV);
        if lasts {
            s.blocked(5_000, &[(YES, pipe(8), 1_000, reader.map(|r| (r, 900)))]);
        } else {
            s.stall(5_000, YES, pipe(8), 2_000, reader);
            s.sample(pipe(8), parent, 'S', 3).sample(pipe(8), PV, 'S', 2);
        }
        s.holders(5_001, pipe(8), &[(parent, true, true), (PV, true, false), (YES, false, true)]);
        s.process(5_002, PV.row(if stopped { 'T' } else { 'S' })).process(5_003, parent.row('S'));
        if ended {
            s.gone(5_500, PV);
        }
        let found = s.of("pipe-stall", 6_000);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!(role(f, "reader").first(), Some(&blamed), "{what}: {}", f.title);
        // A process that has exited cannot be inspected.
        let inspects = f.remedy.iter().any(|r| r.command.as_ref().is_some_and(|c| c.contains("cat /proc/302/")));
        assert_eq!(inspects, blamed == 302 && !ended, "{what}: {:#?}", f.remedy);
        // Only samples of the blamed reader are shown.
        if !lasts {
            let times = if blamed == 302 { 2 } else { 3 };
            assert_eq!(f.evidence["reader_was"], serde_json::json!([format!("{times} x asleep")]), "{what}");
        }
    }
}

#[test]
fn a_reader_that_never_read_is_not_too_slow() {
    const EPIPE: i64 = -32;
    // (what ended the wait, the reader that was seen) -> it did not read
    for (what, ret, read, never) in [
        ("it ended without a read", EPIPE, None, true),
        ("something was written, so a process read", 4096, None, false),
        ("it had read before", EPIPE, Some(PV), false),
    ] {
        let mut s = Stream::new();
        s.stall_with(5_000, YES, pipe(8), 2_000, read, pipe_state(), ret);
        s.holders(5_001, pipe(8), &[(PV, true, false), (YES, false, true)]);
        let found = s.of("pipe-stall", 6_000);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!(f.title.ends_with("reader pv (302) did not read"), never, "{what}: {}", f.title);
        // No size of the pipe helps against that.
        assert_eq!(f.remedy.iter().all(|r| !r.what.contains("F_SETPIPE_SZ")), never, "{what}: {:#?}", f.remedy);
    }
}

#[test]
fn a_ring_of_stalls_that_is_over_is_one_finding() {
    // (the process that exited, when; the second pipe has another reader) -> findings and their severity
    for (what, ended, elsewhere, found) in [
        ("one was killed", Some((HEAD, 4_999)), false, vec![Severity::Warning]),
        ("one of them went on", None, false, vec![Severity::Warning]),
        ("no ring: a chain with its root", None, true, vec![Severity::Warning]),
    ] {
        let mut s = Stream::new();
        if let Some((p, at)) = ended {
            s.gone(at, p);
        }
        s.stall(5_000, YES, pipe(8), 3_000, Some(HEAD));
        s.stall(5_001, HEAD, pipe(9), 2_990, Some(if elsewhere { PV } else { YES }));
        let got = s.of("pipe-stall", 9_000);
        assert_eq!(got.iter().map(|f| f.severity).collect::<Vec<_>>(), found, "{what}: {got:#?}");
        let f = &got[0];
        let each_other = f.title.contains("yes (300), head (301) waited for each other for 2.99 s, until ");
        assert_eq!(each_other, !elsewhere, "{what}: {}", f.title);
        assert_eq!(f.title.ends_with("until head (301) exited"), ended.is_some(), "{what}: {}", f.title);
        assert_eq!(f.evidence["ids"].as_array().map(Vec::len), Some(2), "{what}: {:?}", f.evidence);
    }
}
