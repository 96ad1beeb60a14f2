//! An unprivileged user opens pipes until the kernel makes new ones small at `pipe-user-pages-soft`.
//!
//! Healthy: the user stays below the limit.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

use super::options::Options;
use crate::call;
use crate::skip::Skip;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

/// One uid for each variant, because the kernel counts pipe pages per user.
const USER_OF_BUG: u32 = 65_533;
const USER_OF_FIXED: u32 = 65_532;
const DEFAULT_BYTES: usize = 65_536;
/// Small pipes to open.
const SHRUNK: usize = 3;
const FEW: usize = 100;

const PIPES: usize = 0;
const BYTES: usize = 1;
const DONE: usize = 2;
const FIRST_INODE: usize = 10;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let soft = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft")?;
    let soft: usize = soft.trim().parse().context("pipe-user-pages-soft is not a number")?;
    if soft == 0 {
        return Err(Skip("fs.pipe-user-pages-soft is 0, so the kernel never shrinks pipes".to_owned()).into());
    }
    let most = soft * 4096 / DEFAULT_BYTES + 64;
    let user = stage.spawn(&[], move || {
        let files = 2 * most as u64 + 64;
        call::set_limit(libc::RLIMIT_NOFILE, files, files).context("cannot raise RLIMIT_NOFILE")?;
        stage.become_user(if bug { USER_OF_BUG } else { USER_OF_FIXED })?;
        let kept = if bug { beyond_the_limit(stage, most)? } else { below_the_limit()? };
        stage.reach(DONE, 1);
        let _kept = kept;
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    if !bug {
        return Ok(Truth::default().role("owner", [user]));
    }
    let inodes = (FIRST_INODE..FIRST_INODE + SHRUNK).map(|slot| stage.value(slot));
    let pipes = stage.value(PIPES);
    let expected = Expected::new("pipe-shrunk")
        .kind("pipe")
        .ids(inodes)
        .pids([user])
        .exact("capacity_bytes", stage.value(BYTES))
        .exact("default_bytes", DEFAULT_BYTES)
        .near("pipes_of_user", pipes as f64, SHRUNK as f64 + INHERITED);
    // A thousand open pipes are a leak as well.
    Ok(Truth::one(expected).may("fd-leak").role("owner", [user]).fact("pipes", pipes).fact("soft_limit_pages", soft))
}

/// The highest number of pipes that the program may inherit.
const INHERITED: f64 = 16.0;

/// Opens pipes until [`SHRUNK`] of them are small, and keeps all.
fn beyond_the_limit(stage: Stage, most: usize) -> Result<Vec<(OwnedFd, OwnedFd)>> {
    let mut pipes = Vec::new();
    let mut shrunk = 0;
    while shrunk < SHRUNK {
        ensure!(pipes.len() < most, "one user has {most} pipes, and none is small");
        let pipe = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let bytes = fcntl_getpipe_size(&pipe.0)?;
        if bytes < DEFAULT_BYTES {
            stage.reach(BYTES, bytes as u64);
            stage.reach(FIRST_INODE + shrunk, rustix::fs::fstat(&pipe.0)?.st_ino);
            shrunk += 1;
        }
        pipes.push(pipe);
    }
    stage.reach(PIPES, pipes.len() as u64);
    Ok(pipes)
}

/// Opens 100 pipes and keeps four.
fn below_the_limit() -> Result<Vec<(OwnedFd, OwnedFd)>> {
    let mut pipes = Vec::new();
    for _ in 0..FEW {
        let pipe = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        ensure!(fcntl_getpipe_size(&pipe.0)? == DEFAULT_BYTES, "a pipe is small below the limit");
        pipes.push(pipe);
    }
    pipes.truncate(4);
    Ok(pipes)
}
