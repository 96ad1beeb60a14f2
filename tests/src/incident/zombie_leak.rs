//! A parent leaves exited children unreaped, for each cause that a finding can name.
//!
//! Healthy: three parents without zombies.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result, ensure};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, pipe_with};

use super::options::{Cause, Fix, Options};
use crate::call;
use crate::stage::{Stage, pid, proc};
use crate::truth::{Expected, Truth};

const CHILDREN: usize = 50;
/// Bursts of exits, so that the handler that reaps one child per SIGCHLD runs more than once.
const BURSTS: usize = 5;
/// Children that a parent reaps before it blocks.
const REAPED_BEFORE: usize = 5;
/// Orphans of a pid 1 that does not reap.
const ORPHANS: usize = 10;

const DONE: usize = 0;
const INIT: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    if options.bug() { leak(stage, options.cause) } else { healthy(stage, options.fix) }
}

fn leak(stage: Stage, cause: Cause) -> Result<Truth> {
    let mut parent = stage.spawn(&[], move || match cause {
        Cause::OneWaitPerSignal => one_wait_per_signal(stage),
        Cause::NeverWaits => never_waits(stage),
        Cause::WaitsForOthers => waits_for_others(stage),
        Cause::SigchldBlocked => sigchld_blocked(stage),
        Cause::ParentBlocked => parent_blocked(stage),
        Cause::InitDoesNotReap => init_does_not_reap(stage),
    })?;
    stage.await_slot(DONE, 1)?;
    let base = Expected::new("zombie-leak");
    let (expected, unreaped) = match cause {
        Cause::OneWaitPerSignal => (
            base.cause("one-wait-per-signal")
                .exact("exits", CHILDREN)
                .exact("sigchld_coalesced", CHILDREN - BURSTS)
                .exact("waits", BURSTS)
                .exact("reaped", BURSTS),
            CHILDREN - BURSTS,
        ),
        Cause::NeverWaits => {
            (base.cause("never-waits").exact("exits", CHILDREN).exact("waits", 0).exact("reaped", 0), CHILDREN)
        }
        Cause::WaitsForOthers => (base.cause("waits-for-others").exact("exits", CHILDREN).exact("reaped", 0), CHILDREN),
        Cause::SigchldBlocked => (
            base.cause("sigchld-blocked")
                .exact("exits", CHILDREN)
                .exact("sigchld_coalesced", CHILDREN - 1)
                .exact("waits", 0)
                .exact("reaped", 0),
            CHILDREN,
        ),
        Cause::ParentBlocked => (
            base.cause("parent-blocked").exact("exits", CHILDREN + REAPED_BEFORE).exact("reaped", REAPED_BEFORE),
            CHILDREN,
        ),
        Cause::InitDoesNotReap => {
            parent = stage.value(INIT) as i32;
            (base.cause("init-does-not-reap"), ORPHANS + 1)
        }
    };
    let zombies = proc::zombies(parent);
    ensure!(zombies.len() == unreaped, "{} zombies, expected {unreaped}", zombies.len());
    let expected = expected.exact("unreaped", unreaped).pids(zombies.iter().copied()).role("parent", parent);
    let mut truth = Truth::one(expected).role("parent", [parent]).role("zombie", zombies.iter().copied());
    truth.all_pids.extend(zombies);
    truth.all_pids.insert(parent);
    // The blocked write of this parent is a stall as well.
    Ok(if cause == Cause::ParentBlocked { truth.may("pipe-stall") } else { truth })
}

/// Starts children that exit at once, and waits until all of them are zombies.
fn burst(stage: Stage, count: usize) -> Result<()> {
    let mut children = Vec::new();
    for _ in 0..count {
        children.push(stage.spawn(&[], || Ok(()))?);
    }
    stage.wait_for("the children to end", || Ok(children.iter().all(|&child| proc::state(child) == Some('Z'))))
}

extern "C" fn reap_just_one(_: libc::c_int) {
    call::reap_one();
}

extern "C" fn reap_all(_: libc::c_int) {
    while call::reap_one() {}
}

fn done(stage: Stage) -> ! {
    stage.reach(DONE, 1);
    stage.idle()
}

fn one_wait_per_signal(stage: Stage) -> Result<()> {
    call::on_signal(libc::SIGCHLD, reap_just_one, libc::SA_RESTART)?;
    for _ in 0..BURSTS {
        // SIGCHLD is blocked while a burst of children exits, so exactly one is pending afterwards.
        call::mask(libc::SIG_BLOCK, &[libc::SIGCHLD])?;
        burst(stage, CHILDREN / BURSTS)?;
        call::mask(libc::SIG_UNBLOCK, &[libc::SIGCHLD])?;
    }
    done(stage)
}

fn never_waits(stage: Stage) -> Result<()> {
    burst(stage, CHILDREN)?;
    done(stage)
}

fn waits_for_others(stage: Stage) -> Result<()> {
    let lasting = stage.spawn(&[], || stage.idle())?;
    let parent = pid();
    // Reports that the incident is complete, because the parent blocks then.
    stage.spawn(&[], move || {
        stage.wait_for("all children to be zombies", || Ok(proc::zombies(parent).len() == CHILDREN))?;
        stage.wait_until_blocked(parent, libc::SYS_wait4)?;
        done(stage)
    })?;
    for _ in 0..CHILDREN {
        stage.spawn(&[], || Ok(()))?;
    }
    call::wait_for_pid(lasting)?;
    Ok(())
}

fn sigchld_blocked(stage: Stage) -> Result<()> {
    call::on_signal(libc::SIGCHLD, reap_all, libc::SA_RESTART)?;
    call::mask(libc::SIG_BLOCK, &[libc::SIGCHLD])?;
    burst(stage, CHILDREN)?;
    done(stage)
}

/// An event loop that reaps after each event, until it blocks in the write of a log line.
fn parent_blocked(stage: Stage) -> Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    for _ in 0..REAPED_BEFORE {
        burst(stage, 1)?;
        ensure!(call::reap_one(), "no child to reap");
    }
    let room = fcntl_getpipe_size(&writer)?;
    fill(&writer, room)?;
    let parent = pid();
    stage.spawn(&[], move || {
        // The reader of the log does not read.
        let _reader = reader;
        stage.wait_for("all children to be zombies", || Ok(proc::zombies(parent).len() == CHILDREN))?;
        stage.wait_until_blocked(parent, libc::SYS_write)?;
        done(stage)
    })?;
    for _ in 0..CHILDREN {
        stage.spawn(&[], || Ok(()))?;
    }
    fill(&writer, 1)
}

fn fill(pipe: &OwnedFd, bytes: usize) -> Result<()> {
    rustix::io::write(pipe, &vec![b'.'; bytes]).map(drop).context("cannot write")
}

/// A container whose pid 1 does not reap the orphans that the kernel reparents to it.
fn init_does_not_reap(stage: Stage) -> Result<()> {
    call::unshare(libc::CLONE_NEWPID).context("cannot make a pid namespace; run as root")?;
    let Some(init) = call::fork()? else { pid_one(stage) };
    stage.reach(INIT, init as u64);
    stage.wait_for("the orphans", || Ok(proc::zombies(init).len() == ORPHANS + 1))?;
    done(stage)
}

/// Pid 1 of its namespace. It must not register pids, which are those of the new pid namespace.
fn pid_one(stage: Stage) -> ! {
    let death = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if death.is_err() {
        call::exit_now(1);
    }
    match call::fork() {
        Ok(None) => {
            for _ in 0..ORPHANS {
                if matches!(call::fork(), Ok(None)) {
                    call::exit_now(0);
                }
            }
            call::exit_now(0)
        }
        Ok(Some(_)) => stage.idle(),
        Err(_) => call::exit_now(1),
    }
}

fn healthy(stage: Stage, fix: Fix) -> Result<Truth> {
    let parent = stage.spawn(&[], move || {
        match fix {
            Fix::Loop => call::on_signal(libc::SIGCHLD, reap_all, libc::SA_RESTART)?,
            Fix::Nocldwait => call::set_action(libc::SIGCHLD, libc::SIG_DFL, libc::SA_NOCLDWAIT)?,
            Fix::Ignore => call::set_action(libc::SIGCHLD, libc::SIG_IGN, 0)?,
        }
        for _ in 0..CHILDREN {
            stage.spawn(&[], || Ok(()))?;
        }
        if fix == Fix::Loop {
            // The same burst as in the bug: one SIGCHLD for ten children.
            call::mask(libc::SIG_BLOCK, &[libc::SIGCHLD])?;
            burst(stage, CHILDREN / BURSTS)?;
            call::mask(libc::SIG_UNBLOCK, &[libc::SIGCHLD])?;
        }
        stage.slot(DONE).fetch_add(1, SeqCst);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    stage.wait_for("all children to be gone", || Ok(proc::children(parent).is_empty()))?;
    Ok(Truth::default().role("parent", [parent]))
}
