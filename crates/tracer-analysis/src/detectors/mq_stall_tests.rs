//! Tables of `mq-stall`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{P, Stream, mq, mq_create, number, role};
use tracer_common::state::MqState;

const SENDER: P = P(401, "producer");
const RECEIVER: P = P(400, "consumer");
const FULL: MqState = MqState { max_messages: 5, messages: 5, timed_out: 0 };
const ETIMEDOUT: i64 = -110;

#[test]
fn a_receiver_that_is_late_twice_and_a_send_that_gives_up() {
    let mut s = Stream::new();
    s.event(10, SENDER, mq_create(7, "jobs"));
    s.stall_with(2_000, SENDER, mq(7), 1_500, Some(RECEIVER), FULL.into(), 0);
    s.stall_with(3_000, SENDER, mq(7), 700, Some(RECEIVER), FULL.into(), 0);
    s.stall_with(4_000, SENDER, mq(7), 400, Some(RECEIVER), FULL.into(), ETIMEDOUT);
    let found = s.findings(5_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((f.code.as_str(), role(f, "sender"), role(f, "receiver")), ("mq-stall", vec![401], vec![400]));
    assert_eq!(
        (number(f, "stalls"), number(f, "max_ms"), number(f, "timed_out")),
        (Some(3.0), Some(1_500.0), Some(1.0))
    );
    assert_eq!((number(f, "messages"), number(f, "max_messages")), (Some(5.0), Some(5.0)));
    assert_eq!(f.object.as_ref().and_then(|o| o.name.as_deref()), Some("/jobs"));
    assert!(f.title.contains("1 timed out") && f.title.contains("queue /jobs"), "{}", f.title);
}

#[test]
fn a_sender_that_is_stuck_now() {
    for (waited_ms, severity) in [(2_000, Severity::Warning), (11_000, Severity::Critical)] {
        let mut s = Stream::new();
        s.holders(900, mq(7), &[(SENDER, false, true), (RECEIVER, true, false)]);
        s.blocked(1_000 + waited_ms, &[(SENDER, mq(7), 1_000, None)]);
        let found = s.findings(1_000 + waited_ms);
        let [f] = found.as_slice() else { unreachable!("{found:#?}") };
        assert_eq!((f.code.as_str(), f.severity), ("mq-stall", severity));
        assert_eq!((role(f, "receiver"), number(f, "ongoing")), (vec![400], Some(1.0)));
        // The type information lacks the fields.
        assert!(f.evidence["max_messages"].is_null() && f.title.contains("inode 7 (full)"), "{}", f.title);
    }
}

#[test]
fn a_prompt_receiver_is_healthy() {
    let mut s = Stream::new();
    s.blocked(3_000, &[(SENDER, mq(7), 2_950, Some((RECEIVER, 2_940)))]).blocked(3_100, &[]);
    assert!(s.findings(4_000).is_empty());
}

#[test]
fn a_sender_that_is_the_only_one_to_have_the_queue_open() {
    for (what, holders, read, alone) in [
        ("nobody else", vec![(SENDER, true, true)], None, true),
        ("another, which did not receive", vec![(SENDER, true, true), (RECEIVER, true, false)], None, false),
        ("its own threads receive", vec![(SENDER, true, true)], Some(SENDER), false),
    ] {
        let mut s = Stream::new();
        for at in [2_000, 3_000] {
            s.stall_with(at, SENDER, mq(7), 300, read, FULL.into(), ETIMEDOUT);
        }
        s.holders(3_001, mq(7), &holders);
        let found = s.of("mq-stall", 4_000);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!(f.title.ends_with("nobody else has it open"), alone, "{what}: {}", f.title);
        assert_eq!(role(f, "receiver").is_empty(), alone, "{what}");
        assert_eq!(f.chain.iter().any(|line| line == "nobody else has it open"), alone, "{what}: {:?}", f.chain);
        let unread = !alone && read.is_none();
        assert_eq!(f.title.contains("consumer (400) did not receive"), unread, "{what}: {}", f.title);
    }
}

#[test]
fn a_receiver_that_has_ended_cannot_be_looked_at() {
    for ended in [false, true] {
        let mut s = Stream::new();
        s.stall_with(2_000, SENDER, mq(7), 1_500, Some(RECEIVER), FULL.into(), 0);
        if ended {
            s.gone(2_500, RECEIVER);
        }
        let found = s.of("mq-stall", 3_000);
        assert_eq!(role(&found[0], "receiver"), [400]);
        let inspects = found[0].remedy.iter().any(|r| r.command.as_ref().is_some_and(|c| c.contains("/proc/400/")));
        assert_eq!(inspects, !ended, "{:#?}", found[0].remedy);
    }
}
