//! Waits across mechanisms: a cycle of three processes, and a chain of three whose last one waits for a dead process.
//!
//! The cycle is no deadlock if an outsider holds the read end of the pipe, too.
//! Healthy: no process waits while it holds a lock.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

use super::options::Options;
use crate::call::{MutexKind, Queue, SemSet, SharedLock};
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const PIECE: [u8; 4096] = [b'.'; 4096];

/// Slot with the number of processes that hold their lock.
const READY: usize = 0;
const HOLDERS: u64 = 2;
const DONE: usize = 1;
/// Codes of the single waits.
const STALLS: [&str; 4] = ["pipe-stall", "sem-stall", "futex-stall", "msg-stall"];

/// A writer waits for a reader, the reader for a semaphore, and its holder for the writer's mutex.
pub(super) fn ring(stage: Stage, options: &Options) -> Result<Truth> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let healthy = !options.bug();
    let mutex = SharedLock::create(MutexKind::Plain).context("cannot make a lock")?;
    let semaphore = lock(stage)?;
    let writing = stage.spawn(&[reader.as_raw_fd()], move || {
        mutex.lock().context("cannot lock")?;
        stage.slot(READY).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        stage.await_slot(READY, HOLDERS)?;
        overfill(writer.as_fd())?;
        mutex.unlock().context("cannot unlock")?;
        stage.idle()
    })?;
    let holding = stage.spawn(&[reader.as_raw_fd()], move || {
        semaphore.op(-1, 0).context("cannot take the semaphore")?;
        stage.slot(READY).fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        stage.await_slot(READY, HOLDERS)?;
        if healthy {
            semaphore.op(1, 0).context("cannot release the semaphore")?;
        }
        mutex.lock().context("cannot lock")?;
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    let reading = stage.spawn(&[], reads_later(stage, reader.try_clone()?, semaphore))?;
    // The outsider is this process.
    let spare = options.outsider.then_some(reader);
    if healthy {
        stage.await_slot(DONE, 1)?;
    } else {
        stage.wait_until_blocked(writing, libc::SYS_write)?;
        stage.wait_until_blocked(reading, libc::SYS_semtimedop)?;
        stage.wait_until_blocked(holding, libc::SYS_futex)?;
    }
    std::mem::forget(spare);
    let mut truth = if options.bug() && !options.outsider {
        Truth::one(Expected::new("deadlock").pids([writing, reading, holding]).exact("threads", 3))
    } else {
        Truth::default()
    };
    for stall in STALLS {
        truth = truth.may(stall);
    }
    Ok(truth.role("writer", [writing]).role("reader", [reading]).role("holder", [holding]))
}

/// A writer waits for a reader, the reader for a semaphore, and its holder for the dead receiver of a queue.
pub(super) fn chain(stage: Stage, _: &Options) -> Result<Truth> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let inode = rustix::fs::fstat(&reader)?.st_ino;
    let semaphore = lock(stage)?;
    let queue = Queue::create().context("cannot create a queue")?;
    stage.own_queue(queue.0);
    queue.send(0).context("cannot send")?;
    let receiving = stage.spawn(&[], move || queue.receive().context("cannot receive"))?;
    stage.join(receiving)?;
    let sending = stage.spawn(&[reader.as_raw_fd(), writer.as_raw_fd()], move || {
        semaphore.op(-1, 0).context("cannot take the semaphore")?;
        stage.reach(READY, HOLDERS);
        loop {
            queue.send(0).context("cannot send")?;
        }
    })?;
    stage.await_slot(READY, HOLDERS)?;
    let reading = stage.spawn(&[writer.as_raw_fd()], reads_later(stage, reader, semaphore))?;
    stage.wait_until_blocked(reading, libc::SYS_semtimedop)?;
    let writing = stage.spawn(&[], move || {
        overfill(writer.as_fd())?;
        stage.idle()
    })?;
    stage.wait_until_blocked(writing, libc::SYS_write)?;
    stage.wait_until_blocked(sending, libc::SYS_msgsnd)?;
    let expected = Expected::new("pipe-stall")
        .kind("pipe")
        .ids([inode])
        .pids([writing])
        .role("reader", reading)
        .exact("ongoing", 1)
        .chain([writing, reading, sending]);
    let mut truth = Truth::one(expected);
    for stall in STALLS.iter().filter(|s| **s != "pipe-stall") {
        truth = truth.may(stall);
    }
    Ok(truth
        .role("writer", [writing])
        .role("reader", [reading])
        .role("sender", [sending])
        .role("receiver", [receiving]))
}

/// A semaphore set of value 1.
fn lock(stage: Stage) -> Result<SemSet> {
    let semaphore = SemSet::create(libc::IPC_PRIVATE, 1).context("cannot create a semaphore set")?;
    stage.own_sem(semaphore.0);
    semaphore.set_value(1)?;
    Ok(semaphore)
}

/// Takes the semaphore, which another process holds, before it reads.
fn reads_later(stage: Stage, pipe: OwnedFd, semaphore: SemSet) -> impl FnOnce() -> Result<()> {
    move || {
        stage.await_slot(READY, HOLDERS)?;
        semaphore.op(-1, 0).context("cannot take the semaphore")?;
        rustix::io::read(&pipe, &mut [0; PIECE.len()])?;
        stage.idle()
    }
}

/// Writes one piece more than the pipe holds.
fn overfill(pipe: BorrowedFd<'_>) -> Result<()> {
    for _ in 0..=fcntl_getpipe_size(pipe)? / PIECE.len() {
        rustix::io::write(pipe, &PIECE).context("cannot write")?;
    }
    Ok(())
}
