//! A write to a full eventfd blocks until the reader reads after 400 ms, two times, or for ever.
//!
//! Healthy: the reader reads after 5 ms.

use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use rustix::event::EventfdFlags;

use super::counter::{FULL, read, shared, write};
use super::options::Options;
use crate::stage::{Stage, Stalls};
use crate::truth::{Expected, Truth};

const ROUNDS: u64 = 2;

const WRITER: usize = 0;
const ROUND: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let endless = options.bug() && options.endless;
    let pause = Duration::from_millis(if options.bug() { 400 } else { 5 });
    let (counter, counter_of_reader, id) = shared(EventfdFlags::empty())?;
    let reader = stage.spawn(&[counter.as_raw_fd()], move || {
        stage.await_slot(WRITER, 1)?;
        for round in 1..=ROUNDS {
            stage.await_slot(ROUND, round)?;
            stage.wait_until_blocked(stage.value(WRITER) as i32, libc::SYS_write)?;
            if endless {
                stage.reach(DONE, 1);
                stage.idle();
            }
            sleep(pause);
            read(&counter_of_reader)?;
        }
        stage.idle()
    })?;
    let writer = stage.spawn(&[], move || {
        write(&counter, FULL)?;
        for round in 1..=ROUNDS {
            stage.reach(ROUND, round);
            stage.timed(|| write(&counter, 1))?;
            if round < ROUNDS {
                write(&counter, FULL - 1)?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.reach(WRITER, writer as u64);
    stage.await_slot(DONE, 1)?;
    let truth = if options.bug() {
        let expected = Expected::new("eventfd-stall").kind("eventfd").ids([&id]).pids([writer]).role("reader", reader);
        Truth::one(if endless { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        stage.stalls().allow(Truth::default(), "eventfd-stall")
    };
    Ok(truth.role("writer", [writer]).role("reader", [reader]).fact("eventfd_id", id))
}
