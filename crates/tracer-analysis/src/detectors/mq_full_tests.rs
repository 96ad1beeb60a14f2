//! Tables of `mq-full`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{P, Stream, mq, number, role};
use tracer_common::state::MqState;
use tracer_record::State;

const SENDER: P = P(400, "producer");
const RECEIVER: P = P(401, "consumer");

fn full(timed_out: u64) -> State {
    MqState { max_messages: 5, messages: 5, timed_out }.into()
}

#[test]
fn only_refusals_during_a_pause_are_reported() {
    for (what, now, (eagain, timed_out), span, reader, severity) in [
        ("nobody receives", 4_000, (1_000, 0), (100, 2_000), None, Some(Severity::Warning)),
        ("the receiver pauses", 700, (5, 0), (100, 600), Some((RECEIVER, 90)), Some(Severity::Info)),
        ("timeouts one after the other", 4_000, (0, 20), (100, 2_000), None, Some(Severity::Warning)),
        ("a timeout beside refusals", 700, (5, 1), (100, 600), Some((RECEIVER, 90)), Some(Severity::Info)),
        ("a single timeout is a stall", 4_000, (0, 1), (100, 2_000), None, None),
        ("the receiver keeps receiving", 5_050, (50, 9), (100, 5_000), Some((RECEIVER, 4_990)), None),
        ("one burst, and the receiver is unknown", 4_000, (3, 0), (100, 120), None, None),
    ] {
        let mut s = Stream::new();
        s.refused_in(650, SENDER, mq(8), full(timed_out), eagain, span, reader);
        let found = s.findings(now);
        assert_eq!(found.first().map(|f| (f.code.as_str(), f.severity)), severity.map(|s| ("mq-full", s)), "{what}");
        if let [f] = found.as_slice() {
            let counts = (number(f, "eagain"), number(f, "timed_out"), number(f, "max_messages"));
            let float = |n| Some(f64::from(u32::try_from(n).unwrap_or(0)));
            assert_eq!(counts, (float(eagain), float(timed_out), Some(5.0)), "{what}");
        }
    }
}

#[test]
fn the_holder_that_can_receive_is_named() {
    let mut s = Stream::new();
    s.holders(500, mq(8), &[(RECEIVER, true, false), (SENDER, false, true)]);
    s.refused_in(3_000, SENDER, mq(8), full(0), 200, (100, 2_000), None);
    assert_eq!(role(&s.findings(3_000)[0], "receiver"), [401]);
}

#[test]
fn a_queue_that_stays_full() {
    for (what, receiver_ends, found) in [("both ends live", false, true), ("the receiver ended", true, false)] {
        let mut s = Stream::new();
        s.refused_in(1_000, SENDER, mq(8), full(0), 50, (100, 101), Some((RECEIVER, 99)));
        if receiver_ends {
            s.gone(200, RECEIVER);
        }
        assert_eq!(!s.findings(2_000).is_empty(), found, "{what}");
    }
}

#[test]
fn a_sender_that_is_the_only_one_to_have_the_queue_open() {
    for (others, alone) in [(&[][..], true), (&[(RECEIVER, true, false)], false)] {
        let mut s = Stream::new();
        let holders: Vec<_> = [(SENDER, true, true)].iter().chain(others).copied().collect();
        s.holders(500, mq(8), &holders);
        s.refused_in(650, SENDER, mq(8), full(20), 0, (100, 2_000), None);
        let found = s.of("mq-full", 4_000);
        let [f] = found.as_slice() else { unreachable!("{found:#?}") };
        assert_eq!(f.title.contains("nobody else has it open, and nobody received from it"), alone, "{}", f.title);
        assert_eq!(role(f, "receiver").is_empty(), alone);
    }
}
