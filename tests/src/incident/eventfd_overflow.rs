//! A full eventfd refuses 200 non-blocking writes; the healthy reader drains it, and polls an empty one.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::Options;
use crate::stage::{Stage, proc};
use crate::truth::{Expected, Truth};

/// The highest value that the counter can hold.
pub(super) const FULL: u64 = u64::MAX - 1;
const REFUSALS: u64 = 200;
const EMPTY_READS: usize = 100;

const TURN: usize = 0;
const REFUSED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
    let id = proc::eventfd_id(counter.as_raw_fd()).context("fdinfo has no eventfd-id (before Linux 5.2)")?;
    let counter_of_reader = counter.try_clone()?;
    let reader = stage.spawn(&[counter.as_raw_fd()], move || {
        // Turn 1: the producer has written; turn 2: it has been read.
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
            stage.idle() // an edge-triggered loop that does not read what it is woken for
        }
        let mut next = 3;
        loop {
            stage.await_slot(TURN, next)?;
            read(&counter_of_reader)?;
            stage.reach(TURN, next + 1);
            next += 2;
        }
    })?;
    let writer = stage.spawn(&[], move || {
        write(&counter, 1)?;
        stage.reach(TURN, 1);
        stage.await_slot(TURN, 2)?;
        if bug {
            write(&counter, FULL)?;
            refuse(stage, &counter, REFUSED, REFUSALS)?;
        } else {
            for round in 0..10 {
                write(&counter, FULL)?;
                stage.reach(TURN, 3 + 2 * round);
                stage.await_slot(TURN, 4 + 2 * round)?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let truth = if bug {
        let expected = Expected::new("eventfd-overflow")
            .kind("eventfd")
            .ids([&id])
            .pids([writer])
            .exact("eagain", stage.value(REFUSED))
            .exact("counter", FULL.to_string());
        Truth::one(expected)
    } else {
        Truth::default()
    };
    Ok(truth.role("writer", [writer]).role("reader", [reader]).fact("eventfd_id", id))
}

/// Writes +1 until so many writes were refused.
pub(super) fn refuse(stage: Stage, counter: &OwnedFd, slot: usize, times: u64) -> Result<()> {
    while stage.value(slot) < times {
        match rustix::io::write(counter, &1_u64.to_ne_bytes()) {
            Ok(_) => {}
            Err(Errno::AGAIN) => stage.reach(slot, stage.value(slot) + 1),
            Err(error) => return Err(error).context("cannot write to the eventfd"),
        }
    }
    Ok(())
}

pub(super) fn write(counter: &OwnedFd, value: u64) -> Result<()> {
    rustix::io::write(counter, &value.to_ne_bytes()).map(drop).context("cannot write to the eventfd")
}

pub(super) fn read(counter: &OwnedFd) -> Result<u64> {
    let mut value = [0; 8];
    rustix::io::read(counter, &mut value).context("cannot read the eventfd")?;
    Ok(u64::from_ne_bytes(value))
}
