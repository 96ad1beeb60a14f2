//! Tables of `eventfd-overflow`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{P, Stream, eventfd, number, role};

const WRITER: P = P(400, "producer");
const READER: P = P(401, "consumer");

#[test]
fn severity_depends_on_the_next_read() {
    for (what, span, reader, count, severity) in [
        ("never read", (100, 900), None, 1_000, Some(Severity::Warning)),
        ("read in between, and not since", (100, 900), Some((WRITER, 500)), 1_000, Some(Severity::Warning)),
        ("another process drained it late", (100, 900), Some((READER, 2_000)), 5, Some(Severity::Warning)),
        ("another process drained it in time", (100, 150), Some((READER, 160)), 5, Some(Severity::Info)),
        ("an event loop that rewinds", (100, 150), Some((WRITER, 151)), 40, None),
    ] {
        let mut s = Stream::new();
        s.refused(3_000, WRITER, eventfd(7), count, span, reader);
        let found = s.findings(4_000);
        assert_eq!(found.first().map(|f| f.severity), severity, "{what}: {found:#?}");
        if let [f] = found.as_slice() {
            assert_eq!(f.code, "eventfd-overflow", "{what}");
            assert_eq!(number(f, "eagain"), Some(f64::from(u32::try_from(count).unwrap_or(0))), "{what}");
            assert_eq!(role(f, "writer"), [400], "{what}");
        }
    }
}

#[test]
fn a_consumer_that_was_late_before_is_still_reported() {
    let mut s = Stream::new();
    // Refused for 800 ms without a read, then the writer itself rewinds.
    s.refused(1_000, WRITER, eventfd(7), 10, (100, 900), None);
    s.refused(2_000, WRITER, eventfd(7), 11, (100, 1_500), Some((WRITER, 1_501)));
    assert_eq!(s.findings(3_000).len(), 1);
}

#[test]
fn totals_are_not_added_up() {
    let mut s = Stream::new();
    s.refused(1_000, WRITER, eventfd(7), 10, (100, 900), None).refused(
        2_000,
        WRITER,
        eventfd(7),
        30,
        (100, 1_900),
        None,
    );
    let found = s.findings(3_000);
    assert_eq!(number(&found[0], "eagain"), Some(30.0));
    assert!(found[0].evidence["last_drain_age_ms"].is_null(), "never read is not zero");
    assert_eq!(found[0].evidence["counter"], "18446744073709551614");
}
