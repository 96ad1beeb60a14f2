//! A process holds a lock in shared memory for 400 ms three times, for ever, or until it is killed.
//!
//! Healthy: it holds the lock for 5 ms; the waiter takes over a robust lock from a killed holder; idle workers wait for a
//! semaphore that another process can still post.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::{LockKind, Options};
use crate::call::{self, MutexKind, SharedLock, SharedSemaphore};
use crate::stage::{Stage, Stalls, pid};
use crate::truth::{Expected, Truth};

const ROUNDS: u64 = 3;
const HOLD: Duration = Duration::from_millis(400);
const SHORT_HOLD: Duration = Duration::from_millis(5);
const IDLERS: usize = 2;

const WAITER: usize = 0;
const HELD: usize = 1;
const TAKEN: usize = 2;
const DONE: usize = 3;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let kind = match options.lock {
        LockKind::Plain => MutexKind::Plain,
        LockKind::Robust => MutexKind::Robust,
        LockKind::Inherit => MutexKind::Inherit,
        LockKind::Semaphore => return semaphore(stage, options),
    };
    mutex(stage, options, kind)
}

fn mutex(stage: Stage, options: &Options, kind: MutexKind) -> Result<Truth> {
    let lock = SharedLock::create(kind).context("cannot make a lock")?;
    let (bug, endless, killed) = (options.bug(), options.endless, options.killed);
    let hold = if bug { HOLD } else { SHORT_HOLD };
    let holder = stage.spawn(&[], move || {
        stage.await_slot(WAITER, 1)?;
        for round in 1..=ROUNDS {
            lock.lock().context("cannot lock")?;
            stage.reach(HELD, round);
            stage.wait_until_blocked(stage.value(WAITER) as i32, libc::SYS_futex)?;
            if killed {
                call::kill(pid(), libc::SIGKILL)?;
            }
            if endless {
                stage.reach(DONE, 1);
                stage.busy();
            }
            sleep(hold);
            lock.unlock().context("cannot unlock")?;
            stage.await_slot(TAKEN, round)?;
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    let waiter = stage.spawn(&[], move || {
        for round in 1..=ROUNDS {
            stage.await_slot(HELD, round)?;
            stage.timed(|| lock.lock()).context("cannot lock")?;
            lock.unlock().context("cannot unlock")?;
            stage.reach(TAKEN, round);
            if killed {
                break;
            }
        }
        stage.idle()
    })?;
    stage.reach(WAITER, waiter as u64);
    if killed {
        call::wait_for_pid(holder).context("cannot wait for the holder")?;
    } else {
        stage.await_slot(DONE, 1)?;
    }
    let truth = if bug {
        let expected = Expected::new("futex-stall")
            .kind("futex")
            .pids([waiter])
            .role("blocked", waiter)
            .exact("holder_tid", holder)
            .exact("holder_alive", !killed);
        // If the holder died before tracing began, only its tid is known.
        let expected = if killed { expected } else { expected.role("holder", holder) };
        Truth::one(if endless || killed { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        if killed {
            stage.await_slot(TAKEN, 1)?;
        }
        stage.stalls().allow(Truth::default(), "futex-stall")
    };
    Ok(truth.role("holder", [holder]).role("waiter", [waiter]))
}

/// Workers wait for a semaphore. In the bug only they map it, so no process can wake them.
fn semaphore(stage: Stage, options: &Options) -> Result<Truth> {
    let semaphore = SharedSemaphore::create().context("cannot make a semaphore")?;
    let mut idlers = Vec::new();
    for _ in 0..IDLERS {
        idlers.push(stage.spawn(&[], move || {
            semaphore.wait().context("cannot wait")?;
            stage.idle()
        })?);
    }
    if options.bug() {
        semaphore.unmap().context("cannot unmap")?;
    }
    for idler in &idlers {
        stage.wait_until_blocked(*idler, libc::SYS_futex)?;
    }
    let truth = if options.bug() {
        let expected = Expected::new("futex-stall").kind("futex").pids(idlers.clone()).exact("sharing", IDLERS);
        Truth::one(Stalls::ongoing(expected).exact("ongoing", IDLERS).exact("stalls", IDLERS))
    } else {
        // Longer than --min-stall.
        sleep(HOLD);
        Truth::default()
    };
    Ok(truth.role("worker", idlers))
}
