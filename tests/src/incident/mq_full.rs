//! A POSIX queue stays full while its receiver sleeps: 50 sends get EAGAIN, and two sends with a timeout of 0 time out.
//!
//! Healthy: the sender polls, and the receiver drains the queue.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::options::Options;
use crate::call::Mq;
use crate::stage::{Named, Stage};
use crate::truth::{Expected, Truth};

const REFUSALS: u64 = 50;
const TIMED_OUT: u64 = 2;
const HEALTHY_MESSAGES: usize = 256;
/// Messages and bytes per message of the queue.
const SIZE: (i64, i64) = (4, 8);

const OPEN: usize = 0;
const TAKEN: usize = 1;
const REFUSED: usize = 2;
const DONE: usize = 3;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let name = stage.own_name(Named::Mq, 0);
    let text = stage.text_of(name);
    let of_receiver = text.clone();
    let receiver = stage.spawn(&[], move || {
        stage.await_slot(OPEN, 1)?;
        let queue = Mq::open(&of_receiver, libc::O_RDONLY, SIZE).context("cannot open the queue")?;
        stage.reach(OPEN, 2);
        loop {
            queue.receive().context("cannot receive")?;
            stage.reach(TAKEN, 1);
            if bug {
                stage.busy()
            }
        }
    })?;
    let of_sender = text.clone();
    let sender = stage.spawn(&[], move || {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NONBLOCK;
        let queue = Mq::open(&of_sender, flags, SIZE).context("cannot create a POSIX queue")?;
        stage.reach(OPEN, 1);
        stage.await_slot(OPEN, 2)?;
        if bug {
            queue.send(None).context("cannot send")?;
            stage.await_slot(TAKEN, 1)?;
            refused(stage, queue)?;
            let blocking = Mq::open(&of_sender, libc::O_WRONLY, SIZE).context("cannot open the queue")?;
            for _ in 0..TIMED_OUT {
                let timed_out =
                    blocking.send(Some(Duration::ZERO)).is_err_and(|e| e.raw_os_error() == Some(libc::ETIMEDOUT));
                anyhow::ensure!(timed_out, "a send to a full queue did not time out");
            }
        } else {
            // SAFETY: the descriptor stays open until this process ends.
            let ready = unsafe { BorrowedFd::borrow_raw(queue.0) };
            for _ in 0..HEALTHY_MESSAGES {
                poll(&mut [PollFd::new(&ready, PollFlags::OUT)], None).context("cannot poll")?;
                queue.send(None).context("cannot send although poll reported room")?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let text = text.to_string_lossy().into_owned();
    let truth = if bug {
        let expected = Expected::new("mq-full")
            .kind("mq")
            .ids([&text])
            .pids([sender])
            .role("receiver", receiver)
            .exact("eagain", stage.value(REFUSED))
            .exact("timed_out", TIMED_OUT);
        Truth::one(expected)
    } else {
        Truth::default()
    };
    Ok(truth.role("sender", [sender]).role("receiver", [receiver]).fact("name", text))
}

/// Sends until the queue has refused [`REFUSALS`] sends.
fn refused(stage: Stage, queue: Mq) -> Result<()> {
    while stage.value(REFUSED) < REFUSALS {
        match queue.send(None) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => stage.reach(REFUSED, stage.value(REFUSED) + 1),
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    Ok(())
}
