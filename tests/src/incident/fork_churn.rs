//! Processes that come and go as fast as they can, each with a pipe, an eventfd and a semaphore set; nothing is leaked.

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};

use super::options::Options;
use crate::call::{self, SemSet};
use crate::stage::Stage;
use crate::truth::Truth;

/// So many have come and gone before it is worth looking.
const FIRST: u64 = 50;

const GONE: usize = 0;

pub(super) fn play(stage: Stage, _: &Options) -> Result<Truth> {
    let parent = stage.spawn(&[], move || {
        loop {
            // Not by the stage, which keeps a list of all processes.
            let Some(child) = call::fork().context("cannot fork")? else {
                call::exit_now(i32::from(live().is_err()));
            };
            anyhow::ensure!(call::wait_for_pid(child)? == Some(0), "a process of the storm failed");
            stage.reach(GONE, stage.value(GONE) + 1);
        }
    })?;
    stage.await_slot(GONE, FIRST)?;
    Ok(Truth::default().role("parent", [parent]))
}

fn live() -> Result<()> {
    let (_reader, _writer) = rustix::pipe::pipe()?;
    let _event = eventfd(1, EventfdFlags::empty())?;
    let set = SemSet::create(libc::IPC_PRIVATE, 1)?;
    set.set_value(1)?;
    Ok(set.remove()?)
}
