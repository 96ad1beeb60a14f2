//! A lock holder is killed. Without SEM_UNDO the lock is never released.
//!
//! Healthy: with SEM_UNDO the kernel releases the lock.

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::{self, SemSet};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const WAITERS: u64 = 3;

const HELD: usize = 0;
const PASSED: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let undo = if bug { 0 } else { libc::SEM_UNDO };
    let lock = SemSet::create(libc::IPC_PRIVATE, 1).context("cannot create a semaphore set")?;
    stage.own_sem(lock.0);
    lock.set_value(1)?;

    let holder = stage.spawn(&[], move || {
        lock.op(-1, undo).context("cannot take the lock")?;
        stage.reach(HELD, 1);
        stage.idle()
    })?;
    stage.await_slot(HELD, 1)?;

    let mut waiters = Vec::new();
    for _ in 0..WAITERS {
        waiters.push(stage.spawn(&[], move || {
            stage.timed(|| lock.op(-1, undo)).context("cannot take the lock")?;
            lock.op(1, undo).context("cannot release the lock")?;
            stage.slot(PASSED).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            stage.idle()
        })?);
    }
    stage.wait_for("all waiters to block", || Ok(lock.waiting()? == WAITERS as i32))?;
    call::kill(holder, libc::SIGKILL)?;
    call::wait_for_pid(holder)?;

    let truth = if bug {
        let expected = Expected::new("sem-orphaned-lock")
            .kind("sem")
            .ids([lock.0])
            .pids(waiters.iter().copied())
            .role("holder", holder)
            .exact("waiters", WAITERS);
        // The waiters block for ever, because no living process can release the lock.
        Truth::one(expected).may("sem-stall").may("deadlock")
    } else {
        stage.await_slot(PASSED, WAITERS)?;
        stage.stalls().allow(Truth::default(), "sem-stall")
    };
    Ok(truth.role("holder", [holder]).role("waiter", waiters).fact("semid", lock.0))
}
