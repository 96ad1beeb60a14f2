//! A writer uses each system call that writes to pipes, and blocks at the full pipe 300 ms for its reader each time.
//!
//! Healthy: the same calls, but the reader reads at once.

use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::ReadWriteFlags;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, pipe_with};

use super::options::Options;
use crate::call;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const PAUSE: Duration = Duration::from_millis(300);
const PIECE: [u8; 4096] = [b'.'; 4096];

/// The offset -1: write at the current position (pwritev2(2)).
const HERE: u64 = u64::MAX;

const WRITER: usize = 0;
const ROUND: usize = 1;
const TAKEN: usize = 2;

/// The sources of the bytes that the calls move.
struct Source {
    file: File,
    pipe: (OwnedFd, OwnedFd),
}

/// Writes one piece to the pipe; returns the number of bytes.
type Method = fn(BorrowedFd<'_>, &mut Source) -> Result<usize>;

/// Each system call with its number.
const METHODS: &[(libc::c_long, Method)] = &[
    (libc::SYS_write, |pipe, _| Ok(rustix::io::write(pipe, &PIECE)?)),
    (libc::SYS_writev, |pipe, _| Ok(rustix::io::writev(pipe, &[IoSlice::new(&PIECE)])?)),
    (libc::SYS_pwritev2, |pipe, _| {
        Ok(rustix::io::pwritev2(pipe, &[IoSlice::new(&PIECE)], HERE, ReadWriteFlags::empty())?)
    }),
    (libc::SYS_splice, |pipe, source| {
        refill(source)?;
        Ok(rustix::pipe::splice(&source.pipe.0, None, pipe, None, PIECE.len(), SpliceFlags::empty())?)
    }),
    (libc::SYS_tee, |pipe, source| {
        refill(source)?;
        let copied = rustix::pipe::tee(&source.pipe.0, pipe, PIECE.len(), SpliceFlags::empty())?;
        // tee copies, so the piece must be removed from the source.
        rustix::io::read(&source.pipe.0, &mut [0; PIECE.len()])?;
        Ok(copied)
    }),
    (libc::SYS_vmsplice, |pipe, _| Ok(call::vmsplice(pipe, &PIECE)?)),
    (libc::SYS_sendfile, |pipe, source| {
        source.file.rewind()?;
        Ok(rustix::fs::sendfile(pipe, &source.file, None, PIECE.len())?)
    }),
];

/// Writes one piece to the source pipe.
fn refill(source: &Source) -> Result<()> {
    rustix::io::write(&source.pipe.1, &PIECE)?;
    Ok(())
}

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let inode = rustix::fs::fstat(&reader)?.st_ino;
    let capacity = fcntl_getpipe_size(&writer)?;
    let of_reader = File::from(reader);
    let consumer = stage.spawn(&[writer.as_raw_fd()], move || consume(stage, of_reader, bug))?;
    let producer = stage.spawn(&[], move || {
        let mut file = tempfile::tempfile().context("cannot make a file")?;
        file.write_all(&PIECE)?;
        let mut source = Source { file, pipe: pipe_with(PipeFlags::CLOEXEC)? };
        for (round, (nr, method)) in (1..).zip(METHODS) {
            for _ in 0..capacity / PIECE.len() {
                rustix::io::write(&writer, &PIECE)?;
            }
            stage.reach(ROUND, round);
            let written = stage.timed(|| method(writer.as_fd(), &mut source));
            let written = written.with_context(|| format!("cannot write by system call {nr}"))?;
            ensure!(written == PIECE.len(), "system call {nr} wrote {written} bytes");
            stage.await_slot(TAKEN, round)?;
        }
        stage.reach(ROUND, METHODS.len() as u64 + 1);
        stage.idle()
    })?;
    stage.reach(WRITER, producer as u64);
    stage.await_slot(ROUND, METHODS.len() as u64 + 1)?;
    let truth = if bug {
        let expected = Expected::new("pipe-stall")
            .kind("pipe")
            .ids([inode])
            .pids([producer])
            .role("reader", consumer)
            .exact("capacity_bytes", capacity);
        Truth::one(stage.stalls().expect(expected))
    } else {
        stage.stalls().allow(Truth::default(), "pipe-stall")
    };
    Ok(truth.role("writer", [producer]).role("reader", [consumer]).fact("inode", inode))
}

fn consume(stage: Stage, mut pipe: File, pauses: bool) -> Result<()> {
    stage.await_slot(WRITER, 1)?;
    for (round, (nr, _)) in (1..).zip(METHODS) {
        stage.await_slot(ROUND, round)?;
        if pauses {
            stage.wait_until_blocked(stage.value(WRITER) as i32, *nr)?;
            sleep(PAUSE);
        }
        // Everything in the pipe, and the piece that blocked.
        let filled = fcntl_getpipe_size(&pipe)?;
        pipe.read_exact(&mut vec![0; filled + PIECE.len()])?;
        stage.reach(TAKEN, round);
    }
    stage.idle()
}
