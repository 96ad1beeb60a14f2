//! Tables of `fd-leak`: records in, findings out.

use crate::finding::{Confidence, Finding};
use crate::fixture::{P, Stream, file, files, number, role};
use tracer_common::event::{Body, FdClose, FdCloseRange, FdDup, FdSend};
use tracer_common::map::kind;
use tracer_common::site::Site;
use tracer_record::ObjKey;

const WORKER: P = P(800, "worker");
const BOSS: P = P(801, "boss");

fn close(s: &mut Stream, at: u64, fd: u32) {
    s.event(at, WORKER, Body::FdClose(FdClose { files: files(WORKER), fd, how: 0 }));
}

fn socket(id: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: 0, id }
}

fn leak(found: &[Finding]) -> Option<&Finding> {
    found.iter().find(|f| f.code == "fd-leak")
}

/// `n` of the same file, one a message, every `every_ms`.
fn same(s: &mut Stream, n: u32, every_ms: u64) {
    for i in 0..n {
        s.receive(100 + u64::from(i) * every_ms, WORKER, 10 + i, file(42), "passwd");
    }
}

#[test]
fn nothing_is_ever_closed() {
    let mut s = Stream::new();
    s.event(50, BOSS, Body::FdSend(FdSend { sock: 3, peer: 500 + 800, count: 1, _pad: 0 }));
    same(&mut s, 50, 10);
    let table = (10..60).map(|fd| (fd, "/etc/passwd".to_owned())).chain([(0, "/dev/null".to_owned())]).collect();
    s.fd_table(2_400, WORKER, 1_024, table);
    let found = s.findings(2_500);
    let Some(f) = leak(&found) else { unreachable!("{found:#?}") };
    assert_eq!((role(f, "receiver"), role(f, "sender")), (vec![800], vec![801]));
    assert_eq!(
        (number(f, "received"), number(f, "closed"), number(f, "outstanding")),
        (Some(50.0), Some(0.0), Some(50.0))
    );
    assert_eq!(f.confidence, Confidence::Certain);
    assert!(f.title.contains("passwd"), "{}", f.title);
}

#[test]
fn the_table_at_the_end_is_believed() {
    // The closes of 20 were not seen; one number is open on something else now.
    let mut s = Stream::new();
    same(&mut s, 50, 10);
    let mut table: Vec<(u32, String)> = (30..60).map(|fd| (fd, "/etc/passwd".to_owned())).collect();
    table[0].1 = "socket:[9]".to_owned();
    s.fd_table(2_400, WORKER, 1_024, table);
    let found = s.findings(2_500);
    let Some(f) = leak(&found) else { unreachable!("{found:#?}") };
    assert_eq!((number(f, "outstanding"), number(f, "closed")), (Some(29.0), Some(21.0)));
}

#[test]
fn ages_are_those_of_the_moment_when_the_table_was_read() {
    // A receiver that closes in batches is between two of them, and the rest of the closing inventory takes seconds.
    for (read_ms, found) in [(700, false), (2_400, true)] {
        let mut s = Stream::new();
        same(&mut s, 50, 10);
        s.fd_table(read_ms, WORKER, 1_024, (10..60).map(|fd| (fd, "/etc/passwd".to_owned())).collect());
        assert_eq!(leak(&s.findings(9_000)).is_some(), found, "read at {read_ms} ms");
    }
}

#[test]
fn pools_streams_and_leaks() {
    type Fill = fn(&mut Stream);
    let cases: &[(&str, bool, u64, Fill)] = &[
        ("a pool of 8 different ones, kept", false, 60_000, |s| {
            for i in 0..8u32 {
                s.receive(100 + u64::from(i), WORKER, 10 + i, socket(u64::from(i)), "");
            }
        }),
        ("a pool of 16 channels between workers, just made", false, 3_000, |s| {
            for i in 0..16u32 {
                s.receive(100 + u64::from(i) * 5, WORKER, 10 + i, socket(u64::from(i)), "");
            }
        }),
        ("8 channels kept of 15 that came in a burst, a moment ago", false, 4_500, |s| {
            for i in 0..15u32 {
                s.receive(100 + u64::from(i) * 45, WORKER, 10 + i, socket(u64::from(i)), "");
            }
            (0..7).for_each(|i| close(s, 780, 10 + i));
        }),
        ("a pool of 8 of one file, in one message", false, 60_000, |s| {
            for i in 0..8u32 {
                s.receive(100, WORKER, 10 + i, file(42), "null");
            }
        }),
        ("a pool of 8 of one file, made long ago", false, 60_000, |s| same(s, 8, 1)),
        ("8 of one file, one a request, still coming", true, 10_000, |s| same(s, 8, 1_000)),
        ("7 of one file", false, 10_000, |s| same(s, 7, 1_000)),
        ("each closed", false, 30_000, |s| {
            for i in 0..200u32 {
                let at = 100 + u64::from(i) * 100;
                s.receive(at, WORKER, 10, file(42), "passwd");
                close(s, at + 50, 10);
            }
        }),
        ("a window of 16 that moves", false, 25_000, |s| {
            for i in 0..200u32 {
                let at = 100 + u64::from(i) * 100;
                s.receive(at, WORKER, 10 + i, file(42), "passwd");
                if i >= 16 {
                    close(s, at + 1, 10 + i - 16);
                }
            }
        }),
        ("each tenth forgotten", true, 25_000, |s| {
            for i in 0..200u32 {
                let at = 100 + u64::from(i) * 100;
                s.receive(at, WORKER, 10 + i, file(42), "passwd");
                if i % 10 != 0 {
                    close(s, at + 50, 10 + i);
                }
            }
        }),
        ("each tenth connection forgotten", true, 25_000, |s| {
            for i in 0..200u32 {
                let at = 100 + u64::from(i) * 100;
                s.receive(at, WORKER, 10 + i, socket(u64::from(i)), "");
                if i % 10 != 0 {
                    close(s, at + 50, 10 + i);
                }
            }
        }),
        ("a pool of 10 made at the start, and traffic that is closed", false, 25_000, |s| {
            for i in 0..10u32 {
                s.receive(100, WORKER, 500 + i, file(42), "passwd");
            }
            for i in 0..100u32 {
                let at = 200 + u64::from(i) * 100;
                s.receive(at, WORKER, 10, file(42), "passwd");
                close(s, at + 50, 10);
            }
        }),
        ("different ones, more and more", true, 60_000, |s| {
            for i in 0..50u32 {
                s.receive(100 + u64::from(i) * 1_000, WORKER, 10 + i, socket(u64::from(i)), "");
            }
        }),
        ("just received", false, 700, |s| same(s, 50, 1)),
        ("closed by close_range", false, 5_000, |s| {
            same(s, 50, 1);
            let range = FdCloseRange { files: files(WORKER), first: 3, last: u32::MAX, cloexec: 0, _pad: 0 };
            s.event(1_000, WORKER, Body::FdCloseRange(range));
        }),
        ("close_range only marks them", true, 5_000, |s| {
            same(s, 50, 1);
            let range = FdCloseRange { files: files(WORKER), first: 3, last: u32::MAX, cloexec: 1, _pad: 0 };
            s.event(1_000, WORKER, Body::FdCloseRange(range));
        }),
        ("duplicated, and only the original closed", true, 5_000, |s| {
            same(s, 30, 1);
            for i in 0..30 {
                s.event(500, WORKER, Body::FdDup(FdDup { files: files(WORKER), old: 10 + i, new: 100 + i }));
                close(s, 501, 10 + i);
            }
        }),
        ("it ended", false, 5_000, |s| {
            same(s, 50, 1);
            s.gone(1_000, WORKER);
        }),
    ];
    for (what, is_leak, at, fill) in cases {
        let mut s = Stream::new();
        fill(&mut s);
        let found = s.findings(*at);
        assert_eq!(leak(&found).is_some(), *is_leak, "{what}: {found:#?}");
    }
}

#[test]
fn over_half_of_the_limit() {
    let mut s = Stream::new();
    for i in 0..20u32 {
        s.receive(100, WORKER, 10 + i, socket(u64::from(i)), "");
    }
    assert!(s.findings(200).is_empty());
    let table = (10..30).map(|fd| (fd, format!("socket:[{}]", fd - 10))).collect();
    s.fd_table(300, WORKER, 32, table);
    assert!(leak(&s.findings(400)).is_some());
}

#[test]
fn a_copy_in_a_child_is_not_the_parents() {
    let mut s = Stream::new();
    same(&mut s, 9, 100);
    s.fork(2_000, WORKER, P(802, "child"));
    for i in 0..9 {
        close(&mut s, 2_100, 10 + i);
    }
    assert!(s.findings(5_000).is_empty());
}

#[test]
fn losses_make_it_uncertain() {
    let mut s = Stream::new();
    same(&mut s, 50, 10);
    s.lost(900, Site::FdClose);
    assert_eq!(leak(&s.findings(3_000)).map(|f| f.confidence), Some(Confidence::Uncertain));
}

#[test]
fn only_one_sender_without_a_known_peer() {
    for (senders, want) in [(vec![BOSS], vec![801]), (vec![BOSS, P(802, "other")], vec![])] {
        let mut s = Stream::new();
        for p in senders {
            s.event(50, p, Body::FdSend(FdSend { sock: 3, peer: 0, count: 1, _pad: 0 }));
        }
        same(&mut s, 50, 10);
        assert_eq!(leak(&s.findings(3_000)).map(|f| role(f, "sender")), Some(want));
    }
}
