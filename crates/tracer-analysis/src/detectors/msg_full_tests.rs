//! Tables of `msg-full`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{MS, NS, P, START, Stream, number, role};
use tracer_common::map::kind;
use tracer_common::state::MsgState;
use tracer_record::{MsgQueue, ObjKey, Record};

const SENDER: P = P(700, "producer");
const RECEIVER: P = P(600, "consumer");
/// Seconds since 1970 when the session starts.
const START_S: u64 = 1_700_000_000;

fn queue() -> ObjKey {
    ObjKey { kind: kind::MSG, ns: NS, id: 0 }
}

fn row(bytes: u64) -> MsgQueue {
    MsgQueue { ns: NS, id: 0, bytes, messages: bytes / 1024, qbytes: 16_384, lspid: SENDER.0, ..MsgQueue::default() }
}

/// `count` sends of 1024 bytes were refused from `span.0` to `span.1`.
fn refused(s: &mut Stream, at: u64, count: u64, span: (u64, u64), reader: Option<(P, u64)>) {
    s.refused(at, SENDER, queue(), count, span, reader);
    let Some(Record::Refused { rows, .. }) = s.records.last_mut() else { unreachable!() };
    rows.iter_mut().for_each(|r| (r.state, r.fd) = (MsgState { message_bytes: 1024 }.into(), -1));
}

fn table(s: &mut Stream, at: u64, row: MsgQueue) {
    s.record(Record::Queues { ts_ns: START + at * MS, rows: vec![row] });
}

#[test]
fn reported_and_ignored_refusals() {
    let old = MsgQueue { lrpid: RECEIVER.0, rtime: START_S - 60, ..row(16_384) };
    let fresh = MsgQueue { lrpid: RECEIVER.0, rtime: START_S + 2, ..row(1_024) };
    for (what, span, reader, seen, eagain, age_ms) in [
        ("nobody ever received, and the queue stays full", (1_000, 1_001), None, Some(row(16_384)), Some(48.0), None),
        ("a receiver that is not watched, a minute ago", (1_000, 1_001), None, Some(old), Some(48.0), Some(62_000.0)),
        ("it was received from since", (1_000, 1_001), None, Some(fresh), None, None),
        ("it is gone", (1_000, 1_001), None, None, None, None),
        ("it is gone, but was refused for long", (1_000, 2_000), None, None, Some(48.0), None),
        ("a receiver that sleeps", (1_000, 2_000), Some((RECEIVER, 990)), None, Some(48.0), Some(2_010.0)),
        ("a receiver that keeps receiving", (1_000, 2_000), Some((RECEIVER, 1_990)), Some(row(1_024)), None, None),
    ] {
        let mut s = Stream::new();
        s.baseline(10, vec![SENDER.row('S'), RECEIVER.row('S')]);
        refused(&mut s, 2_000, 48, span, reader);
        if let Some(seen) = seen {
            table(&mut s, 2_500, seen);
        }
        let found = s.of("msg-full", 3_000);
        assert_eq!(found.first().and_then(|f| number(f, "eagain")), eagain, "{what}: {found:#?}");
        let Some(f) = found.first() else { continue };
        assert_eq!(number(f, "last_drain_age_ms"), age_ms, "{what}");
        assert_eq!(role(f, "sender"), [700], "{what}");
        assert_eq!(f.object.as_ref().map(|o| o.id.as_str()), Some("0"), "{what}");
    }
}

#[test]
fn severities() {
    for (what, count, until, want) in [
        ("few, and short", 5, 1_300, Severity::Info),
        ("many", 100, 1_300, Severity::Warning),
        ("long", 5, 2_500, Severity::Warning),
    ] {
        let mut s = Stream::new();
        refused(&mut s, until, count, (1_000, until), None);
        let found = s.of("msg-full", 3_000);
        assert_eq!(found.first().map(|f| f.severity), Some(want), "{what}");
    }
}
