//! A process queues real-time signals for a worker that blocks them, until RLIMIT_SIGPENDING.
//!
//! Healthy: the worker takes each signal.

use anyhow::{Context, Result, ensure};

use super::options::Options;
use crate::call;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const PENDING: u64 = 16;
const SENT: u64 = 40;
const COALESCED: u64 = 3;

const READY: usize = 0;
const TAKEN: usize = 1;
const DROPPED: usize = 2;
const DONE: usize = 3;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let signal = libc::SIGRTMIN() + 1;
    let worker = stage.spawn(&[], move || {
        // The kernel counts signals per user, so the healthy worker keeps the normal limit.
        if bug {
            call::set_limit(libc::RLIMIT_SIGPENDING, PENDING, PENDING).context("cannot set RLIMIT_SIGPENDING")?;
        }
        call::mask(libc::SIG_BLOCK, &[signal, libc::SIGUSR1])?;
        stage.reach(READY, 1);
        if bug {
            stage.idle()
        }
        for taken in 1..=SENT {
            call::wait_signal(&[signal])?;
            stage.reach(TAKEN, taken);
        }
        stage.idle()
    })?;
    let sender = stage.spawn(&[], move || {
        stage.await_slot(READY, 1)?;
        for sent in 1..=SENT {
            match call::queue(worker, signal, 7) {
                Ok(()) if bug => {}
                Ok(()) => stage.await_slot(TAKEN, sent)?,
                Err(e) => {
                    ensure!(e.raw_os_error() == Some(libc::EAGAIN), "sigqueue failed, but not with EAGAIN: {e}");
                    stage.reach(DROPPED, stage.value(DROPPED) + 1);
                }
            }
        }
        if bug {
            // The kernel delivers a standard signal in any case, but without its value.
            // Further ones are coalesced with the pending one.
            for _ in 0..=COALESCED {
                call::queue(worker, libc::SIGUSR1, 7).context("cannot queue SIGUSR1")?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let dropped = stage.value(DROPPED);
    if !bug {
        ensure!(dropped == 0, "the kernel dropped {dropped} signals although the worker took all");
        return Ok(Truth::default().role("sender", [sender]).role("receiver", [worker]));
    }
    ensure!(dropped >= SENT - PENDING, "the kernel dropped only {dropped} of {SENT} signals");
    let expected = Expected::new("signal-queue-full")
        .role("sender", sender)
        .role("receiver", worker)
        .limit("RLIMIT_SIGPENDING")
        .exact("failed", dropped)
        .exact("stripped", 1)
        .exact("coalesced", COALESCED)
        .exact("max", PENDING);
    Ok(Truth::one(expected).role("sender", [sender]).role("receiver", [worker]))
}
