//! Tables of `socket-stall`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{MS, P, START, Stream, number, role};
use tracer_common::map::{SOCKET_CONNECTING, kind};
use tracer_common::state::SocketState;
use tracer_record::{ObjKey, Record, SocketRow, State};

const SENDER: P = P(400, "logger");
const READER: P = P(401, "syslogd");
const PEER: u64 = 70;

fn sock(id: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: 0, id }
}

fn full(peer_ino: u64) -> State {
    SocketState { sent: 9_216, sndbuf: 212_992, queued: 11, backlog: 10, kind: 2, peer_ino }.into()
}

fn named(s: &mut Stream, row: SocketRow) {
    s.record(Record::Sockets { ts_ns: START + MS, rows: vec![row] });
}

#[test]
fn a_receiver_that_pauses() {
    let mut s = Stream::new();
    for at in [1_000, 2_000, 3_000] {
        s.stall_with(at, SENDER, sock(7), 500, Some(READER), full(PEER), 40);
    }
    named(&mut s, SocketRow { ino: PEER, name: Some("/run/log".into()), ..SocketRow::default() });
    let found = s.findings(4_000);
    assert_eq!(found.len(), 1, "{found:?}");
    let f = &found[0];
    assert_eq!((f.code.as_str(), f.severity), ("socket-stall", Severity::Warning));
    assert_eq!((number(f, "stalls"), number(f, "max_ms"), number(f, "queued")), (Some(3.0), Some(500.0), Some(11.0)));
    assert_eq!((role(f, "sender"), role(f, "receiver")), (vec![400], vec![401]));
    assert_eq!((&f.evidence["path"], &f.evidence["type"]), (&"/run/log".into(), &"dgram".into()));
    assert!(f.title.contains("to /run/log") && f.title.contains("11 messages in a queue for 10"), "{}", f.title);
}

#[test]
fn a_wait_that_lasts_names_who_has_the_other_end() {
    for (ms, severity) in [(2_000, Severity::Warning), (12_000, Severity::Critical)] {
        let mut s = Stream::new();
        // The fixture's snapshots have the other end at the highest inode number.
        s.holders(500, sock(u64::MAX), &[(READER, true, true), (SENDER, true, true)]);
        s.blocked(ms + 1_000, &[(SENDER, sock(7), 1_000, None)]);
        let found = s.findings(ms + 1_000);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].severity, role(&found[0], "receiver")), (severity, vec![401]));
        assert_eq!(number(&found[0], "ongoing"), Some(1.0));
    }
}

#[test]
fn a_receiver_that_only_its_name_tells() {
    let mut s = Stream::new();
    s.stall_with(1_000, SENDER, sock(7), 500, None, full(0), 40);
    let row = SocketRow { ino: 7, address: Some("@log".into()), named: Some(PEER), ..SocketRow::default() };
    named(&mut s, row);
    s.holders(1_500, sock(PEER), &[(READER, true, true)]);
    let f = &s.findings(2_000)[0];
    assert_eq!((role(f, "receiver"), &f.evidence["path"]), (vec![401], &"@log".into()));
    assert_eq!(f.evidence["peer"], PEER.to_string());
}

#[test]
fn healthy() {
    // Both ended, and the reader was at work all the time.
    let mut s = Stream::new();
    s.stall_while(1_000, SENDER, sock(7), 500, READER, 490);
    s.gone(1_100, SENDER).gone(1_200, READER);
    assert_eq!(s.findings(2_000), []);
    // Shorter than min-stall.
    let mut s = Stream::new();
    s.blocked(1_050, &[(SENDER, sock(7), 1_000, None)]);
    assert_eq!(s.findings(1_050), []);
}

#[test]
fn a_connect_is_no_send() {
    let mut s = Stream::new();
    s.stall_with(1_000, SENDER, ObjKey { ns: SOCKET_CONNECTING, ..sock(7) }, 500, None, full(0), 0);
    let codes: Vec<String> = s.findings(2_000).into_iter().map(|f| f.code).collect();
    assert_eq!(codes, ["backlog-full"]);
}

#[test]
fn many_senders_of_one_receiver_are_one_finding() {
    for (senders, findings) in [(8, 8), (9, 1)] {
        let mut s = Stream::new();
        for n in 0..senders {
            s.stall_with(1_000, P(500 + n, "logger"), sock(100 + u64::from(n)), 500, Some(READER), full(PEER), 40);
        }
        let found = s.findings(2_000);
        assert_eq!(found.len(), findings, "{senders}");
        let stalls: f64 = found.iter().filter_map(|f| number(f, "stalls")).sum();
        assert_eq!(stalls, f64::from(senders));
    }
}

#[test]
fn a_receiver_that_never_read_is_not_too_slow() {
    for (ret, never) in [(-32, true), (40, false)] {
        let mut s = Stream::new();
        s.stall_with(3_000, SENDER, sock(7), 700, None, full(PEER), ret);
        s.holders(3_001, sock(PEER), &[(READER, true, true)]);
        let found = s.findings(4_000);
        let [f] = found.as_slice() else { unreachable!("{found:#?}") };
        assert_eq!(f.title.ends_with("receiver syslogd (401) did not read"), never, "{}", f.title);
        assert_eq!(f.remedy.iter().all(|r| !r.what.contains("bridge")), never, "{:#?}", f.remedy);
    }
}

#[test]
fn what_gives_a_datagram_sender_room() {
    let state =
        |sent, queued, backlog, kind| SocketState { sent, sndbuf: 212_992, queued, backlog, kind, peer_ino: PEER };
    for (what, seen, queue) in [
        ("not connected, little in flight", state(768, 0, 0, 2), true),
        ("not connected, all that it may in flight", state(213_000, 0, 0, 2), false),
        ("connected, the queue full", state(9_216, 11, 10, 2), true),
        ("connected, the queue has room", state(213_000, 3, 10, 2), false),
        ("a stream has no queue of messages", state(768, 0, 0, 1), false),
    ] {
        let mut s = Stream::new();
        s.stall_with(3_000, SENDER, sock(7), 700, Some(READER), seen.into(), 40);
        let found = s.findings(4_000);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        let says = |word: &str| f.remedy.iter().any(|r| r.what.contains(word));
        assert_eq!((says("max_dgram_qlen"), says("SO_SNDBUF")), (queue, !queue), "{what}: {:#?}", f.remedy);
    }
}
