//! Tables of `sem-stall`: records in, findings out.

use crate::record::{ProcessRow, Record, State};
use crate::world::fixture::{P, Stream, number, role, sem, sem_inventory, sem_limits, sem_row};

const OWNER: P = P(600, "script");
const HOLDER: P = P(700, "holder");
const WAITER: P = P(701, "waiter");

fn take() -> State {
    State { a: 0, b: 0, c: u64::MAX }
}

/// The closing inventory: who operated last, the value, and the call that the holder sleeps in.
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

#[test]
fn waits_that_did_not_end_with_the_lock() {
    for (what, state, ret, found) in [
        ("got it", take(), 0, true),
        ("interrupted", take(), -4, false),
        ("the set was removed", take(), -43, false),
        ("waited for zero", State { a: 1, ..take() }, 0, false),
    ] {
        let mut s = Stream::new();
        s.stall_with(3_000, WAITER, sem(5), 900, None, state, ret);
        let got = s.findings(4_000);
        assert_eq!(!got.is_empty(), found, "{what}: {got:#?}");
    }
}
