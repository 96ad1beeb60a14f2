//! Creates and removes semaphore sets as fast as it can. Healthy.

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::SemSet;
use crate::stage::Stage;
use crate::truth::Truth;

const TIMES: usize = 20_000;

pub(super) fn play(stage: Stage, _: &Options) -> Result<Truth> {
    let worker = stage.spawn(&[], || {
        for _ in 0..TIMES {
            SemSet::create(libc::IPC_PRIVATE, 1)
                .and_then(SemSet::remove)
                .context("cannot create and remove a semaphore set")?;
        }
        Ok(())
    })?;
    stage.join(worker)?;
    Ok(Truth::default().role("worker", [worker]).fact("sets", TIMES))
}
