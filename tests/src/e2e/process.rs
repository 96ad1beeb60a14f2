//! A started program whose output the suite reads while the program runs.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::call;

/// A running program; dropping the value ends it with SIGTERM, and after 10 s with SIGKILL.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
}

/// The exit code and output of a program that has ended.
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
    /// Starts a program with all three standard streams piped.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        Self::start_with_stdout(command, Stdio::piped())
    }

    /// Starts a program whose standard output goes to `stdout`.
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

    /// Writes to the program's standard input.
    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().context("no standard input")?;
        stdin.write_all(text.as_bytes()).context("cannot write to the program's standard input")
    }

    pub(super) fn signal(&self, signal: libc::c_int) -> Result<()> {
        call::kill(self.pid(), signal).context("cannot signal the program")
    }

    /// The first whole line of standard output that begins with `prefix`, without the prefix.
    pub(super) fn printed(&self, prefix: &str) -> Option<String> {
        self.stdout.line(|line| line.starts_with(prefix)).map(|line| line[prefix.len()..].trim().to_owned())
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for a line of standard output that begins with `prefix`, and returns the rest of the line.
    pub(super) fn wait_printed(&self, prefix: &str, timeout: Duration) -> Result<String> {
        let line = self.stdout.wait_line(|line| line.starts_with(prefix), timeout);
        let Some(line) = line else { bail!("did not print {prefix:?}: {}", tail(&self.stderr.text())) };
        Ok(line[prefix.len()..].trim().to_owned())
    }

    /// Waits for the line `ready` on standard error.
    pub(super) fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let ready = self.stderr.wait_line(|line| line.trim() == "ready", timeout);
        ensure!(ready.is_some(), "ipctrace did not print `ready`: {}", tail(&self.stderr.text()));
        Ok(())
    }

    /// Waits until the program ends by itself or by an earlier signal.
    pub(super) fn wait(mut self, timeout: Duration) -> Result<Ended> {
        let end = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < end, "did not end within {} s: {}", timeout.as_secs(), tail(&self.stderr.text()));
            sleep(Duration::from_millis(5));
        };
        // A grandchild may keep the pipes open, so these waits have a timeout.
        self.stdout.wait_closed(Duration::from_secs(2));
        self.stderr.wait_closed(Duration::from_secs(2));
        let stdout = self.stdout.lock().bytes.clone();
        Ok(Ended { code: code_of(status), stdout, stderr: self.stderr.text() })
    }

    /// Sends a signal and waits for the end.
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
    /// Fails after a panic or a crash, which are bugs in every test.
    pub(super) fn no_panic(&self) -> Result<()> {
        let panicked = self.code == 101 || self.stderr.contains("panicked at");
        ensure!(!panicked, "ipctrace panicked: {}", tail(&self.stderr));
        let crashed = [libc::SIGSEGV, libc::SIGABRT, libc::SIGBUS].iter().any(|signal| self.code == 128 + signal);
        ensure!(!crashed, "ipctrace crashed with code {}", self.code);
        Ok(())
    }

    /// Fails after a panic, a crash, or any exit code other than `code`.
    pub(super) fn exited(&self, code: i32) -> Result<()> {
        self.no_panic()?;
        ensure!(self.code == code, "exit code {}, expected {code}: {}", self.code, tail(&self.stderr));
        Ok(())
    }
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

/// Searches whole lines only, because the last one may still be incomplete.
fn find(text: &Text, wanted: &impl Fn(&str) -> bool) -> Option<String> {
    let whole = text.bytes.iter().rposition(|&byte| byte == b'\n')?;
    String::from_utf8_lossy(&text.bytes[..whole]).lines().find(|line| wanted(line)).map(ToOwned::to_owned)
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// The last 6 lines of a text, at most 600 characters, for error messages.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(6).collect();
    let text = lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
    match text.char_indices().rev().nth(599) {
        Some((at, _)) => format!("...{}", &text[at..]),
        None => text,
    }
}
