//! An unprivileged user at RLIMIT_NPROC: fork fails with EAGAIN.
//!
//! Healthy: the parent reaps each child before it forks the next.

use anyhow::{Context, Result, ensure};

use super::options::Options;
use crate::call;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const USER_OF_BUG: u32 = 65_531;
const USER_OF_FIXED: u32 = 65_530;
const NPROC: u64 = 10;
const FAILURES: u64 = 5;

const MADE: usize = 0;
const FAILED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let parent = stage.spawn(&[], move || {
        call::set_limit(libc::RLIMIT_NPROC, NPROC, NPROC).context("cannot set RLIMIT_NPROC")?;
        stage.become_user(if bug { USER_OF_BUG } else { USER_OF_FIXED })?;
        if bug {
            exhaust(stage)?
        } else {
            stay_below(stage)?
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    if !bug {
        return Ok(Truth::default().role("parent", [parent]));
    }
    let used = stage.value(MADE) + 1; // the parent counts, too
    ensure!(
        used == NPROC,
        "fork failed at {used} processes, expected {NPROC}; end other processes of user {USER_OF_BUG}"
    );
    let expected = Expected::new("pid-exhausted")
        .role("parent", parent)
        .limit("RLIMIT_NPROC")
        .exact("failed", stage.value(FAILED))
        .exact("used", used)
        .exact("max", NPROC);
    Ok(Truth::one(expected).role("parent", [parent]))
}

fn exhaust(stage: Stage) -> Result<()> {
    while stage.value(FAILED) < FAILURES {
        match stage.spawn(&[], || stage.idle()) {
            Ok(_) => stage.reach(MADE, stage.value(MADE) + 1),
            Err(error) => {
                let errno = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
                ensure!(errno == Some(libc::EAGAIN), "fork failed, but not with EAGAIN: {error:#}");
                stage.reach(FAILED, stage.value(FAILED) + 1);
            }
        }
    }
    Ok(())
}

fn stay_below(stage: Stage) -> Result<()> {
    for _ in 0..NPROC * 2 {
        let child = stage.spawn(&[], || Ok(()))?;
        stage.join(child)?;
    }
    Ok(())
}
