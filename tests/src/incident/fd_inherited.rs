//! A worker receives a descriptor without CLOEXEC and starts another program, which inherits it.
//!
//! Healthy: the worker receives it with MSG_CMSG_CLOEXEC.

use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::options::Options;
use super::passing;
use crate::call::{control_bytes, recv_fds};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const CHILD: usize = 0;
const FD: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let flags = if options.bug() { 0 } else { libc::MSG_CMSG_CLOEXEC };
    let (sender, socket) = passing::sender(stage, 1, 1)?;
    let worker = stage.spawn(&[], move || {
        let got = recv_fds(&socket, control_bytes(1), flags).context("cannot receive")?;
        let fd = got.fds.first().context("the message came without a file")?;
        stage.reach(FD, fd.as_raw_fd() as u64);
        let program = stage.spawn(&[], || {
            let error = Command::new("sleep").arg("1000").exec();
            Err(error).context("cannot run sleep")
        })?;
        stage.reach(CHILD, program as u64);
        stage.idle()
    })?;
    stage.await_slot(CHILD, 1)?;
    let program = stage.value(CHILD) as i32;
    stage.wait_for("sleep to run", || {
        Ok(std::fs::read_to_string(format!("/proc/{program}/comm")).is_ok_and(|comm| comm == "sleep\n"))
    })?;
    let link = std::fs::read_link(format!("/proc/{program}/fd/{}", stage.value(FD)));
    let crossed = link.is_ok_and(|path| path.as_os_str() == passing::FILE);
    ensure!(crossed == options.bug(), "the program inherited the descriptor: {crossed}");
    let truth = if options.bug() {
        Truth::one(Expected::new("fd-inherited").pids([worker, program]))
    } else {
        Truth::default()
    };
    Ok(truth.role("receiver", [worker]).role("sender", [sender]).role("program", [program]))
}
