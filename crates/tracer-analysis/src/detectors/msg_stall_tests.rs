//! Tables of `msg-stall`: records in, findings out.

use crate::finding::{Confidence, Finding, Origin, Severity};
use crate::fixture::{MS, NS, P, START, Stream, number, role};
use tracer_common::event::{Body, Stall, SysvCreate, UNKNOWN};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_common::state::MsgState;
use tracer_common::syscall::Syscall;
use tracer_record::{MsgQueue, ObjKey, ProcessRow, Record, State};

const SENDER: P = P(700, "producer");
const RECEIVER: P = P(600, "consumer");
/// Seconds since 1970 when the session starts.
const START_S: u64 = 1_700_000_000;

fn queue(id: u64) -> ObjKey {
    ObjKey { kind: kind::MSG, ns: NS, id }
}

/// A message of 1024 bytes did not fit.
fn refused() -> State {
    MsgState { message_bytes: 1024 }.into()
}

fn full(id: i32) -> MsgQueue {
    MsgQueue { ns: NS, id, bytes: 16_384, messages: 16, qbytes: 16_384, lspid: SENDER.0, ..MsgQueue::default() }
}

fn table(s: &mut Stream, at: u64, row: MsgQueue) {
    s.record(Record::Queues { ts_ns: START + at * MS, rows: vec![row] });
}

/// The sender has been asleep in msgsnd since `since`.
fn blocked(s: &mut Stream, at: u64, since: u64, reader: Option<(P, u64)>) {
    s.blocked(at, &[(SENDER, queue(5), since, reader)]);
    let Some(Record::Blocked { threads, .. }) = s.records.last_mut() else { unreachable!() };
    for t in threads {
        (t.call, t.state, t.fd) = (Syscall::Msgsnd as u8, refused(), -1);
    }
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

#[test]
fn a_receiver_that_pauses() {
    let mut s = Stream::new();
    for at in [1_000, 2_000] {
        s.stall_with(at, SENDER, queue(5), 500, Some(RECEIVER), refused(), 0);
    }
    table(&mut s, 1_900, full(5));
    // Drained since.
    table(&mut s, 2_100, MsgQueue { bytes: 0, messages: 0, ..full(5) });
    let found = s.of("msg-stall", 4_000);
    let f = one(&found);
    assert_eq!((role(f, "sender"), role(f, "receiver")), (vec![700], vec![600]));
    assert_eq!((number(f, "stalls"), number(f, "max_ms"), number(f, "ongoing")), (Some(2.0), Some(500.0), Some(0.0)));
    assert_eq!(
        (number(f, "queued_bytes"), number(f, "messages"), number(f, "qbytes")),
        (Some(16_384.0), Some(16.0), Some(16_384.0))
    );
    assert_eq!((f.severity, f.confidence), (Severity::Warning, Confidence::Certain));
    let object = f.object.as_ref().map(|o| (o.kind.as_str(), o.id.as_str(), o.ns));
    assert_eq!(object, Some(("msg", "5", Some(NS))));
}

#[test]
fn one_that_lasts() {
    let received = |pid, s_ago| MsgQueue { lrpid: pid, rtime: START_S - s_ago, ..full(5) };
    for (what, row, alive, blame) in [
        ("nobody ever received", full(5), true, "nobody has ever received from it"),
        (
            "the last receiver lives",
            received(RECEIVER.0, 10),
            true,
            "receiver consumer (600) has not received for about 12 s",
        ),
        (
            "the last receiver is dead",
            received(RECEIVER.0, 10),
            false,
            "which last received about 12 s ago, has exited",
        ),
    ] {
        let mut s = Stream::new();
        let rows = if alive { vec![SENDER.row('S'), RECEIVER.row('S')] } else { vec![SENDER.row('S')] };
        s.baseline(10, rows);
        blocked(&mut s, 3_000, 1_000, None);
        table(&mut s, 3_000, row);
        let found = s.of("msg-stall", 3_000);
        let f = one(&found);
        assert!(f.title.contains(blame), "{what}: {}", f.title);
        assert!(f.title.contains("has been blocked for 2 s in msgsnd()"), "{what}: {}", f.title);
        assert_eq!(number(f, "ongoing"), Some(1.0), "{what}");
    }
}

#[test]
fn one_that_was_asleep_before() {
    let mut s = Stream::new();
    blocked(&mut s, 3_000, 1_000, None);
    let Some(Record::Blocked { threads, .. }) = s.records.last_mut() else { unreachable!() };
    threads.iter_mut().for_each(|t| t.estimated = true);
    let found = s.of("msg-stall", 3_000);
    assert_eq!(one(&found).origin, Origin::Baseline);
    // Nobody has read the queue.
    assert!(one(&found).evidence["queued_bytes"].is_null() && one(&found).evidence["qbytes"].is_null());
}

#[test]
fn a_creator_that_was_seen() {
    let mut s = Stream::new();
    let body = SysvCreate { kind: kind::MSG, id: 5, key: 0, flags: 0o1600, ns: NS, exact: 1, size: 0 };
    s.event(100, RECEIVER, Body::SysvCreate(body));
    s.stall_with(1_000, SENDER, queue(5), 500, None, refused(), 0).lost(1_500, Site::MsgSend);
    let found = s.of("msg-stall", 4_000);
    assert_eq!((role(one(&found), "creator"), one(&found).confidence), (vec![600], Confidence::Uncertain));
}

#[test]
fn a_receiver_that_is_at_work() {
    let mut s = Stream::new();
    let body = |at: u64| Stall {
        obj: crate::fixture::obj_ref(queue(5)),
        state: MsgState { message_bytes: 1024 }.into(),
        since_ns: START + (at - 500) * MS,
        until_ns: START + at * MS,
        reader: RECEIVER.0,
        reader_start_ns: RECEIVER.start_ns(),
        read_ns: START + at * MS - 1000,
        reader_running_ns: 490 * MS,
        call: u16::from(Syscall::Msgsnd as u8),
        fd: -1,
        ..Stall::default()
    };
    assert_ne!(body(1_000).reader_running_ns, UNKNOWN);
    s.event(1_000, SENDER, Body::Stall(body(1_000))).event(2_000, SENDER, Body::Stall(body(2_000)));
    let found = s.of("msg-stall", 4_000);
    assert_eq!(one(&found).severity, Severity::Info);
    // A batch that took its time, over now.
    s.gone(3_000, SENDER).gone(3_000, RECEIVER);
    assert!(s.findings(4_000).is_empty());
}

#[test]
fn short_waits_are_healthy() {
    let mut s = Stream::new();
    blocked(&mut s, 3_000, 2_950, Some((RECEIVER, 2_940)));
    s.blocked(3_100, &[]);
    assert!(s.findings(4_000).is_empty());
}

#[test]
fn a_receiver_that_sits_in_msgrcv_while_messages_lie_there() {
    for (state, title, advice) in [
        ('S', "receiver consumer (600) waits for another type of message in msgrcv() there", "Compare the types"),
        ('T', "receiver consumer (600) is stopped in msgrcv() there", "Let the receiver continue"),
    ] {
        let mut s = Stream::new();
        // msgrcv
        s.baseline(0, vec![SENDER.row('S'), ProcessRow { syscall: Some(70), ..RECEIVER.row(state) }]);
        table(&mut s, 900, MsgQueue { waiting: vec![SENDER.0, RECEIVER.0], ..full(5) });
        blocked(&mut s, 3_000, 500, None);
        let found = s.of("msg-stall", 3_000);
        let f = one(&found);
        assert_eq!((role(f, "sender"), role(f, "receiver")), (vec![700], vec![600]));
        assert!(f.title.contains(title), "{}", f.title);
        assert!(f.remedy[0].what.contains(advice), "{:?}", f.remedy);
    }
}
