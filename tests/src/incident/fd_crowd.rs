//! One process with 100,000 open descriptors of a million allowed ones; the last two are a pipe. Healthy.

use std::fs::File;

use anyhow::{Context, Result};
use rustix::pipe::pipe;

use super::options::Options;
use crate::call;
use crate::skip::Skip;
use crate::stage::Stage;
use crate::truth::Truth;

const LIMIT: u64 = 1_000_000;
const OPEN: usize = 100_000;

/// Slots: 1 if the limit is not permitted or 2 if all descriptors are open; the inode number of the pipe.
const STATE: usize = 0;
const PIPE: usize = 1;

pub(super) fn play(stage: Stage, _: &Options) -> Result<Truth> {
    let holder = stage.spawn(&[], move || {
        if call::set_limit(libc::RLIMIT_NOFILE, LIMIT, LIMIT).is_err() {
            stage.reach(STATE, 1);
            stage.idle();
        }
        let file = File::open("/dev/null").context("cannot open /dev/null")?;
        let mut files = Vec::with_capacity(OPEN);
        while files.len() < OPEN {
            files.push(file.try_clone().context("cannot duplicate a descriptor")?);
        }
        let (reader, _writer) = pipe().context("cannot make a pipe")?;
        stage.reach(PIPE, rustix::fs::fstat(&reader)?.st_ino);
        stage.reach(STATE, 2);
        stage.idle()
    })?;
    stage.await_slot(STATE, 1)?;
    if stage.value(STATE) == 1 {
        return Err(Skip(format!("RLIMIT_NOFILE cannot be {LIMIT}; raise fs.nr_open or run as root")).into());
    }
    Ok(Truth::default().role("holder", [holder]).fact("pipe", stage.value(PIPE)).fact("open", OPEN))
}
