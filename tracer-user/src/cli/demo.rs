//! `demo`: reproduces incidents on this machine, one after the other, and diagnoses each.
//!
//! The programs with the bugs are in the binary `incidents`, in the same directory as this one.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::args::{Output, ReportFormat};
use super::{output, value, watch};
use tracer_collector::kernel::plan::Backend;
use tracer_collector::stream::{Live, Options, Target};
use tracer_report::Reporter;

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One incident; all of them by default
    incident: Option<String>,
    /// Prefer this backend wherever it works
    #[arg(long, value_parser = value::choice(Backend::CHOICES))]
    backend: Option<Backend>,
}

/// The incidents, each with its story.
const INCIDENTS: &[(&str, &str)] = &[
    ("sem-leak", "workers create semaphore sets and do not remove them on the error path"),
    ("fd-leak", "a worker receives descriptors over a socket and forgets to close those of failed requests"),
    ("pipe-stall", "a reader pauses, the pipe fills, and the writer blocks"),
    ("zombie-leak", "a SIGCHLD handler calls waitpid once, although one signal may stand for many children"),
    ("eventfd-overflow", "a producer ignores EAGAIN of a full eventfd"),
];

/// Time between the end of the incident and the end of the run: the collector reads its counters once a second.
const SETTLE: Duration = Duration::from_millis(1200);

/// Runs the command.
///
/// # Errors
/// The incident or the program `incidents` does not exist; or as `watch`.
pub fn main(args: &Args) -> Result<u8> {
    let chosen: Vec<_> =
        INCIDENTS.iter().filter(|(name, _)| args.incident.as_deref().is_none_or(|i| i == *name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = INCIDENTS.iter().map(|(n, _)| *n).collect();
        bail!("no such incident; the incidents are {}", names.join(", "));
    }
    let program = program()?;
    let runtime = watch::runtime()?;
    for (name, story) in chosen {
        output::print(&format!("=== {name}: {story}\n\n"))?;
        runtime.block_on(one(&program, name, args))?;
    }
    Ok(0)
}

fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let path = own.with_file_name("incidents");
    if !path.exists() {
        bail!("{} is missing; `cargo xtask demo` builds it", path.display());
    }
    Ok(path)
}

async fn one(program: &PathBuf, name: &str, args: &Args) -> Result<()> {
    let mut incident = Incident::start(program, name)?;
    let pid = incident.pid()?;
    let options = Options { backend: args.backend, ..Options::new(Target::Pids(vec![pid])) };
    let mut live = Live::attach(options)?;
    let mut reporter = Reporter::default();
    live.baseline(&mut |r| reporter.take(&r));
    incident.go()?;
    let mut lines = incident.lines()?;
    let complete =
        tokio::task::spawn_blocking(move || lines.find(|l| l.as_ref().is_ok_and(|l| l.starts_with("READY"))));
    let stop = async {
        let complete = complete.await;
        tokio::time::sleep(SETTLE).await;
        complete
    };
    let complete = live.run(stop, &mut |r| reporter.take(&r)).await?;
    if complete.ok().flatten().is_none() {
        bail!("the incident {name} did not complete; run `{} {name}` to see why", program.display());
    }
    drop(live);
    output::write(&reporter, &Output { format: ReportFormat::Text, output: None })?;
    output::print("\n")
}

/// The running program; terminated and reaped when dropped.
struct Incident {
    child: Child,
    out: Option<BufReader<std::process::ChildStdout>>,
}

impl Incident {
    fn start(program: &PathBuf, name: &str) -> Result<Self> {
        let mut child = Command::new(program)
            .args([name, "--wait", "--hold", "30"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let out = child.stdout.take().map(BufReader::new);
        Ok(Self { child, out })
    }

    /// Reads the line `PID n`, after which the program waits.
    fn pid(&mut self) -> Result<u32> {
        let mut line = String::new();
        if let Some(out) = &mut self.out {
            out.read_line(&mut line).context("cannot read from the incident")?;
        }
        line.trim()
            .strip_prefix("PID ")
            .and_then(|p| p.parse().ok())
            .with_context(|| format!("the incident printed {line:?} instead of its pid"))
    }

    fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the incident has no stdin")?;
        stdin.write_all(b"\n").context("cannot start the incident")
    }

    fn lines(&mut self) -> Result<std::io::Lines<BufReader<std::process::ChildStdout>>> {
        Ok(self.out.take().context("the incident has no stdout")?.lines())
    }
}

impl Drop for Incident {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // On SIGTERM it removes its objects itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}
