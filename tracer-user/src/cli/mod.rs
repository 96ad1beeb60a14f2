//! The command line: one file a subcommand. Machine output goes to stdout, everything else to stderr.

mod args;
mod demo;
mod diff;
mod doctor;
mod explain;
mod export;
mod flight;
mod ls;
mod mk;
mod output;
mod progress;
mod record;
mod redact;
mod replay;
mod rm;
mod run;
mod show;
mod snapshot;
mod target;
mod value;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use tracer_collector::kernel::host::HostError;

/// Exit codes, a public contract.
pub mod exit {
    pub const RUNTIME: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const FAIL_ON: u8 = 3;
    /// `diff`: something is new or worse.
    pub const WORSE: u8 = 3;
    pub const NOT_PERMITTED: u8 = 4;
    pub const UNSUPPORTED: u8 = 5;
    /// `run`: our own failure.
    pub const RUN_FAILED: u8 = 125;
    /// `run`: the command cannot be executed, or is not there.
    pub const CANNOT_EXECUTE: u8 = 126;
    pub const NOT_FOUND: u8 = 127;
}

/// A message with its exit code; anything else ends with 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fail {
    pub code: u8,
    pub message: String,
}

/// Runs the command line and returns the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("IPCTRACE_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("ipctrace: {}", tracer_report::escape(&format!("{e:#}")));
            ExitCode::from(code_of(&e))
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Some(Command::Watch(args)) => watch::main(&args),
        Some(Command::Run(args)) => run::main(&args),
        Some(Command::Record(args)) => record::main(&args),
        Some(Command::Report(args)) => replay::main(&args),
        Some(Command::Diff(args)) => diff::main(&args),
        Some(Command::Export(args)) => export::main(&args),
        Some(Command::Redact(args)) => redact::main(&args),
        Some(Command::Ls(args)) => ls::main(&args),
        Some(Command::Show(args)) => show::main(&args),
        Some(Command::Explain(args)) => explain::main(&args),
        Some(Command::Rm(args)) => rm::main(&args),
        Some(Command::Mk(args)) => mk::main(&args),
        Some(Command::Doctor(args)) => doctor::main(&args),
        Some(Command::Demo(args)) => demo::main(&args),
        None if cli.watch.whom.is_said() => watch::main(&cli.watch),
        None => {
            Cli::command().print_help()?;
            Ok(exit::USAGE)
        }
    }
}

fn code_of(e: &anyhow::Error) -> u8 {
    if let Some(fail) = e.downcast_ref::<Fail>() {
        return fail.code;
    }
    match e.chain().find_map(|c| c.downcast_ref::<HostError>()) {
        Some(HostError::NotPermitted(_)) => exit::NOT_PERMITTED,
        Some(HostError::Unsupported(_)) => exit::UNSUPPORTED,
        None => exit::RUNTIME,
    }
}
