//! Tables of `sem-stall`: records in, findings out.

use crate::fixture::{NS, P, Stream, number, role, sem, sem_inventory, sem_limits, sem_row};
use tracer_common::event::{Body, SemFirstUse, SemSet};
use tracer_common::state::SemState;
use tracer_record::{ProcessRow, Record, State};

const OWNER: P = P(600, "script");
const HOLDER: P = P(700, "holder");
const WAITER: P = P(701, "waiter");

fn take() -> State {
    SemState::operation(0, -1).into()
}

/// The closing snapshot: the last operator, the value, and the call that the holder sleeps in.
fn close(s: &mut Stream, at: u64, value: u32, syscall: i64) {
    let rows = vec![OWNER.row('S'), ProcessRow { syscall: Some(syscall), ..HOLDER.row('S') }, WAITER.row('S')];
    let sets = vec![sem_row(5, 77, 1, &[(value, 700, 1)])];
    s.record(Record::Closing(sem_inventory(at, rows, sets, sem_limits(1, 1, 100, 100))));
}

#[test]
fn a_lock_held_long() {
    let mut s = Stream::new();
    s.sem_create(100, OWNER, 5, 77).blocked(3_000, &[(WAITER, sem(5), 1_000, None)]);
    close(&mut s, 3_000, 0, 230);
    let found = s.findings(3_000);
    let [f] = found.as_slice() else { unreachable!("{found:#?}") };
    assert_eq!(f.code, "sem-stall");
    assert_eq!((role(f, "blocked"), role(f, "holder")), (vec![701], vec![700]));
    assert_eq!((number(f, "ongoing"), number(f, "max_ms")), (Some(1.0), Some(2_000.0)));
    assert!(f.title.contains("waits in clock_nanosleep"), "{}", f.title);
}

#[test]
fn idle_servers_and_counters_are_healthy() {
    for (what, value, syscall, found) in [
        ("the holder sleeps with the lock", 0, 230, true),
        ("the holder waits for clients", 0, 232, false),
        ("it counts", 4, 230, false),
    ] {
        let mut s = Stream::new();
        s.sem_create(100, OWNER, 5, 77).blocked(3_000, &[(WAITER, sem(5), 1_000, None)]);
        close(&mut s, 3_000, value, syscall);
        assert_eq!(!s.findings(3_000).is_empty(), found, "{what}");
    }
    // Nobody is known to hold it: a consumer that waits for work.
    let mut s = Stream::new();
    s.blocked(3_000, &[(WAITER, sem(5), 1_000, None)]);
    assert!(s.findings(3_000).is_empty());
}

fn set_to(s: &mut Stream, value: u32) {
    s.event(110, OWNER, Body::SemSet(SemSet { id: 5, ns: NS, num: 0, value, all: 0, _pad: 0 }));
}

#[test]
fn a_lock_that_came_free_because_its_holder_died() {
    for by_semop in [false, true] {
        let mut s = Stream::new();
        s.sem_create(100, OWNER, 5, 77);
        if by_semop {
            s.event(110, OWNER, Body::SemFirstUse(SemFirstUse { id: 5, ns: NS }));
        } else {
            set_to(&mut s, 1);
        }
        s.event(120, HOLDER, Body::SemFirstUse(SemFirstUse { id: 5, ns: NS })).gone(2_900, HOLDER);
        s.stall_with(3_000, WAITER, sem(5), 900, None, take(), 0);
        let rows = vec![OWNER.row('S'), WAITER.row('S')];
        let sets = vec![sem_row(5, 77, 1, &[(1, 701, 0)])];
        s.record(Record::Closing(sem_inventory(4_000, rows, sets, sem_limits(1, 1, 100, 100))));
        assert!(s.findings(4_000).is_empty(), "{by_semop}");
    }
}

#[test]
fn waits_that_ended() {
    let wait_for_zero = SemState::operation(0, 0).into();
    for (what, init, state, ret, closing, found) in [
        ("got it, and it is free now", None, take(), 0, Some((1, 34)), true),
        ("a lock by its first value", Some(1), take(), 0, None, true),
        ("a counter by its first value", Some(0), take(), 0, None, false),
        ("nothing shows what it is", None, take(), 0, None, false),
        ("interrupted", Some(1), take(), -4, None, false),
        ("the set was removed", Some(1), take(), -43, None, false),
        ("waited for zero", Some(1), wait_for_zero, 0, None, false),
        ("the lock of a server that is idle now", Some(1), take(), 0, Some((0, 232)), false),
    ] {
        let mut s = Stream::new();
        s.sem_create(100, OWNER, 5, 77);
        if let Some(value) = init {
            set_to(&mut s, value);
        }
        s.event(120, HOLDER, Body::SemFirstUse(SemFirstUse { id: 5, ns: NS }));
        s.stall_with(3_000, WAITER, sem(5), 900, None, state, ret);
        if let Some((value, syscall)) = closing {
            close(&mut s, 4_000, value, syscall);
        }
        let got = s.findings(4_000);
        assert_eq!(!got.is_empty(), found, "{what}: {got:#?}");
        if let [f] = got.as_slice() {
            assert_eq!((role(f, "blocked"), role(f, "holder")), (vec![701], vec![700]), "{what}");
        }
    }
}

#[test]
fn the_holder_took_it_and_did_not_only_create_it() {
    // (SETVAL 1, the operators, those that exited, the last one according to the kernel) -> the holder; `None`: unknown
    let ended = [HOLDER, WAITER];
    for (what, given, users, gone, last, had) in [
        ("the parent lives and only made it", true, vec![HOLDER], &ended[..], 0, Some(700)),
        ("it gave the first value by semop", false, vec![OWNER, HOLDER], &ended, 700, Some(700)),
        ("the waiter was the last", false, vec![OWNER, HOLDER], &ended, 701, Some(700)),
        ("two that may have taken it", true, vec![OWNER, HOLDER], &ended, 701, None),
        ("the one of two that the kernel names", true, vec![OWNER, HOLDER], &ended, 600, Some(600)),
        ("only its maker is left of the users", false, vec![OWNER], &[], 701, None),
        ("its maker took it itself", true, vec![OWNER], &[], 701, Some(600)),
        ("all of them live", true, vec![HOLDER], &[], 700, Some(700)),
    ] {
        let mut s = Stream::new();
        s.sem_create(100, OWNER, 5, 77);
        if given {
            set_to(&mut s, 1);
        }
        for user in users {
            s.event(120, user, Body::SemFirstUse(SemFirstUse { id: 5, ns: NS }));
        }
        s.stall_with(3_000, WAITER, sem(5), 900, None, take(), 0);
        for p in gone {
            s.gone(3_500, *p);
        }
        let rows = vec![OWNER.row('S')];
        let living = [HOLDER, WAITER].into_iter().filter(|_| gone.is_empty()).map(|p| p.row('S'));
        let rows = rows.into_iter().chain(living).collect();
        let sets = vec![sem_row(5, 77, 1, &[(1, last, 0)])];
        s.record(Record::Closing(sem_inventory(4_000, rows, sets, sem_limits(1, 1, 100, 100))));
        let found = s.findings(4_000);
        let [f] = found.as_slice() else { unreachable!("{what}: {found:#?}") };
        assert_eq!(role(f, "holder"), had.into_iter().collect::<Vec<_>>(), "{what}: {}", f.title);
        assert_eq!(f.title.contains("the holder is unknown"), had.is_none(), "{what}: {}", f.title);
        // A process that has exited cannot be inspected.
        let dead = had == Some(700) && !gone.is_empty();
        let inspects = f.remedy.iter().any(|r| r.command.as_ref().is_some_and(|c| c.contains("/proc/")));
        assert_eq!(inspects, had.is_some() && !dead, "{what}: {:#?}", f.remedy);
    }
}

#[test]
fn waits_that_a_timeout_ended() {
    const EAGAIN: i64 = -11;
    // (first value given, the taker, the value and the last operator at the end, the call it sleeps in) -> reported
    for (what, given, taker, (value, last), syscall, reported) in [
        ("a lock whose holder lives", Some(1), Some(HOLDER), (0, 700), 230, true),
        ("a lock that is free now", Some(1), Some(HOLDER), (1, 700), 230, true),
        ("a lock that nobody else took", Some(1), None, (1, 0), 230, false),
        ("the holder waits for clients", Some(1), Some(HOLDER), (0, 700), 232, false),
        ("its holder is found by the kernel alone", None, None, (0, 700), 230, true),
        ("work that is counted from 0", Some(0), Some(HOLDER), (0, 700), 230, false),
        ("work that lies there at the end", None, Some(HOLDER), (1, 700), 230, false),
        ("work that the waiter itself took last", None, Some(HOLDER), (0, 701), 230, false),
        ("a counter", None, Some(HOLDER), (4, 700), 230, false),
    ] {
        let mut s = Stream::new();
        s.sem_create(100, OWNER, 5, 77);
        if let Some(value) = given {
            set_to(&mut s, value);
        }
        if let Some(p) = taker {
            s.event(120, p, Body::SemFirstUse(SemFirstUse { id: 5, ns: NS }));
        }
        for at in [2_000, 3_000] {
            s.stall_with(at, WAITER, sem(5), 500, None, take(), EAGAIN);
        }
        let rows = vec![OWNER.row('S'), ProcessRow { syscall: Some(syscall), ..HOLDER.row('S') }, WAITER.row('S')];
        let sets = vec![sem_row(5, 77, 1, &[(value, last, 0)])];
        s.record(Record::Closing(sem_inventory(4_000, rows, sets, sem_limits(1, 1, 100, 100))));
        let found = s.of("sem-stall", 4_000);
        assert_eq!(!found.is_empty(), reported, "{what}: {found:#?}");
        if let [f] = found.as_slice() {
            assert_eq!((number(f, "stalls"), number(f, "timed_out")), (Some(2.0), Some(2.0)), "{what}");
            assert!(f.title.contains("2 timed out"), "{what}: {}", f.title);
            assert_eq!(role(f, "holder"), [700], "{what}");
        }
    }
    // Timeouts without a known holder do not hide a wait that ended with the lock.
    let mut s = Stream::new();
    s.sem_create(100, OWNER, 5, 77).event(120, HOLDER, Body::SemFirstUse(SemFirstUse { id: 5, ns: NS }));
    s.stall_with(2_000, WAITER, sem(5), 500, None, take(), EAGAIN).stall_with(
        3_000,
        WAITER,
        sem(5),
        500,
        None,
        take(),
        0,
    );
    close(&mut s, 4_000, 1, 230);
    let found = s.of("sem-stall", 4_000);
    assert_eq!((found.len(), number(&found[0], "stalls")), (1, Some(1.0)));
    assert!(!found[0].evidence.contains_key("timed_out"), "{:?}", found[0].evidence);
}
