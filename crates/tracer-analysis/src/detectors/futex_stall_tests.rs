//! Tables of `futex-stall`: records in, findings out.

use crate::finding::{Confidence, Severity};
use crate::fixture::{MS, P, START, Stream, number, role};
use tracer_common::map::kind;
use tracer_common::state::FutexState;
use tracer_common::syscall::Syscall;
use tracer_record::{BlockedThread, FutexOwner, FutexPlace, FutexRow, FutexUser, ObjKey, Record, State};

const HOLDER: P = P(500, "holder");
const WAITER: P = P(501, "waiter");
const OTHER: P = P(502, "other");
const PATH: &str = "/dev/shm/state";
const NAMELESS: &str = "/dev/zero (deleted)";

fn at(p: P, address: u64) -> ObjKey {
    ObjKey { kind: kind::FUTEX, ns: p.0, id: address }
}

/// A mutex of glibc, held by this thread.
fn held_by(tid: u32) -> State {
    FutexState { words: [2, 0, tid, 1, 128], expected: 2, command: 0 }.into()
}

/// A semaphore that is at 0.
fn semaphore() -> State {
    FutexState { words: [0, 1, 128, 0, 0], expected: 0, command: 9 }.into()
}

fn placed(waiter: P, address: u64, path: &str, owner_tid: u32, owner: Option<P>, users: &[P]) -> FutexRow {
    FutexRow {
        obj: at(waiter, address),
        start_ns: waiter.start_ns(),
        place: Some(FutexPlace {
            dev_minor: 27,
            ino: 42,
            offset: 64,
            path: path.to_owned(),
            users: users.iter().map(|p| FutexUser { tgid: p.0, start_ns: p.start_ns(), threads: 1 }).collect(),
            complete: true,
        }),
        owner_tid,
        owner: owner.map(|p| FutexOwner { tid: p.0, tgid: p.0, start_ns: p.start_ns(), comm: p.1.to_owned() }),
    }
}

fn futexes(s: &mut Stream, rows: Vec<FutexRow>) {
    s.record(Record::Futexes { ts_ns: START, rows });
}

/// These are asleep since 1000 ms, and still at `ms`.
fn asleep(s: &mut Stream, ms: u64, waits: &[(P, u64, State)]) {
    let threads = waits
        .iter()
        .map(|(p, address, state)| BlockedThread {
            obj: at(*p, *address),
            state: *state,
            tgid: p.0,
            tid: p.0,
            start_ns: p.start_ns(),
            since_ns: START + 1_000 * MS,
            comm: p.1.to_owned(),
            call: Syscall::Futex as u8,
            fd: -1,
            estimated: false,
            reader: None,
            stack: None,
        })
        .collect();
    s.record(Record::Blocked { ts_ns: START + ms * MS, threads });
}

#[test]
fn a_lock_that_is_held_long_has_a_holder() {
    let mut s = Stream::new();
    for end in [2_000, 3_000] {
        s.stall_with(end, WAITER, at(WAITER, 0x7000), 400, None, held_by(HOLDER.0), 0);
    }
    futexes(&mut s, vec![placed(WAITER, 0x7000, PATH, HOLDER.0, Some(HOLDER), &[HOLDER, WAITER])]);
    let found = s.findings(5_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((f.code.as_str(), f.severity), ("futex-stall", Severity::Warning));
    assert_eq!((role(f, "blocked"), role(f, "holder")), (vec![WAITER.0], vec![HOLDER.0]));
    assert_eq!((number(f, "stalls"), number(f, "sharing")), (Some(2.0), Some(2.0)));
    assert!(
        f.title.contains("on /dev/shm/state at offset 0x40") && f.title.ends_with(": holder (500) held it"),
        "{}",
        f.title
    );
}

#[test]
fn two_addresses_of_one_place_are_one_futex() {
    let mut s = Stream::new();
    let users = [HOLDER, WAITER, OTHER];
    asleep(&mut s, 3_000, &[(WAITER, 0x7000, held_by(HOLDER.0)), (OTHER, 0x9000, held_by(HOLDER.0))]);
    let row = |p, address| placed(p, address, PATH, HOLDER.0, Some(HOLDER), &users);
    futexes(&mut s, vec![row(WAITER, 0x7000), row(OTHER, 0x9000)]);
    let found = s.findings(3_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!((role(f, "blocked"), number(f, "ongoing")), (vec![WAITER.0, OTHER.0], Some(2.0)));
    assert!(f.title.ends_with("holder (500) holds it"), "{}", f.title);
}

#[test]
fn a_holder_that_is_gone_is_critical() {
    // Known by an event, or by nothing but its number in the lock.
    for known in [true, false] {
        let mut s = Stream::new();
        if known {
            s.fork(10, WAITER, HOLDER).gone(1_500, HOLDER);
        }
        asleep(&mut s, 3_000, &[(WAITER, 0x7000, held_by(HOLDER.0))]);
        futexes(&mut s, vec![placed(WAITER, 0x7000, PATH, HOLDER.0, None, &[WAITER])]);
        let found = s.findings(3_000);
        let [f] = found.as_slice() else { unreachable!("{found:#?}") };
        assert_eq!((f.severity, f.confidence), (Severity::Critical, Confidence::Certain));
        assert_eq!((&f.evidence["holder_alive"], number(f, "holder_tid")), (&false.into(), Some(500.0)));
        assert_eq!(role(f, "holder").is_empty(), !known);
        assert!(f.title.contains("has exited without unlocking it"), "{}", f.title);
    }
}

#[test]
fn a_thread_that_locks_twice_waits_for_itself() {
    let mut s = Stream::new();
    asleep(&mut s, 3_000, &[(WAITER, 0x7000, held_by(WAITER.0))]);
    futexes(&mut s, vec![placed(WAITER, 0x7000, PATH, WAITER.0, Some(WAITER), &[WAITER, OTHER])]);
    let found = s.findings(3_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert!(f.title.ends_with("it holds this lock itself"), "{}", f.title);
}

#[test]
fn nobody_can_post_a_semaphore_that_all_wait_for() {
    // (path, waiters, processes that share it, found)
    for (path, waiting, sharing, found) in [
        (NAMELESS, vec![WAITER, OTHER], vec![WAITER, OTHER], true),
        (NAMELESS, vec![WAITER], vec![WAITER, OTHER], false),
        (PATH, vec![WAITER], vec![WAITER], false),
        ("/SYSV00000000 (deleted)", vec![WAITER], vec![WAITER], false),
    ] {
        let mut s = Stream::new();
        let waits: Vec<_> = waiting.iter().map(|p| (*p, 0x7000, semaphore())).collect();
        asleep(&mut s, 30_000, &waits);
        futexes(&mut s, waiting.iter().map(|p| placed(*p, 0x7000, path, 0, None, &sharing)).collect());
        let got = s.findings(30_000);
        assert_eq!(got.len(), usize::from(found), "{path}: {got:#?}");
        if let [f] = got.as_slice() {
            assert_eq!((f.severity, f.confidence), (Severity::Critical, Confidence::Likely));
        }
    }
}

#[test]
fn what_is_no_lock_between_processes_is_healthy() {
    // Waiting for work that came.
    let mut s = Stream::new();
    s.stall_with(2_000, WAITER, at(WAITER, 0x7000), 900, None, semaphore(), 0);
    futexes(&mut s, vec![placed(WAITER, 0x7000, NAMELESS, 0, None, &[WAITER])]);
    assert!(s.findings(5_000).is_empty());
    // In memory of one process: a thread that joins another.
    let mut s = Stream::new();
    asleep(&mut s, 3_000, &[(WAITER, 0x7000, held_by(HOLDER.0))]);
    futexes(&mut s, vec![FutexRow { place: None, ..placed(WAITER, 0x7000, PATH, HOLDER.0, None, &[]) }]);
    assert!(s.findings(3_000).is_empty());
    // Held for a moment.
    let mut s = Stream::new();
    asleep(&mut s, 1_050, &[(WAITER, 0x7000, held_by(HOLDER.0))]);
    assert!(s.findings(1_050).is_empty());
}
