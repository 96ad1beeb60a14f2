//! `run -- CMD`: trace a command from its first instruction.
//!
//! The child is held before its exec until the probes watch it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, Result, anyhow};

use super::args::{Probing, Saving};
use super::exit::{self, Fail};
use super::value::code;
use super::watch::{self, ReportSink};
use super::{message, output};
use tracer_collector::stream::{Live, Target};

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    probing: Probing,
    #[command(flatten)]
    saving: Saving,
    /// Exit with 3 if the command succeeds but one of these findings is reported
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', value_parser = code)]
    fail_on: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

/// Runs the command; returns the exit code of the traced command.
///
/// # Errors
/// ipctrace itself failed; exit code 125, or 4 or 5 if a privilege or a kernel feature is missing.
pub fn main(args: &Args) -> Result<u8> {
    match trace(args) {
        Err(e) if exit::code_of(&e) == exit::RUNTIME => {
            Err(Fail { code: exit::RUN_FAILED, message: format!("{e:#}") }.into())
        }
        other => other,
    }
}

fn trace(args: &Args) -> Result<u8> {
    watch::runtime()?.block_on(async {
        let mut sink = ReportSink::open(&args.saving)?;
        let mut live = Live::attach(watch::options(Target::Pids(Vec::new()), &args.probing))?;
        let gated = Gated::start(&args.command)?;
        live.add_target(gated.pid)?;
        watch::read_baseline(&mut live, &mut |r| sink.take(r));
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
        let status = live.run(ended, &mut |r| sink.take(r)).await?;
        drop(live);
        let report = output::write(&sink.finish(), &args.saving.output)?;
        let status = match status? {
            Some(status) => status,
            // The signal went to the whole foreground group or to ipctrace alone: the command decides when it exits.
            None => child.wait().context("cannot wait for the command")?,
        };
        let code = exit_code(status);
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

/// As a shell reports it: 128 + the number of a fatal signal.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => exit::RUN_FAILED,
    }
}

fn cannot_run(command: &[std::ffi::OsString], e: &std::io::Error) -> u8 {
    let name = command.first().map(|c| c.to_string_lossy().into_owned()).unwrap_or_default();
    message::print(&format!("cannot run {name}: {e}"));
    if e.kind() == ErrorKind::NotFound { exit::NOT_FOUND } else { exit::CANNOT_EXECUTE }
}

/// A forked child that is held before its exec.
struct Gated {
    pid: u32,
    gate: std::io::PipeWriter,
    child: Receiver<std::io::Result<Child>>,
    parent: Parent,
}

/// Keeps the thread that forked the child alive: the kernel sends a parent death signal when that thread exits, not
/// when the process does (prctl(2), PR_SET_PDEATHSIG).
struct Parent(#[expect(dead_code, reason = "its drop ends the thread")] Sender<()>);

impl Gated {
    /// Forks on a thread of its own, because `Command::spawn` returns only after the exec.
    fn start(words: &[std::ffi::OsString]) -> Result<Self> {
        let (program, rest) = words.split_first().ok_or_else(|| anyhow!("no command"))?;
        let (mut pid_reader, mut pid_writer) = std::io::pipe().context("cannot create a pipe")?;
        let (mut wait, gate) = std::io::pipe().context("cannot create a pipe")?;
        let mut command = Command::new(program);
        command.args(rest);
        // SAFETY: only read and write of pipes between fork and exec, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                pid_writer.write_all(&std::process::id().to_ne_bytes())?;
                // Returns on end of file too: if the tracer is gone, the command runs all the same.
                wait.read(&mut [0]).map(drop)
            });
        }
        let (send, child) = channel();
        let (stay, until_dropped) = channel::<()>();
        std::thread::spawn(move || {
            if send.send(command.spawn()).is_ok() {
                // Nothing is ever sent: this returns when the sender is dropped.
                let _ = until_dropped.recv();
            }
        });
        let mut pid = [0; 4];
        if pid_reader.read_exact(&mut pid).is_err() {
            return match child.recv() {
                Ok(Err(e)) => Err(e).context("cannot fork"),
                _ => Err(anyhow!("the child exited before its exec")),
            };
        }
        Ok(Self { pid: u32::from_ne_bytes(pid), gate, child, parent: Parent(stay) })
    }

    /// Lets the child continue to its exec.
    fn release(mut self) -> std::io::Result<(Child, Parent)> {
        self.gate.write_all(&[1])?;
        drop(self.gate);
        let child = self.child.recv().map_err(|_| std::io::Error::other("the spawning thread failed"))??;
        Ok((child, self.parent))
    }
}
