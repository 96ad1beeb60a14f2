//! A program of higher priority takes the processor of the reader: the writer blocks although the reader is runnable.
//!
//! Healthy: the program takes the processor of the writer, which finds room as soon as it runs.

use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use super::options::Options;
use crate::call;
use crate::skip::Skip;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

/// As much as the pipe holds, so that the writer blocks nearly all the time.
const PIECE: usize = 65536;
const BURSTS: u64 = 4;
const BURST: Duration = Duration::from_millis(400);
/// Time that the reader computes after each read.
const WORK: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(150);

const STOP: usize = 0;
const DONE: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    let inode = rustix::fs::fstat(&reader)?.st_ino;
    let cpu = sched_getcpu();
    let consumer = stage.spawn(&[writer.as_raw_fd()], move || {
        if bug { stay_on(cpu) } else { stay_off(cpu) }?;
        let mut buffer = vec![0; PIECE];
        loop {
            rustix::io::read(&reader, &mut buffer).context("cannot read")?;
            if bug {
                compute(WORK);
            }
        }
    })?;
    let producer = stage.spawn(&[], move || {
        if bug { stay_off(cpu) } else { stay_on(cpu) }?;
        let piece = vec![b'.'; PIECE];
        while stage.value(STOP) == 0 {
            stage.timed(|| rustix::io::write(&writer, &piece)).context("cannot write")?;
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.spawn(&[], move || {
        stay_on(cpu)?;
        call::become_realtime().context("cannot set the policy SCHED_FIFO; run as root")?;
        for _ in 0..BURSTS {
            sleep(PAUSE);
            compute(BURST);
        }
        stage.reach(STOP, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    if bug && stage.stalls().count() == 0 {
        // On one processor the program may preempt the writer each time.
        return Err(Skip(
            "the reader never lost its processor while the writer blocked; it needs two processors".to_owned(),
        )
        .into());
    }
    let truth = if bug {
        let expected = Expected::new("pipe-stall").kind("pipe").ids([inode]).pids([producer]).role("reader", consumer);
        let expected = stage.stalls().expect(expected);
        let [total_ms, _] = expected.evidence_near["total_ms"];
        Truth::one(expected.near("reader_runqueue_ms", total_ms, total_ms / 4.0))
    } else {
        stage.stalls().allow(Truth::default(), "pipe-stall")
    };
    Ok(truth.role("writer", [producer]).role("reader", [consumer]).fact("inode", inode))
}

/// Uses the processor for this time.
fn compute(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on processor {cpu}"))
}

/// Moves this process to the other processors, if there are any.
fn stay_off(cpu: usize) -> Result<()> {
    let mut set = sched_getaffinity(None)?;
    set.unset(cpu);
    if set.count() > 0 {
        sched_setaffinity(None, &set).with_context(|| format!("cannot leave processor {cpu}"))?;
    }
    Ok(())
}
