//! Tables of `eventfd-stall`: records in, findings out.

use crate::fixture::{P, Stream, eventfd, number, role};
use tracer_common::state::EventfdState;
use tracer_record::State;

const WRITER: P = P(401, "python3");
const READER: P = P(400, "python3");

fn full() -> State {
    EventfdState { counter: EventfdState::COUNTER_MAX }.into()
}

#[test]
fn a_reader_that_is_late_three_times() {
    let mut s = Stream::new();
    for i in 0..3 {
        s.stall_with(1_000 + i * 750, WRITER, eventfd(7), 700, Some(READER), full(), 8);
    }
    let found = s.of("eventfd-stall", 4_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((role(f, "writer"), role(f, "reader")), (vec![401], vec![400]));
    assert_eq!((number(f, "stalls"), number(f, "max_ms")), (Some(3.0), Some(700.0)));
    assert_eq!(f.evidence["counter"], "18446744073709551614");
}

#[test]
fn a_writer_that_is_stuck_now() {
    let mut s = Stream::new();
    s.blocked(3_000, &[(WRITER, eventfd(7), 1_000, Some((READER, 500)))]);
    let found = s.of("eventfd-stall", 3_000);
    assert_eq!(number(&found[0], "ongoing"), Some(1.0));
    assert!(found[0].title.contains("has not read for 2.5 s"), "{}", found[0].title);
}

#[test]
fn a_prompt_reader_is_healthy() {
    let mut s = Stream::new();
    s.blocked(3_000, &[(WRITER, eventfd(7), 2_950, Some((READER, 2_940)))]).blocked(3_100, &[]);
    assert!(s.findings(4_000).is_empty());
}

#[test]
fn a_reader_that_never_read_is_not_too_slow() {
    for (ret, never) in [(-4, true), (8, false)] {
        let mut s = Stream::new();
        s.stall_with(3_000, WRITER, eventfd(7), 700, None, full(), ret);
        s.holders(3_001, eventfd(7), &[(READER, true, true), (WRITER, true, true)]);
        let found = s.of("eventfd-stall", 4_000);
        assert_eq!(found[0].title.ends_with("reader python3 (400) did not read"), never, "{}", found[0].title);
    }
}
