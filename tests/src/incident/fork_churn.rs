//! Starts short-lived processes as fast as it can, each with a pipe, an eventfd and a semaphore set. Healthy.

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};

use super::options::Options;
use crate::call::{self, SemSet};
use crate::stage::Stage;
use crate::truth::Truth;

/// Processes that have ended before the workload is complete.
const FIRST: u64 = 50;

/// Slot with the number of ended processes.
const GONE: usize = 0;

pub(super) fn play(stage: Stage, _: &Options) -> Result<Truth> {
    let parent = stage.spawn(&[], move || {
        loop {
            // Not Stage::spawn, which stores the pid of every process.
            let Some(child) = call::fork().context("cannot fork")? else {
                call::exit_now(i32::from(live().is_err()));
            };
            anyhow::ensure!(call::wait_for_pid(child)? == Some(0), "a short-lived process failed");
            stage.reach(GONE, stage.value(GONE) + 1);
        }
    })?;
    stage.await_slot(GONE, FIRST)?;
    Ok(Truth::default().role("parent", [parent]))
}

/// Uses one pipe, one eventfd and one semaphore set.
fn live() -> Result<()> {
    let (_reader, _writer) = rustix::pipe::pipe()?;
    let _event = eventfd(1, EventfdFlags::empty())?;
    let set = SemSet::create(libc::IPC_PRIVATE, 1)?;
    set.set_value(1)?;
    Ok(set.remove()?)
}
