//! Tables of `backlog-full`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{MS, P, START, Stream, number, role};
use tracer_common::map::{SOCKET_CONNECTING, kind};
use tracer_record::{ObjKey, Record, SocketRow, State};

const CLIENT: P = P(400, "client");
const OTHER: P = P(402, "other");
const SERVER: P = P(401, "server");
const LISTENER: u64 = 70;

fn connecting(id: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: SOCKET_CONNECTING, id }
}

fn rows(s: &mut Stream, clients: &[u64]) {
    let client = |ino: &u64| SocketRow {
        ino: *ino,
        address: Some("/run/app".into()),
        named: Some(LISTENER),
        ..SocketRow::default()
    };
    let mut rows: Vec<SocketRow> = clients.iter().map(client).collect();
    rows.push(SocketRow {
        ino: LISTENER,
        listed: true,
        listening: true,
        name: Some("/run/app".into()),
        backlog: Some(4),
        pending: Some(5),
        ..SocketRow::default()
    });
    s.record(Record::Sockets { ts_ns: START + 900 * MS, rows });
    let listener = ObjKey { kind: kind::SOCKET, ns: 0, id: LISTENER };
    s.holders(900, listener, &[(SERVER, true, true)]);
}

#[test]
fn waits_and_refusals_at_one_listener_are_one_finding() {
    let mut s = Stream::new();
    s.refused(800, OTHER, connecting(8), 20, (700, 710), None);
    rows(&mut s, &[7, 8]);
    s.stall_with(2_000, CLIENT, connecting(7), 1_000, None, State::default(), 0);
    let found = s.findings(3_000);
    assert_eq!(found.len(), 1, "{found:?}");
    let f = &found[0];
    assert_eq!((f.code.as_str(), f.severity), ("backlog-full", Severity::Warning));
    assert_eq!((number(f, "eagain"), number(f, "stalls"), number(f, "backlog")), (Some(20.0), Some(1.0), Some(4.0)));
    assert_eq!((role(f, "holder"), role(f, "sender")), (vec![401], vec![400, 402]));
    assert_eq!(f.object.as_ref().map(|o| o.id.clone()), Some(LISTENER.to_string()));
    assert!(f.title.contains("to /run/app"), "{}", f.title);
    assert!(f.title.contains("(backlog of 4 full): server (401) did not accept"), "{}", f.title);
}

#[test]
fn few_refusals_are_a_note_and_a_lasting_wait_is_critical() {
    for (refused, since, severity) in
        [(3, None, Severity::Info), (30, None, Severity::Warning), (0, Some(1_000), Severity::Critical)]
    {
        let mut s = Stream::new();
        if refused > 0 {
            s.refused(800, CLIENT, connecting(7), refused, (700, 701), None);
        }
        if let Some(since) = since {
            s.blocked(14_000, &[(CLIENT, connecting(7), since, None)]);
        }
        rows(&mut s, &[7]);
        let found = s.findings(14_000);
        assert_eq!(found.iter().map(|f| f.severity).collect::<Vec<_>>(), [severity]);
    }
}

#[test]
fn a_listener_that_nobody_found_still_has_a_finding() {
    let mut s = Stream::new();
    s.refused(800, CLIENT, connecting(7), 30, (700, 701), None);
    let found = s.findings(1_000);
    assert!(found[0].title.contains("the listener is unknown"), "{}", found[0].title);
}

#[test]
fn a_short_wait_is_healthy() {
    let mut s = Stream::new();
    s.blocked(1_050, &[(CLIENT, connecting(7), 1_000, None)]);
    assert_eq!(s.findings(1_050), []);
}
