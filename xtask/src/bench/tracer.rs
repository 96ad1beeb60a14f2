//! The tracers that are compared, each started on a pid, waited for until it traces, and ended as
//! its user would end it.

use std::io::{BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::workload::Work;
use crate::machine::{Machine, find_on_path};
use crate::step::each_line;

/// How long a tracer may take to attach, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ways to run a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    Untraced,
    /// ipctrace, on another process
    IpctraceOther,
    /// ipctrace, on the workload
    Ipctrace,
    /// The least bpftrace script that answers the same question, on another process
    BpftraceOther,
    /// The least bpftrace script that answers the same question, on the workload
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

    /// Whether the tracer looks at the workload itself.
    pub(crate) fn matches(self) -> bool {
        match self {
            Self::Ipctrace | Self::Bpftrace | Self::Strace => true,
            Self::Untraced | Self::IpctraceOther | Self::BpftraceOther => false,
        }
    }
}

/// A tracer at work.
pub(crate) struct Tracer {
    child: Child,
    lines: Receiver<String>,
    /// What it said so far.
    said: Vec<String>,
    _folder: tempfile::TempDir,
}

/// Starts the mode's tracer on a process, and returns once it traces. Untraced, there is none.
pub(crate) fn start(machine: &Machine, mode: Mode, work: Work, target: u32) -> Result<Option<Tracer>> {
    let folder = tempfile::tempdir().context("cannot create a folder for the tracer's output")?;
    let target = target.to_string();
    // The command, and the words in a line that say that it traces.
    let (mut command, sign) = match mode {
        Mode::Untraced => return Ok(None),
        Mode::Ipctrace | Mode::IpctraceOther => {
            let mut command = Command::new(machine.release_binary("ipctrace"));
            command.args(["watch", "-p", &target, "--format", "json", "-o"]);
            command.arg(folder.path().join("report.json"));
            (command, "ready")
        }
        Mode::Bpftrace | Mode::BpftraceOther => {
            // It reads tracefs below debugfs; not every machine mounts them. In a mount namespace
            // of its own, nothing of this stays behind.
            let mut command = Command::new(installed("unshare")?);
            command
                .args(["--mount", "sh", "-c"])
                .arg(
                    "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; \
                     mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; exec \"$@\"",
                )
                .arg("sh")
                .arg(installed("bpftrace")?)
                .args(["-B", "line", "-e", &script(work, &target)]);
            (command, "ready")
        }
        Mode::Strace => {
            let mut command = Command::new(installed("strace")?);
            command.args(["-f", "-c", "-p", &target, "-o"]).arg(folder.path().join("counts"));
            (command, "attached")
        }
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
                // Nobody listens once the tracer is done with.
                let _ = sender.send(line.to_owned());
            });
        });
    }
    // Only the readers send now: when both end, so did the tracer's output.
    drop(sender);
    let mut tracer = Tracer { child, lines, said: Vec::new(), _folder: folder };
    tracer.wait_for(sign)?;
    Ok(Some(tracer))
}

impl Tracer {
    fn wait_for(&mut self, sign: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(sign);
                    self.said.push(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("it did not trace within {} s", PATIENCE.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("it ended at once: {}", self.said.join("; "))
                }
            }
        }
    }

    /// Ends the tracer with Ctrl-C, and checks that it saw what it was to see.
    pub(crate) fn finish(mut self, mode: Mode) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("a pid beyond 31 bits")?;
        if let Some(pid) = Pid::from_raw(id) {
            // It may have ended by itself; its status tells.
            let _ = kill_process(pid, Signal::INT);
        }
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the tracer")? {
                break status;
            }
            if Instant::now() > until {
                bail!("it did not end within {} s after SIGINT", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        };
        self.said.extend(self.lines.iter());
        let own = matches!(mode, Mode::Ipctrace | Mode::IpctraceOther);
        if own && !status.success() {
            bail!("ipctrace ended with {status}: {}", self.said.join("; "));
        }
        // A tracer that saw nothing costs nothing: that would be no measurement.
        let counted = self.said.iter().any(|line| line.starts_with("@calls["));
        if mode == Mode::Bpftrace && !counted {
            bail!("bpftrace counted no call: {}", self.said.join("; "));
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // After an error it may still run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(program: &str) -> Result<std::path::PathBuf> {
    find_on_path(program).with_context(|| format!("{program} is not installed: apt-get install {program}"))
}

/// Counts calls and keeps a histogram of their durations, for each object, in one process.
fn script(work: Work, target: &str) -> String {
    // System calls, and the argument that names the object.
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
    // BEGIN runs before the probes are attached; a timer, attached last, does not.
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
