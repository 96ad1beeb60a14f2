//! Opening a FIFO for writing blocks until the reader opens it after 400 ms.
//!
//! Healthy: the reader already waits in its open.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::options::Options;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const PAUSE: Duration = Duration::from_millis(400);

const WRITER: usize = 0;
const READER: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let directory = tempfile::Builder::new().prefix("ipctrace-fifo-").tempdir()?.keep();
    let path = directory.join("log");
    stage.own_fifo(&CString::new(directory.as_os_str().as_bytes())?, &CString::new(path.as_os_str().as_bytes())?);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .with_context(|| format!("cannot make the FIFO {}", path.display()))?;
    let inode = std::fs::metadata(&path)?.ino();

    let path_of_reader = path.clone();
    let reader = stage.spawn(&[], move || {
        if bug {
            stage.await_slot(WRITER, 1)?;
            stage.wait_until_blocked(stage.value(WRITER) as i32, libc::SYS_openat)?;
            sleep(PAUSE);
        }
        let _fifo = File::open(&path_of_reader).context("cannot open the FIFO for reading")?;
        stage.idle()
    })?;
    stage.reach(READER, reader as u64);
    let path_of_writer = path.clone();
    let writer = stage.spawn(&[], move || {
        if !bug {
            stage.wait_until_blocked(stage.value(READER) as i32, libc::SYS_openat)?;
        }
        let open = || OpenOptions::new().write(true).open(&path_of_writer);
        let _fifo = stage.timed(open).context("cannot open the FIFO for writing")?;
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.reach(WRITER, writer as u64);
    stage.await_slot(DONE, 1)?;

    let truth = if bug {
        Truth::one(stage.stalls().expect(Expected::new("pipe-stall").kind("pipe").ids([inode]).pids([writer])))
    } else {
        stage.stalls().allow(Truth::default(), "pipe-stall")
    };
    let path = path.display().to_string();
    Ok(truth.role("writer", [writer]).role("reader", [reader]).fact("path", path).fact("inode", inode))
}
