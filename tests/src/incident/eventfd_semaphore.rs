//! The seed's eventfd: EFD_SEMAPHORE, EFD_NONBLOCK, and a producer that does not look at what write returns.
//!
//! One large write stands for the days that +1 writes would need.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};

use super::Options;
use super::eventfd_overflow::{FULL, read, refuse, write};
use crate::stage::{Stage, proc};
use crate::truth::{Expected, Truth};

const ROOM: u64 = 100;
const CONSUMED: u64 = 50;
const REFUSALS: u64 = 200;

const TURN: usize = 0;
const REFUSED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
    let counter = eventfd(0, flags).context("cannot make an eventfd")?;
    let id = proc::eventfd_id(counter.as_raw_fd()).context("fdinfo has no eventfd-id (before Linux 5.2)")?;
    let counter_of_reader = counter.try_clone()?;
    let consumer = stage.spawn(&[counter.as_raw_fd()], move || {
        stage.await_slot(TURN, 1)?;
        for _ in 0..CONSUMED {
            ensure!(read(&counter_of_reader)? == 1, "a semaphore eventfd gives one at a time");
        }
        stage.reach(TURN, 2);
        stage.idle()
    })?;
    let producer = stage.spawn(&[], move || {
        if bug {
            write(&counter, FULL - ROOM)?;
        }
        for _ in 0..if bug { ROOM } else { CONSUMED } {
            write(&counter, 1)?;
        }
        stage.reach(TURN, 1);
        stage.await_slot(TURN, 2)?;
        if bug {
            // The spike: 50 more fit, 200 are lost without anybody noticing.
            refuse(stage, &counter, REFUSED, REFUSALS)?;
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let truth = if bug {
        let expected = Expected::new("eventfd-overflow")
            .kind("eventfd")
            .ids([&id])
            .pids([producer])
            .exact("eagain", stage.value(REFUSED))
            .exact("counter", FULL.to_string());
        Truth::one(expected)
    } else {
        Truth::default()
    };
    Ok(truth.role("writer", [producer]).role("reader", [consumer]).fact("eventfd_id", id))
}
