//! Real-time signals are queued for a worker that has blocked them, until RLIMIT_SIGPENDING. The healthy one takes them.

use anyhow::{Context, Result, ensure};

use super::options::Options;
use crate::call;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const PENDING: u64 = 16;
const SENT: u64 = 40;
const MERGED: u64 = 3;

const READY: usize = 0;
const TAKEN: usize = 1;
const DROPPED: usize = 2;
const DONE: usize = 3;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let signal = libc::SIGRTMIN() + 1;
    let worker = stage.spawn(&[], move || {
        // The limit counts what is queued for all processes of the user; the healthy one needs room beside others.
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
    let boss = stage.spawn(&[], move || {
        stage.await_slot(READY, 1)?;
        for sent in 1..=SENT {
            match call::queue(worker, signal, 7) {
                Ok(()) if bug => {}
                Ok(()) => stage.await_slot(TAKEN, sent)?,
                Err(e) => {
                    ensure!(e.raw_os_error() == Some(libc::EAGAIN), "sigqueue failed otherwise: {e}");
                    stage.reach(DROPPED, stage.value(DROPPED) + 1);
                }
            }
        }
        if bug {
            // A standard signal comes in any case, but without its value.
            // While it is pending, more of them are merged with it.
            for _ in 0..=MERGED {
                call::queue(worker, libc::SIGUSR1, 7).context("cannot queue SIGUSR1")?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let dropped = stage.value(DROPPED);
    if !bug {
        ensure!(dropped == 0, "{dropped} signals were dropped though all were taken");
        return Ok(Truth::default().role("sender", [boss]).role("receiver", [worker]));
    }
    ensure!(dropped >= SENT - PENDING, "only {dropped} of {SENT} signals were dropped");
    let expected = Expected::new("signal-queue-full")
        .role("sender", boss)
        .role("receiver", worker)
        .limit("RLIMIT_SIGPENDING")
        .exact("failed", dropped)
        .exact("stripped", 1)
        .exact("coalesced", MERGED)
        .exact("max", PENDING);
    Ok(Truth::one(expected).role("sender", [boss]).role("receiver", [worker]))
}
