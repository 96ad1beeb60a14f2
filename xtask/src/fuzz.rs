//! `cargo xtask fuzz`: feeds mutated traces to reader, model and report to find panics.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::machine::Machine;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of runs; no limit if only --seconds is given [default: 100000]
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Number of the first run; a number always makes the same trace
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Only read and decode short traces, which is much faster
    #[arg(long)]
    reader: bool,
}

/// The package and its example that is the fuzzer.
const PACKAGE: &str = "tracer-report";
const EXAMPLE: &str = "fuzz";

/// Builds the fuzzer with optimization and with checks of arithmetic, and runs it. It needs no eBPF object.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["run", "--quiet", "--profile", "fuzz", "--package", PACKAGE, "--example", EXAMPLE, "--"])
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
