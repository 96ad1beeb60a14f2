//! A receiver at RLIMIT_NOFILE: `recvmsg` succeeds, but the kernel drops the descriptors and sets MSG_CTRUNC.
//!
//! Healthy: the receiver closes each descriptor before it receives the next.

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::passing;
use crate::call::{self, control_bytes, recv_fds};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const REQUESTS: usize = 40;
const NOFILE: u64 = 32;

const RECEIVED: usize = 0;
const DROPPED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (sender, socket) = passing::sender(stage, REQUESTS, 1)?;
    let worker = stage.spawn(&[], move || {
        call::set_limit(libc::RLIMIT_NOFILE, NOFILE, NOFILE).context("cannot lower RLIMIT_NOFILE")?;
        for request in 0..REQUESTS {
            let got = recv_fds(&socket, control_bytes(1), libc::MSG_CMSG_CLOEXEC).context("cannot receive")?;
            ensure!(got.fds.is_empty() == got.truncated, "request {request}: {got:?}");
            let slot = if got.truncated { DROPPED } else { RECEIVED };
            stage.reach(slot, stage.value(slot) + 1);
            if bug {
                std::mem::forget(got.fds);
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let (received, dropped) = (stage.value(RECEIVED), stage.value(DROPPED));
    let mut truth = Truth::default();
    if bug {
        ensure!(dropped > 0, "the kernel dropped no descriptor at RLIMIT_NOFILE {NOFILE}");
        let exhausted =
            Expected::new("fd-exhausted").pids([worker]).exact("dropped", dropped).exact("messages_truncated", dropped);
        let leak = Expected::new("fd-leak")
            .role("receiver", worker)
            .exact("received", received)
            .exact("closed", 0)
            .exact("outstanding", received);
        truth.expect = vec![exhausted, leak];
    } else {
        ensure!(dropped == 0, "the kernel dropped descriptors although the receiver closed all");
    }
    Ok(truth.role("receiver", [worker]).role("sender", [sender]))
}
