//! The tracers that are compared: each starts on a pid, and ends as its user would end it.

use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::workload::Work;
use crate::machine::{Machine, find_on_path};
use crate::step::each_line;

/// The longest time that a tracer may take to attach, or to end.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How a workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    Untraced,
    /// ipctrace on another process
    IpctraceOther,
    /// ipctrace on the workload
    Ipctrace,
    /// The smallest bpftrace script for the same question, on another process
    BpftraceOther,
    /// The smallest bpftrace script for the same question, on the workload
    Bpftrace,
    /// strace -f -c
    Strace,
}

impl Mode {
    pub(crate) const ALL: [Self; 6] =
        [Self::Untraced, Self::IpctraceOther, Self::Ipctrace, Self::BpftraceOther, Self::Bpftrace, Self::Strace];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Untraced => "untraced",
            Self::IpctraceOther => "ipctrace-other",
            Self::Ipctrace => "ipctrace",
            Self::BpftraceOther => "bpftrace-other",
            Self::Bpftrace => "bpftrace",
            Self::Strace => "strace",
        }
    }

    /// Whether the tracer's target is the workload itself.
    pub(crate) fn traces_workload(self) -> bool {
        match self {
            Self::Ipctrace | Self::Bpftrace | Self::Strace => true,
            Self::Untraced | Self::IpctraceOther | Self::BpftraceOther => false,
        }
    }
}

/// A running tracer.
pub(crate) struct Tracer {
    child: Child,
    lines: Receiver<String>,
    /// Its output so far.
    output: Vec<String>,
    _folder: tempfile::TempDir,
}

/// Starts the mode's tracer on a process and returns once it traces; `None` for untraced.
pub(crate) fn start(machine: &Machine, mode: Mode, work: Work, target: u32) -> Result<Option<Tracer>> {
    let folder = tempfile::tempdir().context("cannot create a folder for the tracer's output")?;
    let Some((mut command, ready)) = command(machine, mode, work, &target.to_string(), folder.path())? else {
        return Ok(None);
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (sender, lines) = channel();
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            each_line(BufReader::new(output), |line| {
                // The receiver is gone once the tracer is finished.
                let _ = sender.send(line.to_owned());
            });
        });
    }
    // Only the threads hold senders now, so the channel closes with the tracer's output.
    drop(sender);
    let mut tracer = Tracer { child, lines, output: Vec::new(), _folder: folder };
    tracer.wait_for(ready)?;
    Ok(Some(tracer))
}

/// The tracer's command, and the text in its output once it traces.
fn command(
    machine: &Machine,
    mode: Mode,
    work: Work,
    target: &str,
    folder: &Path,
) -> Result<Option<(Command, &'static str)>> {
    Ok(match mode {
        Mode::Untraced => None,
        Mode::Ipctrace | Mode::IpctraceOther => {
            let mut command = Command::new(machine.release_binary("ipctrace"));
            command.args(["watch", "-p", target, "--format", "json", "-o"]).arg(folder.join("report.json"));
            Some((command, "ready"))
        }
        Mode::Bpftrace | Mode::BpftraceOther => {
            // bpftrace reads tracefs below debugfs, which not every machine mounts. A mount namespace of its own
            // leaves nothing behind.
            let mut command = Command::new(installed("unshare")?);
            command
                .args(["--mount", "sh", "-c"])
                .arg(
                    "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; \
                     mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; exec \"$@\"",
                )
                .arg("sh")
                .arg(installed("bpftrace")?)
                .args(["-B", "line", "-e", &script(work, target)]);
            Some((command, "ready"))
        }
        Mode::Strace => {
            let mut command = Command::new(installed("strace")?);
            command.args(["-f", "-c", "-p", target, "-o"]).arg(folder.join("counts"));
            Some((command, "attached"))
        }
    })
}

impl Tracer {
    fn wait_for(&mut self, text: &str) -> Result<()> {
        let until = Instant::now() + TIMEOUT;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.output.push(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the tracer did not attach within {} s", TIMEOUT.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the tracer ended early: {}", self.output.join("; "))
                }
            }
        }
    }

    /// Ends the tracer with SIGINT, and checks that it traced.
    pub(crate) fn finish(mut self, mode: Mode) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("a pid beyond 31 bits")?;
        if let Some(pid) = Pid::from_raw(id) {
            // It may have ended by itself; its status shows that.
            let _ = kill_process(pid, Signal::INT);
        }
        let until = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the tracer")? {
                break status;
            }
            if Instant::now() > until {
                bail!("the tracer did not end within {} s after SIGINT", TIMEOUT.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        };
        self.output.extend(self.lines.iter());
        let own = matches!(mode, Mode::Ipctrace | Mode::IpctraceOther);
        if own && !status.success() {
            bail!("ipctrace ended with {status}: {}", self.output.join("; "));
        }
        // A tracer that records nothing costs nothing, so its time would mean nothing.
        let counted = self.output.iter().any(|line| line.starts_with("@calls["));
        if mode == Mode::Bpftrace && !counted {
            bail!("bpftrace counted no call: {}", self.output.join("; "));
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may still run after an error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(program: &str) -> Result<std::path::PathBuf> {
    find_on_path(program).with_context(|| format!("{program} is not installed: apt-get install {program}"))
}

/// A script that counts calls and keeps a histogram of their durations, for each object of one process.
fn script(work: Work, target: &str) -> String {
    // The system calls, and their argument that is the object.
    let (calls, object): (&[&str], &str) = match work {
        Work::PipePingpong | Work::PipeBulk | Work::Eventfd => (&["read", "write"], "fd"),
        // glibc's semop is the system call semtimedop on some versions.
        Work::SemopPingpong => (&["semop", "semtimedop"], "semid"),
    };
    let mut script = String::new();
    for call in calls {
        script.push_str(&format!(
            "tracepoint:syscalls:sys_enter_{call} /pid == {target}/ \
             {{ @object[tid] = args->{object}; @start[tid] = nsecs; }}\n\
             tracepoint:syscalls:sys_exit_{call} /pid == {target} && @start[tid]/ \
             {{ @calls[@object[tid]] = count(); \
             @us[@object[tid]] = hist((nsecs - @start[tid]) / 1000); \
             delete(@start[tid]); delete(@object[tid]); }}\n"
        ));
    }
    // BEGIN runs before the probes are attached. The timer is attached last.
    script.push_str("interval:ms:250 { printf(\"ready\\n\"); }\n");
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn modes_are_named_as_the_command_line_does() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_str(mode.name(), false), Ok(mode));
        }
        assert_eq!(Mode::ALL.len(), Mode::value_variants().len());
    }

    #[test]
    fn each_script_filters_by_pid() {
        for work in Work::ALL {
            let script = script(work, "4711");
            let probes = script.matches("tracepoint:").count();
            assert_eq!(script.matches("pid == 4711").count(), probes, "{script}");
        }
    }
}
