//! A process sends twenty descriptors to a process that never receives them.
//!
//! Healthy: the receiver receives and closes them.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use super::passing;
use crate::call::{control_bytes, recv_fds};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const MESSAGES: usize = 5;
const FDS_EACH: usize = 4;
/// Longer than a busy receiver pauses.
const LONG: Duration = Duration::from_millis(1_500);

const RECEIVED: usize = 0;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (ours, theirs) = passing::pair()?;
    let inode = rustix::fs::fstat(&theirs)?.st_ino;
    let receiver = stage.spawn(&[ours.as_raw_fd()], move || {
        if bug {
            stage.idle();
        }
        loop {
            recv_fds(&theirs, control_bytes(FDS_EACH), libc::MSG_CMSG_CLOEXEC).context("cannot receive")?;
            stage.reach(RECEIVED, stage.value(RECEIVED) + 1);
        }
    })?;
    let sender = stage.spawn(&[], move || {
        for _ in 0..MESSAGES {
            let file = File::open(passing::FILE)?;
            passing::send(&ours, file.as_fd(), FDS_EACH)?;
        }
        stage.reach(passing::SENT, 1);
        stage.idle()
    })?;
    stage.await_slot(passing::SENT, 1)?;
    if !bug {
        stage.await_slot(RECEIVED, MESSAGES as u64)?;
        return Ok(Truth::default().role("sender", [sender]).role("receiver", [receiver]));
    }
    sleep(LONG);
    let expected = Expected::new("fd-inflight")
        .kind("socket")
        .ids([inode])
        .role("sender", sender)
        .role("receiver", receiver)
        .exact("queued", MESSAGES * FDS_EACH);
    Ok(Truth::one(expected).role("sender", [sender]).role("receiver", [receiver]).fact("inode", inode))
}
