//! A consumer pauses for 500 ms three times, or for ever, and its producer blocks at the pipe of 64 KiB.
//!
//! Healthy: the pipe holds 1 MiB, so the producer does not block.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

use super::options::Options;
use crate::stage::{Stage, Stalls};
use crate::truth::{Expected, Truth};

const PAUSES: u64 = 3;
const PAUSE: Duration = Duration::from_millis(500);
const LINES: [u8; 4096] = [b'.'; 4096];
/// Interval of the healthy producer: 1 MB/s, half of its pipe in one pause.
const LINE_EVERY: Duration = Duration::from_millis(4);
const LARGE: usize = 1 << 20;
const READ_BETWEEN: usize = 256 * 1024;

const PRODUCER: usize = 0;
const STOP: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let endless = bug && options.endless;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let inode = rustix::fs::fstat(&reader)?.st_ino;
    if !bug {
        fcntl_setpipe_size(&writer, LARGE).context("cannot enlarge the pipe")?;
    }
    let capacity = fcntl_getpipe_size(&writer)?;

    let consumer = stage.spawn(&[writer.as_raw_fd()], move || consume(stage, &reader, bug, endless))?;
    let producer = stage.spawn(&[], move || {
        while stage.value(STOP) == 0 {
            stage.timed(|| rustix::io::write(&writer, &LINES)).context("cannot write")?;
            if !bug {
                sleep(LINE_EVERY);
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.reach(PRODUCER, producer as u64);
    stage.await_slot(DONE, 1)?;

    let truth = if bug {
        let expected = Expected::new("pipe-stall")
            .kind("pipe")
            .ids([inode])
            .pids([producer])
            .role("reader", consumer)
            .exact("capacity_bytes", capacity);
        Truth::one(if endless { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        stage.stalls().allow(Truth::default(), "pipe-stall")
    };
    Ok(truth.role("writer", [producer]).role("reader", [consumer]).fact("inode", inode))
}

fn consume(stage: Stage, reader: &OwnedFd, until_blocked: bool, endless: bool) -> Result<()> {
    let mut buffer = [0; 65536];
    stage.await_slot(PRODUCER, 1)?;
    for _ in 0..PAUSES {
        let mut total = 0;
        loop {
            let read = rustix::io::read(reader, &mut buffer).context("cannot read")?;
            total += read;
            // The healthy consumer catches up: a short read means that the pipe is empty.
            if if until_blocked { total >= READ_BETWEEN } else { read < buffer.len() } {
                break;
            }
        }
        if until_blocked {
            stage.wait_until_blocked(stage.value(PRODUCER) as i32, libc::SYS_write)?;
        }
        if endless {
            stage.reach(DONE, 1);
            stage.idle();
        }
        sleep(PAUSE);
    }
    stage.reach(STOP, 1);
    loop {
        rustix::io::read(reader, &mut buffer).context("cannot read")?;
    }
}
