//! Tables of `pipe-shrunk`: records in, findings out.

use crate::finding::{Confidence, Origin};
use crate::fixture::{P, START, Stream, number, pipe, role};
use tracer_common::event::{Body, PipeCreate, PipeResize};
use tracer_record::{Inventory, PipeOwner, Record, SmallPipes};

const HOG: P = P(500, "python3");
const BASH: P = P(501, "bash");
const DD: P = P(502, "dd");
const PV: P = P(503, "pv");

fn create(s: &mut Stream, at: u64, p: P, ino: u64, slots: u32) {
    s.event(at, p, Body::PipeCreate(PipeCreate { ino, slots, _pad: 0 }));
}

#[test]
fn small_pipes_of_a_user_are_one_finding() {
    let mut s = Stream::new();
    for ino in 10..46 {
        create(&mut s, 100, HOG, ino, 2);
    }
    create(&mut s, 200, BASH, 50, 2);
    s.uid = 2_000;
    create(&mut s, 210, P(600, "bash"), 60, 16);
    s.uid = 1_000;
    s.pipe_user(300, 1_000, &[(HOG, 1_060), (BASH, 1)]);
    s.stall(900, DD, pipe(50), 200, Some(PV));
    let found = s.of("pipe-shrunk", 2_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!(role(f, "holder"), [500]);
    assert_eq!((role(f, "writer"), role(f, "reader")), (vec![502], vec![503]));
    assert_eq!(f.object.as_ref().map(|o| o.id.as_str()), Some("50"), "the one that stalled");
    assert_eq!((number(f, "capacity_bytes"), number(f, "default_bytes")), (Some(8_192.0), Some(65_536.0)));
    assert_eq!((number(f, "pipes_of_user"), number(f, "instances")), (Some(1_061.0), Some(37.0)));
}

#[test]
fn healthy_sizes() {
    for (what, slots, resized, many) in [
        ("default", 16, None, 0),
        ("large pages", 16, Some(4_096), 0),
        ("shrunk and enlarged", 2, Some(65_536), 0),
        ("shrunk, and enlarging refused", 2, Some(-1), 1),
        ("unknown size", 0, None, 0),
    ] {
        let mut s = Stream::new();
        create(&mut s, 100, BASH, 10, slots);
        if let Some(ret) = resized {
            s.event(200, BASH, Body::PipeResize(PipeResize { ino: 10, wanted: 65_536, ret }));
        }
        let found = s.findings(1_000);
        assert_eq!(found.len(), many, "{what}: {found:#?}");
    }
}

#[test]
fn without_a_count_the_creator_is_the_holder() {
    let mut s = Stream::new();
    create(&mut s, 100, HOG, 10, 2);
    let found = s.findings(1_000);
    assert_eq!(role(&found[0], "holder"), [500]);
    assert!(found[0].evidence["pipes_of_user"].is_null());
}

#[test]
fn small_pipes_at_the_start_are_reported_until_their_creation_is_recorded() {
    let small = SmallPipes {
        uid: 1_000,
        slots: 2,
        count: 36,
        inos: (10..46).collect(),
        pages: 16_456,
        soft_pages: 16_384,
        holders: vec![PipeOwner { tgid: HOG.0, start_ns: HOG.start_ns(), comm: HOG.1.to_owned(), pipes: 1_060 }],
        pipes: 1_061,
    };
    let inventory = Inventory { ts_ns: START, until_ns: START, small_pipes: Some(vec![small]), ..Inventory::default() };
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory));
    s.stall(900, DD, pipe(12), 200, Some(PV));
    let found = s.of("pipe-shrunk", 2_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((f.origin, f.confidence), (Origin::Baseline, Confidence::Likely));
    assert_eq!((role(f, "holder"), role(f, "writer"), role(f, "reader")), (vec![500], vec![502], vec![503]));
    assert_eq!((number(f, "capacity_bytes"), number(f, "instances")), (Some(8_192.0), Some(36.0)));
    assert!(f.title.contains("exceeds pipe-user-pages-soft (16456 of 16384 pages), and python3 (500)"), "{}", f.title);
    // New ones of the same user: now their creator is known.
    create(&mut s, 1_000, BASH, 50, 2);
    let found = s.of("pipe-shrunk", 2_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((f.origin, number(f, "instances")), (Origin::Observed, Some(1.0)));
}
