//! Tables of `signal-queue-full`: records in, findings out.

use crate::fixture::{MS, P, START, Stream, number, role};
use tracer_common::map::kind;
use tracer_common::state::SignalState;
use tracer_record::{ObjKey, ProcessRow, Record, RefusedRow};

const BOSS: P = P(600, "boss");
const WORKER: P = P(601, "worker");

fn row(kind: u32, signal: u32, count: u64, by_kernel: bool) -> RefusedRow {
    RefusedRow {
        obj: ObjKey { kind, ns: signal, id: WORKER.0.into() },
        state: SignalState { target_start_ns: WORKER.start_ns(), from_kernel: by_kernel }.into(),
        tgid: BOSS.0,
        tid: BOSS.0,
        start_ns: BOSS.start_ns(),
        comm: BOSS.1.to_owned(),
        fd: -1,
        count,
        in_a_row: 0,
        first_ns: START + 10 * MS,
        last_ns: START + 20 * MS,
        reader: None,
    }
}

#[test]
fn lost_signals() {
    for (what, rows, dropped, stripped, senders, words) in [
        (
            "dropped",
            vec![row(kind::SIGNAL, 35, 24, false)],
            24.0,
            0.0,
            vec![BOSS.0],
            "lost 24 signals (SIGRTMIN+1) from boss (600)",
        ),
        (
            "their values",
            vec![row(kind::SIGNAL_INFO, 10, 1, false)],
            0.0,
            1.0,
            vec![BOSS.0],
            "lost the data of 1 signal (SIGUSR1) from boss (600)",
        ),
        (
            "both",
            vec![
                row(kind::SIGNAL, 34, 3, false),
                row(kind::SIGNAL_INFO, 12, 2, false),
                row(kind::SIGNAL_MERGED, 10, 5, false),
            ],
            3.0,
            2.0,
            vec![BOSS.0],
            "lost 3 signals and the data of 2 more (SIGUSR2, SIGRTMIN) from boss (600)",
        ),
        (
            "sent by the kernel",
            vec![row(kind::SIGNAL, 40, 7, true)],
            7.0,
            0.0,
            vec![],
            "worker (601) lost 7 signals (SIGRTMIN+6)",
        ),
        (
            "of no known number",
            vec![row(kind::SIGNAL, 0, 1, true), row(kind::SIGNAL, u32::MAX, 1, true)],
            2.0,
            0.0,
            vec![],
            "signal 0",
        ),
    ] {
        let mut s = Stream::new();
        s.process(5, WORKER.row('S')).record(Record::Refused { ts_ns: START + 30 * MS, rows });
        let found = s.of("signal-queue-full", 100);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!((number(f, "failed"), number(f, "stripped")), (Some(dropped), Some(stripped)), "{what}");
        assert_eq!((role(f, "receiver"), role(f, "sender")), (vec![WORKER.0], senders), "{what}");
        assert!(f.title.contains(words), "{what}: {}", f.title);
    }
}

#[test]
fn coalesced_signals_are_no_loss() {
    let merged = row(kind::SIGNAL_MERGED, 10, 5, false);
    for (rows, coalesced) in [
        (vec![merged.clone()], None),
        (vec![row(kind::SIGNAL, 34, 3, false), merged], Some(5.0)),
        (vec![row(kind::SIGNAL, 34, 3, false)], Some(0.0)),
    ] {
        let mut s = Stream::new();
        s.process(5, WORKER.row('S')).record(Record::Refused { ts_ns: START + 30 * MS, rows });
        let found = s.of("signal-queue-full", 100);
        assert_eq!(found.first().and_then(|f| number(f, "coalesced")), coalesced);
    }
}

#[test]
fn full_queue_and_blocked_signals() {
    let mut s = Stream::new();
    let worker = ProcessRow { signals_blocked: Some(1 << 34), signals_queued: Some((16, 16)), ..WORKER.row('S') };
    s.record(Record::Refused { ts_ns: START + 30 * MS, rows: vec![row(kind::SIGNAL, 35, 24, false)] })
        .process(31, worker);
    let found = s.of("signal-queue-full", 100);
    assert!(
        found[0].title.ends_with("16 signals are queued for its user (RLIMIT_SIGPENDING is 16), and it blocks them")
    );
    assert_eq!((number(&found[0], "used"), number(&found[0], "max")), (Some(16.0), Some(16.0)));
}
