//! The end-to-end suite: plays incidents under a real `ipctrace` and compares its reports with the ground truth.

mod batch;
mod comparison;
mod fault;
mod late;
mod outcome;
mod process;
mod settings;
mod stress;
mod traced_run;

use anyhow::{Context, Result, ensure};

pub use outcome::{Outcome, Tally};
pub use settings::Settings;

/// Runs every case that the filters select.
///
/// # Errors
/// A program is missing, the caller is not root, or a group of cases cannot start.
/// A failed case is not an error: the tally counts it.
pub fn run(settings: &Settings) -> Result<Tally> {
    for program in [&settings.tool, &settings.incidents] {
        ensure!(program.exists(), "{} does not exist; build it first (cargo xtask build)", program.display());
    }
    ensure!(rustix::process::geteuid().is_root(), "the end-to-end suite needs root; run it with sudo");
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

/// Ensures that `/tmp` is writable; in a VM, whose root file system is the host's and read-only, mounts a tmpfs on it.
///
/// # Errors
/// `/tmp` is read-only and this is not a VM, or the mount fails.
pub fn writable_tmp(vm: bool) -> Result<()> {
    if tempfile::tempfile_in("/tmp").is_ok() {
        return Ok(());
    }
    ensure!(vm, "/tmp is not writable");
    rustix::mount::mount("tmpfs", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None)
        .context("/tmp is not writable and a tmpfs cannot be mounted on it")
}
