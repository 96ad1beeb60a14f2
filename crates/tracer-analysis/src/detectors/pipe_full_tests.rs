//! Tables of `pipe-full`: records in, findings out.

use crate::finding::Severity;
use crate::fixture::{P, Stream, number, pipe, role};

const WRITER: P = P(400, "producer");
const READER: P = P(401, "consumer");

#[test]
fn only_refusals_during_a_pause_are_reported() {
    for (what, now, count, span, reader, severity) in [
        ("nobody reads", 4_000, 1_000, (100, 2_000), None, Some(Severity::Warning)),
        ("the reader pauses", 700, 5, (100, 600), Some((READER, 90)), Some(Severity::Info)),
        ("a few refusals while the reader keeps reading", 5_050, 50, (100, 5_000), Some((READER, 4_990)), None),
        ("one burst, and the reader is unknown", 4_000, 3, (100, 120), None, None),
    ] {
        let mut s = Stream::new();
        s.refused(650, WRITER, pipe(8), count, span, reader);
        let found = s.findings(now);
        assert_eq!(found.first().map(|f| (f.code.as_str(), f.severity)), severity.map(|s| ("pipe-full", s)), "{what}");
        if let [f] = found.as_slice() {
            assert_eq!(number(f, "eagain"), Some(f64::from(u32::try_from(count).unwrap_or(0))), "{what}");
        }
    }
}

#[test]
fn the_holder_of_the_read_end_is_named() {
    let mut s = Stream::new();
    s.holders(500, pipe(8), &[(READER, true, false), (WRITER, false, true)]);
    s.refused(3_000, WRITER, pipe(8), 200, (100, 2_000), None);
    assert_eq!(role(&s.findings(3_000)[0], "reader"), [401]);
}

#[test]
fn a_pause_seen_earlier_is_remembered() {
    let mut s = Stream::new();
    s.refused(1_000, WRITER, pipe(8), 5, (100, 900), Some((READER, 50)));
    s.refused(2_000, WRITER, pipe(8), 6, (100, 1_500), Some((READER, 1_499)));
    assert_eq!(s.findings(3_000).len(), 1);
}

#[test]
fn a_pipe_that_stays_full() {
    for (what, reader_ends, found) in [("both ends live", false, true), ("the reader ended", true, false)] {
        let mut s = Stream::new();
        // Refused for one millisecond only, but nobody has read since.
        s.refused(1_000, WRITER, pipe(8), 50, (100, 101), Some((READER, 99)));
        if reader_ends {
            s.gone(200, READER);
        }
        assert_eq!(!s.findings(2_000).is_empty(), found, "{what}");
    }
}
