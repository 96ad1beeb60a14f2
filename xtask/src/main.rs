//! `cargo xtask`: sets up, builds and tests ipctrace on this machine.
//!
//! Parses the command line and hands over; every command is a module of its own.

mod apt;
mod build;
mod emulator;
mod kernels;
mod linker;
mod machine;
mod rust_src;
mod setup;
mod step;

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
    /// Get everything that building needs; quick when it is all there
    Setup(setup::Options),
    /// Build the eBPF object and the programs that embed it
    Build,
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
    }
    Ok(ExitCode::SUCCESS)
}
