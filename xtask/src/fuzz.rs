//! `cargo xtask fuzz`: mutated traces through all of `report`, to find what panics.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::setup;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs; without end if only --seconds is said [default: 100000 without --seconds]
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// The first run's number: the same number makes the same trace
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Only read and decode, short traces: many more runs
    #[arg(long)]
    reader: bool,
}

/// Builds with optimization and with checks of arithmetic, and runs.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    if !machine.bpf_object().exists() {
        crate::build::ebpf(machine, &setup::toolchain(machine)?)?;
    }
    let mut cargo = Command::new("cargo");
    cargo
        .args(["run", "--quiet", "--profile", "fuzz", "--package", "tracer-report", "--example", "fuzz", "--"])
        .args(["--first", &options.first.to_string()])
        .current_dir(&machine.repo);
    let runs = options.runs.or(options.seconds.is_none().then_some(100_000));
    for (name, value) in [("--runs", runs), ("--seconds", options.seconds)] {
        cargo.args(value.map(|value| [name.to_owned(), value.to_string()]).into_iter().flatten());
    }
    if options.reader {
        cargo.arg("--reader");
    }
    let status = cargo.status().context("cannot run cargo: install Rust with rustup")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
