//! Workers create a semaphore set each; workers that cannot reach their database return early, without IPC_RMID.
//!
//! Healthy: all workers remove their sets.

use anyhow::{Context, Result, bail};

use super::options::Options;
use crate::call::SemSet;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const WORKERS: usize = 24;
/// Every sixth worker reaches its database and removes its set, also in the bug.
const GOOD_EVERY: usize = 6;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (mut workers, mut leaked, mut leakers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WORKERS {
        let removes = !options.bug() || number % GOOD_EVERY == 0;
        let keyed = options.keyed;
        let worker = stage.spawn(&[], move || work(stage, keyed, removes))?;
        stage.join(worker)?;
        workers.push(worker);
        if !removes {
            leaked.push(stage.value(ID));
            leakers.push(worker);
        }
    }
    if !options.bug() {
        return Ok(Truth::default().role("worker", workers));
    }
    let expected = Expected::new("sem-leak").kind("sem").exact("instances", leaked.len()).ids(leaked).pids(leakers);
    Ok(Truth::one(expected).role("worker", workers))
}

/// Slot with the id of the last set.
const ID: usize = 0;

fn work(stage: Stage, keyed: bool, removes: bool) -> Result<()> {
    let set = if keyed { create_keyed()? } else { SemSet::create(libc::IPC_PRIVATE, 1)? };
    stage.own_sem(set.0);
    stage.reach(ID, set.0 as u64);
    set.set_value(1).context("cannot set the semaphore's value")?;
    let database_reachable = removes;
    if !database_reachable {
        return Ok(()); // the bug: no IPC_RMID
    }
    set.remove().context("cannot remove the semaphore set")?;
    stage.forget_sem(set.0);
    Ok(())
}

fn create_keyed() -> Result<SemSet> {
    for key in 0x4950_4301..0x4950_43ff {
        match SemSet::create(key, 1) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            result => return result.context("cannot create a semaphore set"),
        }
    }
    bail!("all keys from 0x49504301 to 0x495043fe are in use; remove leftover sets with ipcrm (see ipcs -s)")
}
