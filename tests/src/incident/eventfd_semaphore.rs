//! An eventfd with EFD_SEMAPHORE and EFD_NONBLOCK, and a producer that ignores the result of write.
//!
//! One large write replaces the days that +1 writes would need.
//! Healthy: the producer writes no more than the consumer takes.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use rustix::event::EventfdFlags;

use super::counter::{FULL, overflow, overflowed, read, shared, write};
use super::options::Options;
use crate::stage::Stage;
use crate::truth::Truth;

const ROOM: u64 = 100;
const CONSUMED: u64 = 50;

const TURN: usize = 0;
const DONE: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (counter, counter_of_reader, id) = shared(EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE)?;
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
            // The spike: 50 more fit, 200 are lost without notice.
            overflow(stage, &counter)?;
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    Ok(overflowed(stage, &id, producer).role("writer", [producer]).role("reader", [consumer]).fact("eventfd_id", id))
}
