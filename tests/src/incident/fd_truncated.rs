//! Messages of four descriptors arrive in a control buffer for one: two fit, and the kernel drops the others.
//!
//! Healthy: the buffer has room for four.

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::passing;
use crate::call::{control_bytes, recv_fds};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const REQUESTS: usize = 10;
const FDS_EACH: usize = 4;

const RECEIVED: usize = 0;
const TRUNCATED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let room = if options.bug() { 1 } else { FDS_EACH };
    let (sender, socket) = passing::sender(stage, REQUESTS, FDS_EACH)?;
    let receiver = stage.spawn(&[], move || {
        for _ in 0..REQUESTS {
            let got = recv_fds(&socket, control_bytes(room), libc::MSG_CMSG_CLOEXEC).context("cannot receive")?;
            stage.reach(RECEIVED, stage.value(RECEIVED) + got.fds.len() as u64);
            stage.reach(TRUNCATED, stage.value(TRUNCATED) + u64::from(got.truncated));
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let dropped = (REQUESTS * FDS_EACH) as u64 - stage.value(RECEIVED);
    let truncated = stage.value(TRUNCATED);
    let truth = if options.bug() {
        Truth::one(
            Expected::new("fd-truncated")
                .role("receiver", receiver)
                .exact("dropped", dropped)
                .exact("messages_truncated", truncated),
        )
    } else {
        ensure!(
            dropped == 0 && truncated == 0,
            "the kernel dropped {dropped} descriptors although the buffer has room"
        );
        Truth::default()
    };
    Ok(truth.role("receiver", [receiver]).role("sender", [sender]))
}
