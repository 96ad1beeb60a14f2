//! A crowd for the baseline: many processes with many descriptors, or many semaphore sets.
//!
//! A process creates it, prints `ready`, and removes it when its standard input closes. The sets are in an IPC namespace
//! of their own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::pipe;
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_parent_process_death_signal, waitpid,
};

use super::workload::ignore_interrupts;

/// The size of the crowd: a large host.
pub(super) const PROCESSES: usize = 5_000;
pub(super) const FDS_A_PROCESS: usize = 40;
/// Below the default limit of 32,000.
pub(super) const SETS: usize = 30_000;
/// The descriptors that are no files: two for each pipe, one for each eventfd.
const PIPES: usize = 10;
const EVENTFDS: usize = 8;

/// The kind of a crowd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Crowd {
    Processes,
    Sets,
}

/// The crowd's own side: `cargo xtask crowd KIND`.
///
/// With sets, each line of standard input is a command with its words separated by tabs. It runs in the namespace of the
/// sets, and its time in nanoseconds is printed.
pub(crate) fn serve(crowd: Crowd) -> Result<()> {
    ignore_interrupts();
    match crowd {
        Crowd::Processes => processes(),
        Crowd::Sets => sets(),
    }
}

fn processes() -> Result<()> {
    // Inherited descriptors would be in all tables. Kernels before 5.9 do not have the call.
    // SAFETY: no pointers; nothing but the standard descriptors is in use yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    let mut children = Vec::with_capacity(PROCESSES);
    let result = populate(&mut children).and_then(|()| {
        println!("ready");
        std::io::stdin().read_to_end(&mut Vec::new()).map(drop).context("cannot read standard input")
    });
    for child in &children {
        // It may have ended.
        let _ = kill_process(*child, Signal::KILL);
    }
    for child in children {
        let _ = waitpid(Some(child), WaitOptions::empty());
    }
    result
}

fn populate(children: &mut Vec<Pid>) -> Result<()> {
    let (all_ready, one_ready) = pipe().context("cannot create a pipe")?;
    // A pipe that all processes share, such as the log of a supervisor.
    let (log_reader, log) = pipe().context("cannot create a pipe")?;
    let parent = getpid();
    for number in 0..PROCESSES {
        // SAFETY: this process has one thread, so the child is a normal process.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork failed after {number} processes: {}", std::io::Error::last_os_error());
        let Some(child) = Pid::from_raw(pid) else {
            let code = i32::from(member(parent, &one_ready, [&all_ready, &one_ready, &log_reader]).is_err());
            // SAFETY: _exit is always allowed; the parent's buffers must not be flushed here.
            unsafe { libc::_exit(code) };
        };
        children.push(child);
    }
    drop((one_ready, log));
    let mut ready = Vec::new();
    // A process that fails ends, so this does not block on it.
    File::from(all_ready).take(PROCESSES as u64).read_to_end(&mut ready)?;
    drop(log_reader);
    ensure!(ready.len() == PROCESSES, "only {} of {PROCESSES} processes have their descriptors", ready.len());
    Ok(())
}

/// One process of the crowd, which reports when it is complete. Returns only on an error.
/// It keeps the log, and closes the parent's other descriptors.
fn member(parent: Pid, ready: &OwnedFd, of_parent: [&OwnedFd; 3]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        bail!("the parent has ended");
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..3 {
        // SAFETY: no pointers; whatever these numbers were, nothing here uses them.
        unsafe { libc::dup2(null.as_raw_fd(), standard) };
    }
    let _pipes = std::iter::repeat_with(pipe).take(PIPES).collect::<Result<Vec<_>, _>>()?;
    let _events = (0..EVENTFDS).map(|n| eventfd(n as u32, EventfdFlags::empty())).collect::<Result<Vec<_>, _>>()?;
    // Besides three standard ones, the first one of /dev/null, and the log.
    let others = FDS_A_PROCESS - 3 - 1 - 1 - 2 * PIPES - EVENTFDS;
    let _files = std::iter::repeat_with(|| null.try_clone()).take(others).collect::<Result<Vec<_>, _>>()?;
    rustix::io::write(ready, b".")?;
    for end in of_parent {
        // SAFETY: no pointers; the value is never used again, and never dropped: this process ends by a signal.
        unsafe { libc::close(end.as_raw_fd()) };
    }
    loop {
        rustix::event::pause();
    }
}

fn sets() -> Result<()> {
    // SAFETY: no pointers; this process has one thread.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWIPC) };
    ensure!(unshared == 0, "cannot create an IPC namespace: {}", std::io::Error::last_os_error());
    for number in 0..SETS {
        // SAFETY: plain numbers. The namespace's end removes them.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
        ensure!(id >= 0, "semget failed after {number} sets: {}", std::io::Error::last_os_error());
    }
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line?;
        let mut words = line.split('\t');
        let Some(program) = words.next().filter(|word| !word.is_empty()) else { continue };
        let started = Instant::now();
        let status = Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let elapsed_ns = started.elapsed().as_nanos();
        match status {
            Ok(status) if status.success() => println!("{elapsed_ns}"),
            Ok(status) => println!("{program} ended with {status}"),
            Err(error) => println!("cannot run {program}: {error}"),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
