//! The command line: one file per subcommand, with its options. Results go to stdout, everything else to stderr.

mod args;
mod demo;
mod diff;
mod doctor;
mod exit;
mod explain;
mod export;
mod flight;
mod ls;
mod message;
mod mk;
mod output;
mod progress;
mod record;
mod redact;
mod redactor;
mod replay;
mod report;
mod rm;
mod run;
mod show;
mod snapshot;
mod target;
mod value;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Find the IPC objects that leak or stall, the process responsible, and the fix.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    watch: watch::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch running processes and report at the end (Ctrl-C, SIGTERM or --duration)
    Watch(watch::Args),
    /// Trace a command from its first instruction
    Run(run::Args),
    /// Record a trace for `ipctrace report`, within bounds or only around a finding
    Record(record::Args),
    /// Report on a saved trace
    Report(report::Args),
    /// Compare two saved traces or JSON reports: what is new, gone, worse or better
    Diff(diff::Args),
    /// Convert a saved trace to the format of another tool
    Export(export::Args),
    /// Copy a saved trace without names, to share it
    Redact(redact::Args),
    /// List what exists now: System V and POSIX objects, pipes, eventfds, unix sockets, zombies (needs no eBPF)
    Ls(ls::Args),
    /// Show everything about one object, or everything that a process uses
    Show(show::Args),
    /// Show what a process is blocked on, down to the root cause (needs no eBPF)
    Explain(explain::Args),
    /// Remove unused objects
    Rm(rm::Args),
    /// Create an object, to reproduce a problem
    Mk(mk::Args),
    /// Show what this kernel and your privileges allow, site by site
    Doctor(doctor::Args),
    /// Reproduce an incident on this machine and diagnose it
    Demo(demo::Args),
}

/// Runs the command line and returns the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("IPCTRACE_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            message::print(&format!("{e:#}"));
            ExitCode::from(exit::code_of(&e))
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    match cli.command {
        Some(Command::Watch(args)) => watch::main(&args),
        Some(Command::Run(args)) => run::main(&args),
        Some(Command::Record(args)) => record::main(&args),
        Some(Command::Report(args)) => report::main(&args),
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
        None if cli.watch.targets.is_given() => watch::main(&cli.watch),
        None => {
            Cli::command().print_help()?;
            Ok(exit::USAGE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_of_the_collector() {
        let cli = Cli::parse_from(["ipctrace", "--all"]);
        assert_eq!(cli.watch.probing.min_stall, tracer_collector::stream::MIN_STALL);
    }

    #[test]
    fn a_cgroup_excludes_pids_and_names() {
        for targets in [&["-p", "1"][..], &["--comm", "x"], &["--all"]] {
            for command in [&["ipctrace"][..], &["ipctrace", "watch"], &["ipctrace", "record", "-o", "t"]] {
                let words = [command, &["--cgroup", "/x"], targets].concat();
                let refused = Cli::try_parse_from(&words).map(drop).expect_err("a conflict");
                assert_eq!(refused.kind(), clap::error::ErrorKind::ArgumentConflict, "{words:?}");
            }
        }
    }
}
