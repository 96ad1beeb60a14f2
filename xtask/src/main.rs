//! `cargo xtask`: sets up, builds and tests ipctrace on this machine.
//!
//! Parses the command line and calls the command's module.

mod apt;
mod bench;
mod build;
mod emulator;
mod fixtures;
mod fuzz;
mod kernels;
mod linker;
mod machine;
mod matrix;
mod results;
mod rust_src;
mod setup;
mod step;
mod suite;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use machine::Machine;

/// Sets up, builds and tests ipctrace on this machine
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the build needs; quick if it is there already
    Setup(setup::Options),
    /// Build the eBPF object and the programs that embed it
    Build,
    /// Run all tests
    Test(suite::Options),
    /// Run the end-to-end suite in VMs: kernel x backend x incident
    Vm(matrix::Options),
    /// Reproduce incidents on this machine and diagnose them with ipctrace
    Demo {
        /// Only this incident [default: all]
        incident: Option<String>,
    },
    /// Measure the cost of tracing, compared with bpftrace and strace
    Bench(bench::Options),
    /// Run one workload of the bench
    #[command(hide = true)]
    Work { work: Option<bench::workload::Work> },
    /// Run a crowd for the bench
    #[command(hide = true)]
    Crowd { crowd: bench::crowd::Crowd },
    /// Record the traces of the replay test in a VM and write their findings
    Fixtures(fixtures::Options),
    /// Feed mutated traces to reader, model and report to find panics
    Fuzz(fuzz::Options),
    /// Check the repository's rules that no compiler checks
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let machine = Machine::read()?;
    match cli.command {
        Command::Setup(options) => setup::run(&machine, &options)?,
        Command::Build => build::run(&machine)?,
        Command::Test(options) => return suite::run(&machine, &options),
        Command::Demo { incident } => return suite::demo(&machine, incident.as_deref()),
        Command::Bench(options) => return bench::run(&machine, &options),
        Command::Work { work } => bench::workload::serve(work)?,
        Command::Crowd { crowd } => bench::crowd::serve(crowd)?,
        Command::Tidy => return tidy::run(&machine),
        Command::Fixtures(options) => return fixtures::run(&machine, &options),
        Command::Fuzz(options) => return fuzz::run(&machine, &options),
        Command::Vm(options) => return matrix::run(&machine, &options),
    }
    Ok(ExitCode::SUCCESS)
}
