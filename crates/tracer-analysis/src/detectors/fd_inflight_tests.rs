//! Tables of `fd-inflight`: records in, findings out.

use crate::finding::{Origin, Severity};
use crate::fixture::{MS, P, START, Stream, file, number, role};
use tracer_common::event::{Body, FdOverflow, FdReceive, FdSend};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_record::{InFlightRow, Inventory, ObjKey, Record};

const SENDER: P = P(400, "parent");
const RECEIVER: P = P(401, "worker");
const SOCK: u64 = 70;

fn snapshot(at: u64, fds: u64) -> Inventory {
    let row = InFlightRow { ino: SOCK, fds, tgid: RECEIVER.0, start_ns: RECEIVER.start_ns(), fd: 5 };
    Inventory {
        ts_ns: START + at * MS,
        processes: vec![SENDER.row('S'), RECEIVER.row('S')],
        in_flight: Some(if fds > 0 { vec![row] } else { vec![] }),
        ..Inventory::default()
    }
}

fn send(s: &mut Stream, at: u64) {
    s.event(at, SENDER, Body::FdSend(FdSend { sock: 71, peer: SOCK, count: 4, _pad: 0 }));
}

#[test]
fn no_process_receives() {
    for (end, fds, severity) in
        [(3_000, 20, Some(Severity::Warning)), (3_000, 4, Some(Severity::Info)), (1_500, 20, None), (3_000, 0, None)]
    {
        let mut s = Stream::new();
        s.record(Record::Baseline(snapshot(0, 0)));
        send(&mut s, 1_000);
        send(&mut s, 1_100);
        s.record(Record::Closing(snapshot(end, fds)));
        let found = s.findings(end);
        assert_eq!(found.first().map(|f| f.severity), severity, "{end} {fds}");
        if let [f] = found.as_slice() {
            assert_eq!((role(f, "sender"), role(f, "receiver")), (vec![400], vec![401]));
            assert_eq!((f.origin, number(f, "queued")), (Origin::Observed, Some(fds as f64)));
        }
    }
}

/// Common after a fork: the sender has not closed its copy of the receiver's end.
#[test]
fn a_copy_left_open_by_the_sender_is_not_the_receiver() {
    for sender_last in [false, true] {
        let mut s = Stream::new();
        s.record(Record::Baseline(snapshot(0, 0)));
        send(&mut s, 1_000);
        let mut closing = snapshot(3_000, 20);
        let rows = closing.in_flight.get_or_insert_default();
        rows.push(InFlightRow { tgid: SENDER.0, start_ns: SENDER.start_ns(), fd: 6, ..rows[0].clone() });
        if !sender_last {
            rows.reverse();
        }
        s.record(Record::Closing(closing));
        let found = s.of("fd-inflight", 3_000);
        assert_eq!((role(&found[0], "sender"), role(&found[0], "receiver")), (vec![400], vec![401]), "{found:#?}");
    }
}

#[test]
fn a_worker_that_receives_late_but_does_is_healthy() {
    let mut s = Stream::new();
    s.record(Record::Baseline(snapshot(0, 0)));
    send(&mut s, 1_000);
    let received = FdReceive { sock: SOCK, obj: crate::fixture::obj_ref(file(1)), fd: 9, ..FdReceive::default() };
    s.event(2_500, RECEIVER, Body::FdReceive(received));
    send(&mut s, 2_600);
    s.record(Record::Closing(snapshot(3_000, 4)));
    assert_eq!(s.of("fd-inflight", 3_000), []);
}

#[test]
fn descriptors_in_flight_at_the_start() {
    let mut s = Stream::new();
    s.record(Record::Baseline(snapshot(0, 20)));
    s.record(Record::Closing(snapshot(2_000, 20)));
    let found = s.findings(2_000);
    assert_eq!((found.len(), found[0].origin), (1, Origin::Baseline));
    assert!(found[0].title.contains("for at least 2"), "{}", found[0].title);
}

#[test]
fn a_send_that_is_refused() {
    let mut s = Stream::new();
    s.holders(900, ObjKey { kind: kind::SOCKET, ns: 0, id: SOCK }, &[(RECEIVER, true, true)]);
    for at in [1_000, 1_100] {
        s.event(at, SENDER, Body::FdOverflow(FdOverflow { sock: 71, peer: SOCK, count: 4, _pad: 0 }));
    }
    let found = s.findings(2_000);
    assert_eq!((found.len(), number(&found[0], "failed")), (1, Some(2.0)));
    assert_eq!((role(&found[0], "sender"), role(&found[0], "receiver")), (vec![400], vec![401]));
}

/// The healthy program is a busy receiver, of which the ring buffer had no room for the receipts.
#[test]
fn lost_receipts_may_have_emptied_the_queue() {
    for (site, found) in [(Site::FdReceive, false), (Site::SemOp, true)] {
        let mut s = Stream::new();
        s.record(Record::Baseline(snapshot(0, 0)));
        send(&mut s, 1_000);
        s.record(Record::Lost { ts_ns: START + 2_500 * MS, site: site as u16, count: 7 });
        s.record(Record::Closing(snapshot(3_000, 4)));
        assert_eq!(!s.of("fd-inflight", 3_000).is_empty(), found, "{site:?}");
    }
}
