//! A program creates sets until semget fails with ENOSPC, in an IPC namespace of its own with small limits.
//!
//! Healthy: the program removes each set before it creates the next.

use anyhow::{Context, Result, bail};

use super::options::{Limit, Options};
use crate::call::{self, SemSet};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const SETS: u64 = 8;
const SEMS_PER_SET: u64 = 8;
const FAILURES: u64 = 4;

const MADE: usize = 0;
const FAILED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (bug, limit) = (options.bug(), options.limit);
    // The namespace takes its sets with it when its last process ends.
    let creator = stage.spawn(&[], move || {
        call::unshare(libc::CLONE_NEWIPC).context("cannot make an IPC namespace; run as root")?;
        let (semmns, semmni) = match limit {
            Limit::Semmns => (SETS * SEMS_PER_SET, 128),
            Limit::Semmni | Limit::Shmmni | Limit::Shmall => (32_000, SETS),
        };
        std::fs::write("/proc/sys/kernel/sem", format!("250 {semmns} 100 {semmni}"))
            .context("cannot set the limits of the namespace in /proc/sys/kernel/sem")?;
        if bug {
            exhaust(stage)?
        } else {
            reuse()?
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    if !bug {
        return Ok(Truth::default().role("creator", [creator]));
    }
    let (used, name) = match limit {
        Limit::Semmns => (stage.value(MADE) * SEMS_PER_SET, "SEMMNS"),
        Limit::Semmni | Limit::Shmmni | Limit::Shmall => (stage.value(MADE), "SEMMNI"),
    };
    let expected = Expected::new("sem-exhausted")
        .pids([creator])
        .limit(name)
        .exact("failed", stage.value(FAILED))
        .exact("used", used)
        .exact("max", used);
    Ok(Truth::one(expected).may("sem-leak").role("creator", [creator]))
}

fn exhaust(stage: Stage) -> Result<()> {
    while stage.value(FAILED) < FAILURES {
        match SemSet::create(libc::IPC_PRIVATE, SEMS_PER_SET as i32) {
            Ok(_) if stage.value(MADE) == SETS => bail!("semget did not fail at the limit of {SETS} sets"),
            Ok(_) => stage.reach(MADE, stage.value(MADE) + 1),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                stage.reach(FAILED, stage.value(FAILED) + 1);
            }
            Err(error) => return Err(error).context("cannot create a semaphore set"),
        }
    }
    Ok(())
}

fn reuse() -> Result<()> {
    for _ in 0..SETS * 3 {
        SemSet::create(libc::IPC_PRIVATE, SEMS_PER_SET as i32)
            .and_then(SemSet::remove)
            .context("cannot create and remove a semaphore set")?;
    }
    Ok(())
}
