//! Healthy: processes close received descriptors in every way other than close(2) by the receiving thread.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, WaitOptions, pidfd_getfd, pidfd_open};

use super::options::Options;
use super::passing;
use crate::call::{self, control_bytes, recv_fds, recv_many};
use crate::skip::Skip;
use crate::stage::{Stage, proc};
use crate::truth::Truth;

/// Enough for a leak finding if ipctrace missed one of the ways.
const FDS: usize = 12;

const DONE: usize = 0;

/// Receives [`FDS`] descriptors and gets rid of them.
type Method = fn(Stage, OwnedFd) -> Result<()>;

const METHODS: &[(&str, Method)] = &[
    ("close_range", by_close_range),
    ("dup2", by_dup2),
    ("exec", by_exec),
    ("exit", by_exit),
    ("thread", by_other_thread),
    ("recvmmsg", by_recvmmsg),
    ("fork", by_fork),
];

pub(super) fn play(stage: Stage, _: &Options) -> Result<Truth> {
    if has_no_pidfd_getfd() {
        return Err(Skip("this kernel has no pidfd_getfd; it needs Linux 5.6".to_owned()).into());
    }
    let mut truth = Truth::default();
    let mut pids = Vec::new();
    for &(name, method) in METHODS {
        let (sender, socket) = passing::sender(stage, FDS, 1)?;
        let receiver = stage.spawn(&[], move || method(stage, socket))?;
        pids.push(receiver);
        truth = truth.role(name, [receiver]).role("sender", [sender]);
    }
    let owner = stage.spawn(&[], move || {
        let _file = File::open(passing::FILE)?;
        stage.idle()
    })?;
    let taker = stage.spawn(&[], move || by_pidfd_getfd(stage, owner))?;
    pids.push(taker);
    stage.wait_for("all processes to be done", || Ok(stage.value(DONE) as usize == pids.len()))?;
    // Two processes are done before they exit or exec, so wait until their descriptors are gone.
    stage.wait_for("the fds to be gone", || Ok(pids.iter().all(|&pid| holds(pid) == 0)))?;
    // The process that exits must not stay a zombie.
    for (&(name, _), &pid) in METHODS.iter().zip(&pids) {
        if name == "exit" {
            rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())
                .context("cannot reap the process that exits")?;
        }
    }
    Ok(truth.role("pidfd_getfd", [taker]).role("owner", [owner]))
}

/// Calls pidfd_getfd with a descriptor beyond every limit: only the error ENOSYS shows that the call is missing.
fn has_no_pidfd_getfd() -> bool {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    let taken = own.and_then(|own| pidfd_getfd(own, std::os::fd::RawFd::MAX, PidfdGetfdFlags::empty()));
    matches!(taken, Err(rustix::io::Errno::NOSYS))
}

/// The number of descriptors of the passed file in a process.
fn holds(pid: i32) -> usize {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    fds.flatten().filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path.as_os_str() == passing::FILE)).count()
}

fn receive(socket: &OwnedFd, flags: libc::c_int) -> Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    while fds.len() < FDS {
        fds.extend(recv_fds(socket, control_bytes(1), flags).context("cannot receive")?.fds);
    }
    Ok(fds)
}

fn done(stage: Stage) {
    stage.slot(DONE).fetch_add(1, SeqCst);
}

fn by_close_range(stage: Stage, socket: OwnedFd) -> Result<()> {
    let mut numbers: Vec<_> = receive(&socket, 0)?.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    // Other descriptors may lie between them, so each run of adjacent ones needs a call.
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        let (Some(&first), Some(&last)) = (run.first(), run.last()) else {
            continue;
        };
        call::close_range(first, last).context("close_range failed")?;
    }
    done(stage);
    stage.idle()
}

fn by_dup2(stage: Stage, socket: OwnedFd) -> Result<()> {
    let mut fds = receive(&socket, 0)?;
    let null = File::open("/dev/null")?;
    for fd in &mut fds {
        rustix::io::dup2(&null, fd).context("dup2 failed")?;
    }
    done(stage);
    // The descriptor numbers stay open for another file.
    stage.idle()
}

fn by_exec(stage: Stage, socket: OwnedFd) -> Result<()> {
    let _fds = receive(&socket, libc::MSG_CMSG_CLOEXEC)?;
    done(stage);
    Err(Command::new("sleep").arg("1000").exec()).context("cannot run sleep")
}

fn by_exit(stage: Stage, socket: OwnedFd) -> Result<()> {
    std::mem::forget(receive(&socket, 0)?);
    done(stage);
    Ok(())
}

fn by_other_thread(stage: Stage, socket: OwnedFd) -> Result<()> {
    let fds = receive(&socket, 0)?;
    let closer = std::thread::spawn(move || {
        drop(fds);
        // The thread stays, so that the descriptor table stays shared.
        done(stage);
        stage.idle()
    });
    closer.join().map_err(|_| anyhow::anyhow!("the closing thread panicked"))
}

fn by_recvmmsg(stage: Stage, socket: OwnedFd) -> Result<()> {
    stage.wait_for("messages in the queue", || Ok(stage.value(passing::SENT) >= FDS as u64))?;
    let mut count = 0;
    while count < FDS {
        count += recv_many(&socket, FDS - count).context("recvmmsg failed")?.len();
    }
    done(stage);
    stage.idle()
}

fn by_fork(stage: Stage, socket: OwnedFd) -> Result<()> {
    let fds = receive(&socket, libc::MSG_CMSG_CLOEXEC)?;
    // The copies in the child end with the child.
    let child = stage.spawn(&[], || Ok(()))?;
    stage.join(child)?;
    drop(fds);
    done(stage);
    stage.idle()
}

fn by_pidfd_getfd(stage: Stage, owner: i32) -> Result<()> {
    let pid = Pid::from_raw(owner).context("no owner")?;
    stage.wait_for("the owner to open its file", || Ok(holds(owner) == 1 && proc::state(owner) == Some('S')))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open failed")?;
    let number = std::fs::read_dir(format!("/proc/{owner}/fd"))?
        .flatten()
        .find(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path.as_os_str() == passing::FILE))
        .and_then(|fd| fd.file_name().to_str()?.parse().ok())
        .context("the owner has no such fd")?;
    let mut taken = Vec::new();
    for _ in 0..FDS {
        taken.push(pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty()).context("pidfd_getfd failed")?);
    }
    ensure!(taken.iter().all(|fd| fd.as_raw_fd() > 2), "a taken descriptor has a standard number");
    drop(taken);
    done(stage);
    stage.idle()
}
