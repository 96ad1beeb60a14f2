//! A full eventfd refuses 200 non-blocking writes.
//!
//! Healthy: the reader drains the eventfd each time, and also reads it while it is empty.

use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use rustix::event::EventfdFlags;
use rustix::io::Errno;

use super::counter::{FULL, overflow, overflowed, read, shared, write};
use super::options::Options;
use crate::stage::Stage;
use crate::truth::Truth;

const EMPTY_READS: usize = 100;
/// Times that the healthy writer fills the eventfd.
const ROUNDS: u64 = 10;

const TURN: usize = 0;
const DONE: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (counter, counter_of_reader, id) = shared(EventfdFlags::NONBLOCK)?;
    let reader = stage.spawn(&[counter.as_raw_fd()], move || {
        // Odd turns follow a write, even turns follow a read.
        stage.await_slot(TURN, 1)?;
        read(&counter_of_reader)?;
        if !bug {
            for _ in 0..EMPTY_READS {
                let empty = rustix::io::read(&counter_of_reader, &mut [0_u8; 8]);
                ensure!(empty == Err(Errno::AGAIN), "the eventfd was not empty");
            }
        }
        stage.reach(TURN, 2);
        if bug {
            stage.idle() // the bug: an edge-triggered loop that does not read after a wake-up
        }
        for round in 0..ROUNDS {
            stage.await_slot(TURN, 3 + 2 * round)?;
            read(&counter_of_reader)?;
            stage.reach(TURN, 4 + 2 * round);
        }
        stage.idle()
    })?;
    let writer = stage.spawn(&[], move || {
        write(&counter, 1)?;
        stage.reach(TURN, 1);
        stage.await_slot(TURN, 2)?;
        if bug {
            write(&counter, FULL)?;
            overflow(stage, &counter)?;
        } else {
            for round in 0..ROUNDS {
                write(&counter, FULL)?;
                stage.reach(TURN, 3 + 2 * round);
                stage.await_slot(TURN, 4 + 2 * round)?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    Ok(overflowed(stage, &id, writer).role("writer", [writer]).role("reader", [reader]).fact("eventfd_id", id))
}
