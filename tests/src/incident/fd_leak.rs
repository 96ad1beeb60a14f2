//! A worker receives a descriptor with each request and does not close those of failed requests.
//!
//! Healthy: the worker closes all.

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::passing;
use crate::call::{control_bytes, recv_fds};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const REQUESTS: usize = 40;
const GOOD: usize = 10;

const LEAKED: usize = 0;
const DONE: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (bug, interleave) = (options.bug(), options.interleave);
    let (sender, socket) = passing::sender(stage, REQUESTS, 1)?;
    let worker = stage.spawn(&[], move || {
        for request in 0..REQUESTS {
            let got = recv_fds(&socket, control_bytes(1), libc::MSG_CMSG_CLOEXEC).context("cannot receive")?;
            ensure!(got.fds.len() == 1 && !got.truncated, "request {request} does not carry one descriptor: {got:?}");
            let good = if interleave { request % 4 == 0 } else { request < GOOD };
            if bug && !good {
                stage.reach(LEAKED, stage.value(LEAKED) + 1);
                // The bug: the error path forgets the descriptor.
                std::mem::forget(got.fds);
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let leaked = stage.value(LEAKED);
    let truth = if bug {
        Truth::one(
            Expected::new("fd-leak")
                .role("receiver", worker)
                .exact("received", REQUESTS)
                .exact("closed", REQUESTS as u64 - leaked)
                .exact("outstanding", leaked),
        )
    } else {
        Truth::default()
    };
    Ok(truth.role("receiver", [worker]).role("sender", [sender]).fact("file", passing::FILE))
}
