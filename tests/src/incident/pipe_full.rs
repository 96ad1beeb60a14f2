//! A non-blocking writer gets EAGAIN 50 times while the reader sleeps.
//!
//! Healthy: the writer polls, and the reader drains the pipe.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::options::Options;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const REFUSALS: u64 = 50;
/// PIPE_BUF bytes: a write of this size fits if poll reports POLLOUT.
const LINE: [u8; 4096] = [b'.'; 4096];
const HEALTHY_LINES: usize = 256;

const READ_ONCE: usize = 0;
const REFUSED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).context("cannot make a pipe")?;
    let inode = rustix::fs::fstat(&reader)?.st_ino;
    let consumer = stage.spawn(&[writer.as_raw_fd()], move || {
        let mut buffer = [0; 65536];
        loop {
            poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).context("cannot poll")?;
            rustix::io::read(&reader, &mut buffer).context("cannot read")?;
            stage.reach(READ_ONCE, 1);
            if bug {
                stage.idle()
            }
        }
    })?;
    let producer = stage.spawn(&[], move || {
        if bug {
            rustix::io::write(&writer, &LINE).context("cannot write")?;
            stage.await_slot(READ_ONCE, 1)?;
            while stage.value(REFUSED) < REFUSALS {
                match rustix::io::write(&writer, &LINE) {
                    Ok(_) => {}
                    Err(Errno::AGAIN) => stage.reach(REFUSED, stage.value(REFUSED) + 1),
                    Err(error) => return Err(error).context("cannot write"),
                }
            }
        } else {
            for _ in 0..HEALTHY_LINES {
                poll(&mut [PollFd::new(&writer, PollFlags::OUT)], None).context("cannot poll")?;
                if rustix::io::write(&writer, &LINE).context("cannot write")? != LINE.len() {
                    bail!("a line did not fit although poll reported room");
                }
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let truth = if bug {
        let expected = Expected::new("pipe-full")
            .kind("pipe")
            .ids([inode])
            .pids([producer])
            .role("reader", consumer)
            .exact("eagain", stage.value(REFUSED));
        Truth::one(expected)
    } else {
        Truth::default()
    };
    Ok(truth.role("writer", [producer]).role("reader", [consumer]).fact("inode", inode))
}
