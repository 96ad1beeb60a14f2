//! `run -- CMD`: trace a command from its first instruction.
//!
//! The child waits before its exec until the probes know it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result, anyhow};

use super::args::Run;
use super::watch::{self, Session};
use super::{Fail, exit, output};
use tracer_collector::stream::{Live, Target};

/// Runs the command; the exit code is the command's own.
///
/// # Errors
/// Our own failures, with exit code 125 unless privileges or the kernel are to blame.
pub fn main(args: &Run) -> Result<u8> {
    match trace(args) {
        Err(e) if super::code_of(&e) == exit::RUNTIME => {
            Err(Fail { code: exit::RUN_FAILED, message: format!("{e:#}") }.into())
        }
        other => other,
    }
}

fn trace(args: &Run) -> Result<u8> {
    watch::runtime()?.block_on(async {
        let mut session = Session::open(&args.saving)?;
        let mut live = Live::attach(watch::options(Target::Pids(Vec::new()), &args.probing))?;
        let gated = Gated::start(&args.command)?;
        live.add_target(gated.pid)?;
        session.begin(&mut live);
        let (mut child, _parent) = match gated.release() {
            Ok(child) => child,
            Err(e) => return Ok(cannot_run(&args.command, &e)),
        };
        let ended = async {
            tokio::select! {
                status = wait(&mut child) => Some(status),
                () = watch::stopped(None)? => None,
            }
            .transpose()
        };
        let status = live.run(ended, &mut |r| session.take(r)).await?;
        drop(live);
        let report = output::write(&session.finish(), &args.saving.output)?;
        let status = match status? {
            Some(status) => status,
            // The signal went to the whole foreground group, or to us alone: the command decides when to end.
            None => child.wait().context("cannot wait for the command")?,
        };
        let code = code_of(status);
        let matched = report.findings.iter().any(|f| args.fail_on.contains(&f.code));
        Ok(if code == 0 && matched { exit::FAIL_ON } else { code })
    })
}

/// Waits for the child without blocking the event loop.
async fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut signals =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child()).context("cannot catch SIGCHLD")?;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            return Ok(status);
        }
        signals.recv().await;
    }
}

fn code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => exit::RUN_FAILED,
    }
}

fn cannot_run(command: &[std::ffi::OsString], e: &std::io::Error) -> u8 {
    let name = command.first().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
    eprintln!("ipctrace: cannot run {}: {e}", tracer_report::escape(&name));
    if e.kind() == ErrorKind::NotFound { exit::NOT_FOUND } else { exit::CANNOT_EXECUTE }
}

/// A child that has been forked and waits for its exec.
struct Gated {
    pid: u32,
    gate: std::io::PipeWriter,
    child: Receiver<std::io::Result<Child>>,
    parent: Parent,
}

/// The thread that forked the child stays as long as this is kept: a child that asked for a signal at its parent's end
/// gets it when the thread ends, not the process (prctl(2), PR_SET_PDEATHSIG).
struct Parent(#[expect(dead_code, reason = "its drop ends the thread")] Sender<()>);

impl Gated {
    /// Forks. `Command::spawn` returns only after the exec, so a thread of its own waits for it.
    fn start(words: &[std::ffi::OsString]) -> Result<Self> {
        let (program, rest) = words.split_first().ok_or_else(|| anyhow!("no command"))?;
        let (mut tell_read, mut tell) = std::io::pipe().context("cannot make a pipe")?;
        let (mut wait, gate) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new(program);
        command.args(rest);
        // SAFETY: only read and write of pipes between fork and exec, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                tell.write_all(&std::process::id().to_ne_bytes())?;
                // End of file too: the tracer is gone, the command runs all the same.
                wait.read(&mut [0]).map(drop)
            });
        }
        let (send, child) = channel();
        let (stay, until_dropped) = channel::<()>();
        std::thread::spawn(move || {
            if send.send(command.spawn()).is_ok() {
                // Nothing is ever sent: this ends when the other side is dropped.
                let _ = until_dropped.recv();
            }
        });
        let mut pid = [0; 4];
        if tell_read.read_exact(&mut pid).is_err() {
            return match child.recv() {
                Ok(Err(e)) => Err(e).context("cannot fork"),
                _ => Err(anyhow!("the child ended before its exec")),
            };
        }
        Ok(Self { pid: u32::from_ne_bytes(pid), gate, child, parent: Parent(stay) })
    }

    /// Lets it execute.
    fn release(mut self) -> std::io::Result<(Child, Parent)> {
        self.gate.write_all(&[1])?;
        drop(self.gate);
        let child = self.child.recv().map_err(|_| std::io::Error::other("the spawning thread failed"))??;
        Ok((child, self.parent))
    }
}
