//! A process holds a lock for 400 ms while another one waits, three times, or for ever.
//!
//! Healthy: the process holds the lock for 5 ms.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::SemSet;
use crate::stage::{Stage, Stalls};
use crate::truth::{Expected, Truth};

const ROUNDS: u64 = 3;

const HELD: usize = 0;
const DONE: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let endless = options.bug() && options.endless;
    let hold = Duration::from_millis(if options.bug() { 400 } else { 5 });
    let lock = SemSet::create(libc::IPC_PRIVATE, 1).context("cannot create a semaphore set")?;
    stage.own_sem(lock.0);
    lock.set_value(1)?;

    let holder = stage.spawn(&[], move || {
        for round in 1..=ROUNDS {
            lock.op(-1, 0).context("cannot take the lock")?;
            stage.reach(HELD, round);
            stage.wait_for("the waiter to block", || Ok(lock.waiting()? == 1))?;
            if endless {
                stage.reach(DONE, ROUNDS);
                stage.busy();
            }
            sleep(hold);
            lock.op(1, 0).context("cannot release the lock")?;
            stage.await_slot(DONE, round)?;
        }
        stage.idle()
    })?;
    let waiter = stage.spawn(&[], move || {
        for round in 1..=ROUNDS {
            stage.await_slot(HELD, round)?;
            stage.timed(|| lock.op(-1, 0)).context("cannot take the lock")?;
            lock.op(1, 0).context("cannot release the lock")?;
            stage.reach(DONE, round);
        }
        stage.idle()
    })?;
    stage.await_slot(DONE, ROUNDS)?;

    let truth = if options.bug() {
        let expected = Expected::new("sem-stall").kind("sem").ids([lock.0]).pids([waiter]).role("holder", holder);
        Truth::one(if endless { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        stage.stalls().allow(Truth::default(), "sem-stall")
    };
    Ok(truth.role("holder", [holder]).role("waiter", [waiter]).fact("semid", lock.0))
}
