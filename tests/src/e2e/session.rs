//! A started program whose output is read while it runs, and `ipctrace` sessions made of it.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Settings;
use crate::call;
use crate::incident::Skip;

/// A running program.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// What a program left behind.
#[derive(Debug)]
pub(super) struct Ended {
    /// The exit code; 128+n if signal n ended it.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

#[derive(Clone, Debug, Default)]
struct Output(Arc<(Mutex<Text>, Condvar)>);

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    closed: bool,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        Self::start_with_stdout(command, Stdio::piped())
    }

    pub(super) fn start_with_stdout(command: &mut Command, stdout: Stdio) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = Output::collect(child.stdout.take());
        let stderr = Output::collect(child.stderr.take());
        Ok(Self { child, stdout, stderr })
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Writes to its standard input.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        stdin.write_all(text.as_bytes()).context("cannot write to the program's standard input")
    }

    pub(super) fn signal(&self, signal: libc::c_int) -> Result<()> {
        call::kill(self.pid(), signal).context("cannot signal the program")
    }

    /// The first whole line of standard output that begins so, without that beginning.
    pub(super) fn printed(&self, prefix: &str) -> Option<String> {
        self.stdout.line(|line| line.starts_with(prefix)).map(|line| line[prefix.len()..].trim().to_owned())
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for a line of standard output.
    pub(super) fn wait_printed(&self, prefix: &str, timeout: Duration) -> Result<String> {
        let line = self.stdout.wait_line(|line| line.starts_with(prefix), timeout);
        let Some(line) = line else { bail!("did not print {prefix:?}: {}", tail(&self.stderr.text())) };
        Ok(line[prefix.len()..].trim().to_owned())
    }

    /// Waits for the line `ready` on standard error.
    pub(super) fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let ready = self.stderr.wait_line(|line| line.trim() == "ready", timeout);
        ensure!(ready.is_some(), "ipctrace did not say `ready`: {}", tail(&self.stderr.text()));
        Ok(())
    }

    /// Waits until it has ended by itself or by a signal sent before.
    pub(super) fn wait(mut self, timeout: Duration) -> Result<Ended> {
        let end = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "did not end within {} s: {}", timeout.as_secs(), tail(&self.stderr.text()));
            sleep(Duration::from_millis(5));
        };
        // A grandchild may keep the pipes open, so this does not wait for ever.
        self.stdout.wait_closed(Duration::from_secs(2));
        self.stderr.wait_closed(Duration::from_secs(2));
        let stdout = self.stdout.lock().bytes.clone();
        Ok(Ended { code: code_of(status), stdout, stderr: self.stderr.text() })
    }

    pub(super) fn stop(self, signal: libc::c_int, timeout: Duration) -> Result<Ended> {
        self.signal(signal)?;
        self.wait(timeout)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        let _ = self.signal(libc::SIGTERM);
        let end = Instant::now() + Duration::from_secs(10);
        while !self.has_ended() && Instant::now() < end {
            sleep(Duration::from_millis(2));
        }
        if !self.has_ended() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ended {
    /// A panic is a bug whatever the test is about.
    pub(super) fn no_panic(&self) -> Result<()> {
        let panicked = self.code == 101 || self.stderr.contains("panicked at");
        ensure!(!panicked, "ipctrace panicked: {}", tail(&self.stderr));
        let crashed = [libc::SIGSEGV, libc::SIGABRT, libc::SIGBUS].iter().any(|signal| self.code == 128 + signal);
        ensure!(!crashed, "ipctrace crashed with code {}", self.code);
        Ok(())
    }

    pub(super) fn exited(&self, code: i32) -> Result<()> {
        self.no_panic()?;
        ensure!(self.code == code, "exit code {} rather than {code}: {}", self.code, tail(&self.stderr));
        Ok(())
    }

    /// The report on standard output.
    pub(super) fn report(&self) -> Result<Value> {
        parse_report(&self.stdout)
    }
}

/// Reads a JSON report and looks at its frame.
pub(super) fn parse_report(bytes: &[u8]) -> Result<Value> {
    let report: Value = serde_json::from_slice(bytes)
        .with_context(|| format!("the report is not JSON: {:?}", tail(&String::from_utf8_lossy(bytes))))?;
    ensure!(report["schema"] == 1, "the report's schema is {}", report["schema"]);
    ensure!(report["findings"].is_array(), "the report has no list of findings");
    Ok(report)
}

/// A `watch` session that writes report and trace to files.
#[derive(Debug)]
pub(super) struct Watch {
    running: Running,
    pub report: PathBuf,
    pub trace: PathBuf,
    timeout: Duration,
}

impl Watch {
    /// Starts it and waits for `ready`; `name` becomes the names of its files.
    pub(super) fn start(settings: &Settings, name: &str, args: &[&str]) -> Result<Self> {
        let report = settings.directory.join(format!("{name}.json"));
        let trace = settings.directory.join(format!("{name}.trace"));
        let mut command = tool(settings, "watch");
        command.args(["--format", "json", "-o"]).arg(&report).arg("--save").arg(&trace).args(args);
        let running = Running::start(&mut command)?;
        running.wait_ready(settings.scaled(60))?;
        Ok(Self { running, report, trace, timeout: settings.scaled(20) })
    }

    pub(super) fn pid(&self) -> i32 {
        self.running.pid()
    }

    pub(super) fn signal(&self, signal: libc::c_int) -> Result<()> {
        self.running.signal(signal)
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }

    /// Ends it and reads the report.
    pub(super) fn finish(self) -> Result<(Value, PathBuf)> {
        // It may have ended by itself when its target did.
        let _ = self.running.signal(libc::SIGINT);
        self.finished()
    }

    /// Waits for its end and reads the report.
    pub(super) fn finished(self) -> Result<(Value, PathBuf)> {
        let ended = self.running.wait(self.timeout)?;
        ended.exited(0)?;
        let bytes = std::fs::read(&self.report)
            .with_context(|| format!("ipctrace ended well but wrote no {}", self.report.display()))?;
        Ok((parse_report(&bytes)?, self.trace))
    }

    /// Ends it at once, without a report.
    pub(super) fn kill(self) -> Result<PathBuf> {
        self.running.signal(libc::SIGKILL)?;
        let ended = self.running.wait(self.timeout)?;
        ensure!(ended.code == 128 + libc::SIGKILL, "ended by itself with {}", ended.code);
        Ok(self.trace)
    }
}

/// `ipctrace SUBCOMMAND`, with the backend where the subcommand attaches anything.
pub(super) fn tool(settings: &Settings, subcommand: &str) -> Command {
    let mut command = Command::new(&settings.tool);
    command.arg(subcommand);
    if let (Some(backend), "watch" | "run" | "record") = (&settings.backend, subcommand) {
        command.args(["--backend", backend]);
    }
    command
}

/// Starts an incident; it is held until it is dropped.
pub(super) fn incident(settings: &Settings, args: &[&str]) -> Result<Running> {
    Running::start(Command::new(&settings.incidents).args(args).args(["--hold", "3600"]))
}

/// Starts an incident and waits until it is complete.
///
/// # Errors
/// A [`Skip`] if this machine cannot play it.
pub(super) fn complete_incident(settings: &Settings, args: &[&str]) -> Result<(Running, crate::truth::Truth)> {
    let running = incident(settings, args)?;
    let truth = running.wait_printed("READY ", settings.scaled(60));
    // It ends after it has said this, so the wait is over at once.
    if let Some(reason) = running.printed("SKIP ") {
        return Err(Skip(reason).into());
    }
    let truth = truth.with_context(|| format!("incident {args:?}"))?;
    Ok((running, serde_json::from_str(&truth)?))
}

/// `ipctrace report FILE --format json`.
pub(super) fn replay(settings: &Settings, trace: &std::path::Path) -> Result<Ended> {
    Running::start(tool(settings, "report").arg(trace).args(["--format", "json"]))?.wait(settings.scaled(20))
}

impl Output {
    fn collect(stream: Option<impl Read + Send + 'static>) -> Self {
        let output = Self::default();
        let Some(mut stream) = stream else {
            output.lock().closed = true;
            return output;
        };
        let ours = output.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let read = stream.read(&mut buffer).unwrap_or(0);
                let mut text = ours.lock();
                text.bytes.extend_from_slice(&buffer[..read]);
                text.closed = read == 0;
                ours.0.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        output
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        find(&self.lock(), &wanted)
    }

    fn wait_line(&self, wanted: impl Fn(&str) -> bool, timeout: Duration) -> Option<String> {
        let mut found = None;
        self.wait_until(timeout, |text| {
            found = find(text, &wanted);
            found.is_some() || text.closed
        });
        found
    }

    fn wait_closed(&self, timeout: Duration) {
        self.wait_until(timeout, |text| text.closed);
    }

    fn wait_until(&self, timeout: Duration, mut done: impl FnMut(&Text) -> bool) {
        let end = Instant::now() + timeout;
        let mut text = self.lock();
        while !done(&text) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            text = self.0.1.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Only whole lines: the rest may still be coming.
fn find(text: &Text, wanted: &impl Fn(&str) -> bool) -> Option<String> {
    let whole = text.bytes.iter().rposition(|&byte| byte == b'\n')?;
    String::from_utf8_lossy(&text.bytes[..whole]).lines().find(|line| wanted(line)).map(ToOwned::to_owned)
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The end of a long text, for messages.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(6).collect();
    let text = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
    match text.char_indices().rev().nth(599) {
        Some((at, _)) => format!("...{}", &text[at..]),
        None => text,
    }
}
