//! Tables of `socket-full`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{MS, P, START, Stream, number, role};
use tracer_common::map::kind;
use tracer_common::state::SocketState;
use tracer_record::{ObjKey, ReaderRow, Record, RefusedRow};

const SENDER: P = P(400, "logger");
const READER: P = P(401, "syslogd");
const PEER: u64 = 70;
const STREAM: u32 = 1;
const DGRAM: u32 = 2;

fn sock(id: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: 0, id }
}

/// `count` refusals from `span.0` to `span.1`, `in_a_row` of them in a row; `reader`: (last read, pause before a read,
/// its end), all in milliseconds.
fn refused(
    s: &mut Stream,
    at: u64,
    kind: u32,
    (count, in_a_row): (u64, u64),
    span: (u64, u64),
    reader: Option<(u64, u64, u64)>,
) {
    let full = SocketState { sent: 9_216, sndbuf: 212_992, queued: 11, backlog: 10, kind, peer_ino: PEER };
    let row = RefusedRow {
        obj: sock(7),
        state: full.into(),
        tgid: SENDER.0,
        tid: SENDER.0,
        start_ns: SENDER.start_ns(),
        comm: SENDER.1.to_owned(),
        fd: 3,
        count,
        in_a_row,
        first_ns: START + span.0 * MS,
        last_ns: START + span.1 * MS,
        reader: reader.map(|(read, gap, gap_end)| ReaderRow {
            tgid: READER.0,
            start_ns: READER.start_ns(),
            ts_ns: START + read * MS,
            comm: READER.1.to_owned(),
            gap_ns: gap * MS,
            gap_end_ns: if gap == 0 { 0 } else { START + gap_end * MS },
        }),
    };
    s.record(Record::Refused { ts_ns: START + at * MS, rows: vec![row] });
}

#[test]
fn only_refusals_during_a_pause_are_reported() {
    for (what, kind, counts, span, reader, severity) in [
        ("a burst that is lost", DGRAM, (189, 188), (1_000, 1_001), Some((1_010, 0, 0)), Some(Severity::Warning)),
        ("a small burst that is lost", DGRAM, (9, 8), (1_000, 1_001), Some((1_010, 0, 0)), Some(Severity::Info)),
        ("sent again after poll", DGRAM, (500, 0), (1_000, 4_000), Some((4_001, 0, 0)), None),
        ("a stream whose reader keeps reading", STREAM, (9_000, 0), (1_000, 4_000), Some((4_001, 0, 0)), None),
        (
            "a stream that tries again at once, and is read soon",
            STREAM,
            (50, 49),
            (1_000, 1_020),
            Some((1_021, 0, 0)),
            None,
        ),
        ("a stream nobody reads", STREAM, (5, 4), (1_000, 3_000), None, Some(Severity::Warning)),
        (
            "one refusal, poll, and a read 700 ms later",
            STREAM,
            (1, 0),
            (1_000, 1_000),
            Some((3_999, 900, 1_700)),
            Some(Severity::Info),
        ),
        ("a reader whose stamp is gone with its socket", STREAM, (16, 0), (1_000, 1_980), None, None),
        ("an idle reader, and one refusal", STREAM, (1, 0), (3_990, 3_990), Some((1_000, 0, 0)), None),
    ] {
        let mut s = Stream::new();
        refused(&mut s, 4_000, kind, counts, span, reader);
        let found = s.findings(4_050);
        let got = found.first().map(|f| (f.code.as_str(), f.severity));
        assert_eq!(got, severity.map(|s| ("socket-full", s)), "{what}: {found:?}");
        if let [f] = found.as_slice() {
            assert_eq!(number(f, "eagain"), Some(counts.0 as f64), "{what}");
        }
    }
}

#[test]
fn it_stays_full_while_both_ends_live() {
    for (what, gone, found) in [("both live", false, true), ("the receiver is gone", true, false)] {
        let mut s = Stream::new();
        s.holders(500, sock(PEER), &[(READER, true, true)]);
        refused(&mut s, 1_000, STREAM, (1, 0), (900, 900), Some((100, 0, 0)));
        if gone {
            s.gone(950, READER);
        }
        let all = s.findings(3_000);
        assert_eq!(!all.is_empty(), found, "{what}");
        if let [f] = all.as_slice() {
            assert_eq!((number(f, "max_ms"), role(f, "receiver")), (Some(2_100.0), vec![401]));
        }
    }
}

#[test]
fn a_connection_that_is_closed_is_not_full() {
    let mut s = Stream::new();
    s.holders(500, sock(PEER), &[(READER, true, true)]);
    refused(&mut s, 1_000, STREAM, (1, 0), (900, 900), Some((910, 0, 0)));
    refused(&mut s, 2_000, STREAM, (1, 0), (900, 900), None);
    assert_eq!(s.findings(9_000), []);
}

#[test]
fn reads_by_unwatched_processes_are_not_missed() {
    for (target, found) in [(vec![], true), (vec![SENDER.0], false)] {
        let mut s = Stream::new();
        s.session.target_pids = target;
        // The first read of the totals: only now the other end's holders are looked up and watched.
        refused(&mut s, 1_000, DGRAM, (50, 49), (100, 990), None);
        s.process(0, SENDER.row('S'));
        assert_eq!(!s.findings(1_010).is_empty(), found);
    }
}
