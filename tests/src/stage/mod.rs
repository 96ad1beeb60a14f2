//! The stage of a workload: processes that die with their parent, shared memory, waits, and cleanup.
//!
//! A guard process forks the body that plays the incident. Each of the two cleans up if the other is killed.

pub mod proc;
mod shared;

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

use crate::call;
pub use shared::{Name, Named, Shared, Stalls};

/// The longest time that one step of a workload may take, also on an emulated machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval at which a condition is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// Signals that end a workload early.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// A handle to the shared state of a workload, which every process of the workload may copy.
#[derive(Clone, Copy)]
pub struct Stage {
    shared: &'static Shared,
}

/// Runs `body` in a child process and cleans up after it.
///
/// Returns the exit code of the child: 0, 1 after an error, 101 after a panic, 128+n after signal n.
pub fn guarded(body: impl FnOnce(Stage) -> Result<()>) -> Result<i32> {
    let shared = Shared::map().context("cannot map memory shared by the workload's processes")?;
    let stage = Stage { shared };
    die_with_parent(Signal::TERM)?;
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    let watched = [libc::SIGCHLD, ENDING[0], ENDING[1], ENDING[2]];
    call::mask(libc::SIG_BLOCK, &watched)?;
    shared.pids.push(pid());
    let guard = pid();
    let Some(child) = call::fork().context("cannot fork the workload")? else {
        let code = stage.child(guard, Signal::TERM, || {
            for signal in ENDING {
                call::on_signal(signal, shared::clean_up_and_exit, 0)?;
            }
            call::mask(libc::SIG_UNBLOCK, &watched)?;
            let result = body(stage);
            shared.clean_up();
            result
        });
        call::exit_now(code);
    };
    shared.pids.push(child);
    loop {
        let signal = call::wait_signal(&watched)?;
        if signal != libc::SIGCHLD {
            // The body may have ended in this instant; SIGCHLD follows either way.
            let _ = call::kill(child, libc::SIGTERM);
            continue;
        }
        let Some(code) = reaped(child)? else { continue };
        shared.clean_up();
        // The other processes die with their parents; the kernel has reparented them to this one, a subreaper.
        while call::wait_for_pid(-1)?.is_some() {}
        return Ok(code);
    }
}

/// Reaps all ended children; returns the exit code of `child` if it is one of them.
fn reaped(child: i32) -> Result<Option<i32>> {
    let mut code = None;
    while let Some((pid, status)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG).unwrap_or(None) {
        if pid.as_raw_nonzero().get() == child {
            code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
        }
    }
    Ok(code)
}

impl Stage {
    /// Forks a process that runs `play` and dies with this process; returns its pid.
    ///
    /// Descriptors that `play` owns stay open in the child and are closed here.
    /// `not_inherited` lists descriptors that the child closes and only the caller keeps.
    pub fn spawn(self, not_inherited: &[RawFd], play: impl FnOnce() -> Result<()>) -> Result<i32> {
        let parent = pid();
        let Some(child) = call::fork().context("cannot fork")? else {
            let code = self.child(parent, Signal::KILL, || {
                for signal in ENDING {
                    call::set_action(signal, libc::SIG_DFL, 0)?;
                }
                not_inherited.iter().for_each(|&fd| call::close(fd));
                play()
            });
            call::exit_now(code);
        };
        self.shared.pids.push(child);
        Ok(child)
    }

    /// The child's side of a fork: neither an error nor a panic may return into the parent's code. Returns the exit code.
    fn child(self, parent: i32, death: Signal, play: impl FnOnce() -> Result<()>) -> i32 {
        let play = || {
            die_with_parent(death)?;
            if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
                bail!("the parent {parent} has already ended");
            }
            play()
        };
        match catch_unwind(AssertUnwindSafe(play)) {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                self.shared.failed.store(1, SeqCst);
                eprintln!("incidents: process {}: {error:#}", pid());
                1
            }
            Err(_) => {
                self.shared.failed.store(1, SeqCst);
                101
            }
        }
    }

    /// Switches to an unprivileged user for good; the process still dies with its parent.
    pub fn become_user(self, uid: u32) -> Result<()> {
        call::become_user(uid).with_context(|| format!("cannot become user {uid}; run as root"))?;
        die_with_parent(Signal::KILL)
    }

    /// Waits until a condition holds.
    ///
    /// # Errors
    /// The condition fails, does not hold within [`STEP_TIMEOUT`], or another process of the workload failed.
    /// `what` names the condition in the error.
    pub fn wait_for(self, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + STEP_TIMEOUT;
        while !condition().with_context(|| format!("while waiting for {what}"))? {
            if self.shared.failed.load(SeqCst) != 0 {
                bail!("a process of the workload failed while this one waited for {what}");
            }
            if Instant::now() > end {
                bail!("timed out after {} s waiting for {what}", STEP_TIMEOUT.as_secs());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits for a child and fails unless it exits with 0.
    pub fn join(self, child: i32) -> Result<()> {
        match call::wait_for_pid(child)? {
            Some(0) => Ok(()),
            Some(status) => bail!("process {child} failed (wait status {status:#x})"),
            None => bail!("another wait has already reaped process {child}"),
        }
    }

    /// Waits until a process sleeps in a system call.
    pub fn wait_until_blocked(self, pid: i32, syscall: libc::c_long) -> Result<()> {
        self.wait_for(&format!("{pid} to block in system call {syscall}"), || Ok(proc::blocked_in(pid, syscall)))
    }

    /// A shared number (slots 0 to 63) that the workload is free to use.
    pub fn slot(self, slot: usize) -> &'static AtomicU64 {
        &self.shared.slots[slot]
    }

    /// Sets a shared number, for processes in [`Stage::await_slot`].
    pub fn reach(self, slot: usize, value: u64) {
        self.slot(slot).store(value, SeqCst);
    }

    /// Waits until a shared number is at least `value`.
    pub fn await_slot(self, slot: usize, value: u64) -> Result<()> {
        self.wait_for(&format!("step {slot} to reach {value}"), || Ok(self.slot(slot).load(SeqCst) >= value))
    }

    /// The value of a shared number.
    pub fn value(self, slot: usize) -> u64 {
        self.slot(slot).load(SeqCst)
    }

    /// The stalls that [`Stage::timed`] measured.
    pub fn stalls(self) -> &'static Stalls {
        &self.shared.stalls
    }

    /// Runs and measures a call that may block. Time without a processor does not count as a stall.
    pub fn timed<T>(self, call: impl FnOnce() -> T) -> T {
        let (start, queued) = (Instant::now(), proc::runqueue());
        let result = call();
        self.shared.stalls.record(start.elapsed(), proc::runqueue().saturating_sub(queued));
        result
    }

    /// Waits for signals in pause(2) until the end of the workload.
    pub fn idle(self) -> ! {
        loop {
            rustix::event::pause();
        }
    }

    /// Sleeps in timed sleeps, which are no waits for input, until the end of the workload.
    pub fn busy(self) -> ! {
        loop {
            std::thread::sleep(STEP_TIMEOUT);
        }
    }

    /// Registers a semaphore set for removal at the end.
    pub fn own_sem(self, id: i32) {
        self.shared.sems.push(shared::listed(id));
    }

    /// Forgets a set that the workload removed itself.
    pub fn forget_sem(self, id: i32) {
        self.shared.sems.forget(shared::listed(id));
    }

    /// Registers a shared memory segment for removal at the end.
    pub fn own_segment(self, id: i32) {
        self.shared.segments.push(shared::listed(id));
    }

    /// Registers a message queue for removal at the end.
    pub fn own_queue(self, id: i32) {
        self.shared.queues.push(shared::listed(id));
    }

    /// Forgets a queue that the workload removed itself.
    pub fn forget_queue(self, id: i32) {
        self.shared.queues.forget(shared::listed(id));
    }

    /// Returns the name of a POSIX object, and registers it for removal at the end.
    pub fn own_name(self, kind: Named, number: u16) -> Name {
        let name = Name::new(kind, number);
        self.shared.names.push(name.0);
        name
    }

    /// A name as text, as system calls take it and reports show it.
    pub fn text_of(self, name: Name) -> std::ffi::CString {
        name.text(self.shared.pids.iter().next().unwrap_or(0))
    }

    /// Removes a name at once.
    pub fn unlink(self, name: Name) {
        name.remove(self.shared.pids.iter().next().unwrap_or(0));
    }

    /// Cancels the removal of all SysV objects (for `--keep`).
    pub fn keep_objects(self) {
        for list in [&self.shared.sems, &self.shared.segments, &self.shared.queues] {
            let kept: Vec<i32> = list.iter().collect();
            kept.into_iter().for_each(|id| list.forget(id));
        }
    }

    /// Registers a FIFO and its directory for removal at the end.
    pub fn own_fifo(self, directory: &std::ffi::CStr, fifo: &std::ffi::CStr) {
        self.shared.own_fifo(directory, fifo);
    }

    /// The pids of all processes started so far.
    pub fn all_pids(self) -> BTreeSet<i32> {
        self.shared.pids.iter().collect()
    }
}

/// The pid of this process.
pub fn pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn die_with_parent(signal: Signal) -> Result<()> {
    set_parent_process_death_signal(Some(signal)).context("cannot set the parent death signal")
}
