//! The end-to-end suite: plays incidents under a real `ipctrace` and compares its reports with the truth.

mod batch;
mod fault;
mod late;
mod outcome;
mod session;
mod stress;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use outcome::{Outcome, Tally};

/// How the suite runs.
#[derive(Debug)]
pub struct Settings {
    /// The `ipctrace` under test.
    pub tool: PathBuf,
    /// The `incidents` program.
    pub incidents: PathBuf,
    /// In a VM: read-only root, slow time, machine-readable results.
    pub vm: bool,
    /// Forces one backend.
    pub backend: Option<String>,
    /// Widens tolerances of durations and time limits.
    pub time_scale: f64,
    /// Only cases whose full name holds one of these; all if empty.
    pub filters: Vec<String>,
    /// One session for each case rather than one for all.
    pub alone: bool,
    /// Each case by its pid, in a session of its own, and nothing else: traces to keep as fixtures.
    pub by_pid: bool,
    /// Attach only when the incidents are complete, and nothing else.
    pub late: bool,
    /// Where reports, traces and truths of this run are written.
    pub directory: PathBuf,
}

impl Settings {
    /// True if the filters let this full name through.
    pub fn wants(&self, full_name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| full_name.contains(filter.as_str()))
    }

    pub fn backend_name(&self) -> &str {
        self.backend.as_deref().unwrap_or("auto")
    }

    fn scaled(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).mul_f64(self.time_scale.max(1.0))
    }

    /// What a report needs after the last event: one tick of the tool, and then some.
    fn settle(&self) -> Duration {
        Duration::from_millis(if self.vm { 3000 } else { 1200 })
    }
}

/// Runs everything that the filters let through.
pub fn run(settings: &Settings) -> Result<Tally> {
    for program in [&settings.tool, &settings.incidents] {
        ensure!(program.exists(), "{} does not exist; build it first (cargo xtask build)", program.display());
    }
    ensure!(rustix::process::geteuid().is_root(), "the end-to-end suite must run as root");
    let mut tally = Tally::new(settings);
    batch::run(settings, &mut tally).context("cannot run the incidents")?;
    if !settings.by_pid && !settings.late {
        fault::run(settings, &mut tally).context("cannot run the fault tests")?;
        stress::run(settings, &mut tally).context("cannot run the stressors")?;
    }
    Ok(tally)
}

/// The full names of all cases, for `--list`.
pub fn names() -> Vec<String> {
    batch::names().into_iter().chain(fault::names()).chain(stress::names()).collect()
}

/// Makes sure that there is a place for files: in a VM the root file system is the host's and read-only.
pub fn writable_tmp(vm: bool) -> Result<()> {
    if tempfile::tempfile_in("/tmp").is_ok() {
        return Ok(());
    }
    ensure!(vm, "/tmp is not writable");
    rustix::mount::mount("tmpfs", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None)
        .context("/tmp is not writable and a tmpfs cannot be mounted on it")
}
