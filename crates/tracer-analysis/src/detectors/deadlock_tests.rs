//! Tables of `deadlock` and of chains: snapshots of threads in, findings out.

use crate::finding::{Confidence, Severity};
use crate::fixture::{MS, P, START, Stream, number, role};
use crate::waits::chain::explain;
use tracer_common::map::kind;
use tracer_record::{ObjKey, Place, Record, Releaser, ThreadRow, WaitRow, Way};

const A: P = P(300, "a");
const B: P = P(301, "b");
const C: P = P(302, "c");

fn pipe(way: Way, to: &[P]) -> WaitRow {
    WaitRow {
        obj: ObjKey { kind: kind::PIPE, ns: 0, id: 9 },
        way,
        fd: 1,
        name: "pipe:[9]".to_owned(),
        releasers: to.iter().map(|p| Releaser { tgid: p.0, start_ns: p.start_ns() }).collect(),
        complete: true,
        ..WaitRow::default()
    }
}

/// A semaphore that this process operated on last.
fn semaphore(id: u64, last: P) -> WaitRow {
    let obj = ObjKey { kind: kind::SEM, ns: 1, id };
    WaitRow { obj, way: Way::Lock, fd: -1, name: String::new(), complete: false, ..pipe(Way::Lock, &[last]) }
}

fn asleep(p: P, waits: Vec<WaitRow>) -> ThreadRow {
    ThreadRow {
        tgid: p.0,
        tid: p.0,
        start_ns: p.start_ns(),
        comm: p.1.to_owned(),
        state: 'S',
        syscall: Some(1),
        switches: 7,
        waits,
        ..ThreadRow::default()
    }
}

/// Two snapshots, of which the second may show other numbers of switches.
fn snapshots(rows: Vec<ThreadRow>, switched: bool) -> Stream {
    let mut s = Stream::new();
    s.record(Record::Threads { ts_ns: START + 100 * MS, rows: rows.clone() });
    let again = rows.into_iter().map(|row| ThreadRow { switches: row.switches + u64::from(switched), ..row }).collect();
    s.record(Record::Threads { ts_ns: START + 200 * MS, rows: again });
    s
}

#[test]
fn a_ring_is_one_finding_with_every_edge() {
    let rows = vec![
        asleep(A, vec![pipe(Way::Give, &[B])]),
        asleep(B, vec![semaphore(3, C)]),
        asleep(C, vec![pipe(Way::Take, &[A])]),
    ];
    let s = snapshots(rows, false);
    let found = s.findings(300);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((f.code.as_str(), f.severity, f.confidence), ("deadlock", Severity::Critical, Confidence::Likely));
    assert_eq!((role(f, "blocked"), number(f, "threads")), (vec![300, 301, 302], Some(3.0)));
    assert_eq!(f.chain.len(), 4, "{:#?}", f.chain);
    assert!(
        f.chain[1].contains("b (301) holds the read end and is blocked in") && f.chain[3].ends_with("cycle complete")
    );
    assert!(explain(&s.model(300), A.0).iter().all(|t| t.deadlock));
}

#[test]
fn what_can_still_be_resolved_is_none() {
    let stopped = ThreadRow { state: 'T', ..asleep(C, vec![]) };
    let second_thread = |row: ThreadRow| ThreadRow { tid: 999, syscall: Some(35), waits: vec![], more: true, ..row };
    let other = asleep(B, vec![pipe(Way::Child, &[A])]);
    let one = |wait: WaitRow| vec![asleep(A, vec![wait]), other.clone()];
    for (what, rows, switched) in [
        ("they continue between the snapshots", one(pipe(Way::Give, &[B])), true),
        ("another process has the end", [one(pipe(Way::Give, &[B, C])), vec![stopped]].concat(), false),
        ("a process outside of the snapshot", one(pipe(Way::Give, &[B, C])), false),
        ("another thread of it", [one(pipe(Way::Give, &[B])), vec![second_thread(other.clone())]].concat(), false),
        (
            "a timeout",
            vec![ThreadRow { timeout: true, ..asleep(A, vec![pipe(Way::Give, &[B])]) }, other.clone()],
            false,
        ),
        ("others may come", one(WaitRow { complete: false, ..pipe(Way::Take, &[B]) }), false),
        (
            "workers at a semaphore that one of them took last",
            vec![asleep(A, vec![semaphore(3, B)]), asleep(B, vec![semaphore(3, B)])],
            false,
        ),
        (
            "signal handlers that write to a pipe of their own, as those of sudo and its monitor",
            vec![asleep(A, vec![pipe(Way::Take, &[A, B])]), asleep(B, vec![pipe(Way::Take, &[A, B])])],
            false,
        ),
        (
            "event loops that wait for each other and for signals",
            vec![
                asleep(A, vec![pipe(Way::Take, &[B]), WaitRow { fd: 7, ..pipe(Way::Take, &[B]) }]),
                asleep(B, vec![pipe(Way::Take, &[A]), WaitRow { fd: 7, ..pipe(Way::Take, &[A]) }]),
            ],
            false,
        ),
        ("one process that waits for its own signal handler", vec![asleep(A, vec![pipe(Way::Take, &[A])])], false),
    ] {
        let found = snapshots(rows, switched).findings(300);
        assert!(found.is_empty(), "{what}: {found:#?}");
    }
}

#[test]
fn chains_end_honestly() {
    let waits_for_b = asleep(A, vec![pipe(Way::Give, &[B])]);
    for (row, end) in [
        (ThreadRow { state: 'R', ..asleep(B, vec![]) }, "and is running or runnable"),
        (ThreadRow { state: 'D', ..asleep(B, vec![]) }, "and is in uninterruptible sleep (state D, usually disk I/O)"),
        (ThreadRow { state: 'T', ..asleep(B, vec![]) }, "and is stopped (state T)"),
        (
            ThreadRow { timeout: true, syscall: Some(35), ..asleep(B, vec![]) },
            "and sleeps in nanosleep() with a timeout",
        ),
        (ThreadRow { syscall: None, ..asleep(B, vec![]) }, "and sleeps in a system call that could not be read"),
        (
            ThreadRow {
                syscall: Some(7),
                ..asleep(B, [4, 5, 6].map(|fd| WaitRow { fd, ..pipe(Way::Take, &[C]) }).to_vec())
            },
            "and waits in poll() on 3 descriptors",
        ),
        (asleep(B, vec![pipe(Way::Take, &[])]), "no process can end this wait"),
        (asleep(B, vec![semaphore(4, C)]), "c (302) was the last to operate on it; its threads were not read"),
    ] {
        let mut s =
            snapshots(vec![waits_for_b.clone(), row, ThreadRow { tid: 1, ..asleep(P(1, "init"), vec![]) }], true);
        s.process(250, C.row('S'));
        let chains = explain(&s.model(300), A.0);
        let last = chains[0].chain.last().cloned().unwrap_or_default();
        assert!(last.ends_with(end), "{last}");
        assert!(!chains[0].deadlock);
    }
    assert!(explain(&Stream::new().model(1), 4).is_empty());
}

#[test]
fn a_chain_says_where_each_sleeps() {
    let at = |row: ThreadRow, stack| ThreadRow { stack: Some(stack), ..row };
    let rows = vec![at(asleep(A, vec![pipe(Way::Give, &[B])]), 1), at(asleep(B, vec![pipe(Way::Take, &[C])]), 2)];
    let mut s = snapshots(rows, false);
    s.frames(1, &[("/lib/libc.so.6", 0x7010, 0x10), ("/bin/a", 0x1010, 0x20)]);
    let names = vec![
        vec![],
        vec![Place { function: Some("feed".into()), file: Some("a.c".into()), line: Some(7), ..Place::default() }],
    ];
    s.record(Record::Symbols { id: 1, places: names });
    let explained = explain(&s.model(300), A.0);
    let chain = &explained.first().expect("a thread").chain;
    assert_eq!(chain[0], "a (300) is blocked in write() on pipe:[9], at a.c:7 in feed");
    // Of the other nothing was unwound.
    assert_eq!(chain[1], "b (301) holds the read end and waits for input in write() on pipe:[9]");
}

#[test]
fn a_chain_goes_on_with_the_one_that_the_title_names() {
    let object = ObjKey { kind: kind::PIPE, ns: 0, id: 9 };
    let sleeps = |p: P| ThreadRow { syscall: Some(230), timeout: true, ..asleep(p, Vec::new()) };
    let open = WaitRow { complete: false, ..pipe(Way::Give, &[]) };
    // (processes in the snapshots, what they do, the last reader) -> the process named in the title and in the second link
    for (what, wait, others, last, named) in [
        ("the last reader", pipe(Way::Give, &[B, C]), vec![sleeps(B), sleeps(C)], Some(C), 302),
        ("one that is held up", pipe(Way::Give, &[B, C]), vec![sleeps(B), asleep(C, vec![semaphore(3, A)])], None, 302),
        ("the first of two", pipe(Way::Give, &[B, C]), vec![sleeps(B), sleeps(C)], None, 301),
        ("a receiver that the snapshot lacks", open, vec![sleeps(C)], Some(C), 302),
    ] {
        let mut s = snapshots([vec![asleep(A, vec![wait])], others].concat(), false);
        s.blocked(1_500, &[(A, object, 150, last.map(|p| (p, 120)))]);
        s.holders(1_501, object, &[(B, true, true), (C, true, false), (A, false, true)]);
        let found = s.of("pipe-stall", 1_600);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!(role(f, "reader").first(), Some(&named), "{what}: {}", f.title);
        assert!(f.chain[1].contains(&format!("({named})")), "{what}: {:?}", f.chain);
    }
}
