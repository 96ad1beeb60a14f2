//! Tables of `fd-leak` for a process's own pipes and eventfds: records in, findings out.

use crate::finding::Finding;
use crate::fixture::{P, Stream, number, role};
use tracer_common::event::{Body, EventfdCreate, Exit, PipeCreate};
use tracer_common::map::kind;
use tracer_record::ObjKey;

const MAKER: P = P(900, "maker");
const CHILD: P = P(901, "child");

fn eventfd(s: &mut Stream, at: u64, fd: u32) {
    s.event(at, MAKER, Body::EventfdCreate(EventfdCreate { id: u64::from(fd), fd, ..EventfdCreate::default() }));
}

fn pipe(s: &mut Stream, at: u64, ino: u64) {
    s.event(at, MAKER, Body::PipeCreate(PipeCreate { ino, slots: 16, _pad: 0 }));
}

fn pipe_key(id: u64) -> ObjKey {
    ObjKey { kind: kind::PIPE, ns: 0, id }
}

/// The table with these eventfds, and other things.
fn eventfds(s: &mut Stream, at: u64, limit: u64, fds: impl Iterator<Item = u32>) {
    let table = fds.map(|fd| (fd, "anon_inode:[eventfd]".to_owned()));
    s.fd_table(at, MAKER, limit, table.chain([(0, "/dev/null".to_owned()), (9, "pipe:[9]".to_owned())]).collect());
}

/// The table with both ends of these pipes.
fn pipes(s: &mut Stream, at: u64, inos: impl Iterator<Item = u64>) {
    let ends = (10..).zip(inos).flat_map(|(n, ino)| [(2 * n, ino), (2 * n + 1, ino)]);
    s.fd_table(at, MAKER, 65_536, ends.map(|(fd, ino)| (fd, format!("pipe:[{ino}]"))).collect());
}

fn leak(found: &[Finding]) -> Option<&Finding> {
    found.iter().find(|f| f.code == "fd-leak")
}

#[test]
fn eventfds_that_stay() {
    type Fill = fn(&mut Stream);
    let cases: &[(&str, Option<f64>, Fill)] = &[
        ("one each 100 ms, none closed", Some(60.0), |s| {
            (0..60).for_each(|i| eventfd(s, 100 + u64::from(i) * 100, 10 + i));
            eventfds(s, 7_500, 65_536, 10..70);
        }),
        ("a pool of 64, made at the start", None, |s| {
            (0..64).for_each(|i| eventfd(s, 100 + u64::from(i), 10 + i));
            eventfds(s, 7_500, 65_536, 10..74);
        }),
        ("most at the start, then one now and then", None, |s| {
            (0..100).for_each(|i| eventfd(s, 100 + u64::from(i) * 5, 10 + i));
            (0..6).for_each(|i| eventfd(s, 1_000 + u64::from(i) * 1_000, 200 + i));
            eventfds(s, 7_500, 65_536, (10..110).chain(200..206));
        }),
        ("one each 100 ms until 20 s ago", None, |s| {
            (0..60).for_each(|i| eventfd(s, 100 + u64::from(i) * 100, 10 + i));
            eventfds(s, 27_500, 65_536, 10..70);
        }),
        ("each closed at once, so that all had one number", None, |s| {
            (0..600u32).for_each(|i| eventfd(s, 100 + u64::from(i) * 10, 10));
            eventfds(s, 7_500, 65_536, 10..11);
        }),
        ("a window of 40 that moves", None, |s| {
            (0..600).for_each(|i| eventfd(s, 100 + u64::from(i) * 10, 10 + i));
            eventfds(s, 7_500, 65_536, 570..610);
        }),
        ("each fourth left open", Some(50.0), |s| {
            (0..200).for_each(|i| eventfd(s, 100 + u64::from(i) * 30, if i % 4 == 0 { 100 + i } else { 10 }));
            eventfds(s, 7_500, 65_536, (100..300).step_by(4));
        }),
        ("31 of them", None, |s| {
            (0..31).for_each(|i| eventfd(s, 100 + u64::from(i) * 200, 10 + i));
            eventfds(s, 7_500, 65_536, 10..41);
        }),
        ("over half of the limit, all at once", Some(60.0), |s| {
            (0..60).for_each(|i| eventfd(s, 100 + u64::from(i), 10 + i));
            eventfds(s, 7_500, 100, 10..70);
        }),
        ("the table was not read", None, |s| {
            (0..60).for_each(|i| eventfd(s, 100 + u64::from(i) * 100, 10 + i));
        }),
        ("the process has exited", None, |s| {
            (0..60).for_each(|i| eventfd(s, 100 + u64::from(i) * 100, 10 + i));
            eventfds(s, 7_000, 65_536, 10..70);
            s.event(7_100, MAKER, Body::Exit(Exit::default()));
        }),
        ("read before the last were recorded, which were closed by then", Some(60.0), |s| {
            (0..60).for_each(|i| eventfd(s, 100 + u64::from(i) * 100, 10 + i));
            eventfds(s, 7_500, 65_536, 10..71);
            (0..40).for_each(|i| eventfd(s, 6_500 + u64::from(i), 71 + i));
        }),
    ];
    for (name, want, fill) in cases {
        let mut s = Stream::new();
        fill(&mut s);
        let found = s.findings(28_000.min(8_000 + 20_000 * u64::from(name.contains("20 s"))));
        assert_eq!(leak(&found).and_then(|f| number(f, "outstanding")), *want, "{name}: {found:#?}");
    }
}

#[test]
fn pipes_count_if_no_other_process_has_them() {
    let alone = &[(MAKER, true, true)][..];
    let shared = &[(MAKER, true, false), (CHILD, false, true)][..];
    let cases = [("only the maker has them", alone, true), ("a child has the other end", shared, false)];
    for (name, holders, want) in cases {
        let mut s = Stream::new();
        (0..60).for_each(|i| pipe(&mut s, 100 + i * 100, 1_000 + i));
        pipes(&mut s, 7_500, 1_000..1_060);
        for ino in (1_000..1_060).step_by(4) {
            s.holders(7_510, pipe_key(ino), holders);
        }
        let found = s.findings(8_000);
        assert_eq!(leak(&found).is_some(), want, "{name}");
        if let Some(f) = leak(&found) {
            assert_eq!(
                (role(f, "owner"), number(f, "created"), number(f, "closed")),
                (vec![900], Some(60.0), Some(0.0))
            );
            assert!(
                f.title.contains(
                    "created 60 pipes and does not close all of them: 60 are still open and no other process has them"
                ),
                "{}",
                f.title
            );
        }
    }
    let mut s = Stream::new();
    (0..60).for_each(|i| pipe(&mut s, 100 + i * 100, 1_000 + i));
    pipes(&mut s, 7_500, 1_000..1_060);
    assert!(leak(&s.findings(8_000)).is_none(), "the holders were not looked up");
}

#[test]
fn more_than_are_followed_are_counted() {
    let mut s = Stream::new();
    (0..6_000).for_each(|i| eventfd(&mut s, 100 + u64::from(i), 10 + i));
    eventfds(&mut s, 7_500, 65_536, 10..6_010);
    let found = s.findings(8_000);
    let f = leak(&found).unwrap_or_else(|| unreachable!("{found:#?}"));
    assert_eq!((number(f, "created"), number(f, "outstanding")), (Some(6_000.0), Some(4_096.0)));
}
