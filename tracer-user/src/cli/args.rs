//! The words of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracer_common::site::Mechanism;

use crate::detect::DETECTORS;
use crate::kernel::plan::Backend;
use crate::source::RING_KIB;

/// Which IPC object leaks or stalls, who is to blame, and what to do.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub watch: Watch,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch running processes and report at the end (Ctrl-C, SIGTERM or --duration)
    Watch(Watch),
    /// Trace a command from its first instruction
    Run(Run),
    /// Report on a saved trace
    Report(Replay),
    /// What this kernel and these privileges allow, site by site
    Doctor(Doctor),
    /// Reproduce an incident on this machine and diagnose it
    Demo(Demo),
}

/// Options of everything that attaches probes.
#[derive(Debug, Args, Clone)]
pub struct Probing {
    /// Shortest wait that is a stall
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub min_stall: Duration,
    /// Watch only these mechanisms
    #[arg(long, value_name = "MECH,...", value_delimiter = ',', value_parser = mechanism)]
    pub only: Vec<Mechanism>,
    /// Use this backend wherever it can (a test tool)
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// Do not follow children
    #[arg(long)]
    pub no_follow: bool,
    /// Size of the ring buffer in KiB
    #[arg(long, value_name = "N", default_value_t = RING_KIB, hide = true, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub ring_kib: u32,
    /// Keep the raw facts in this file, for `ipctrace report`
    #[arg(long, value_name = "TRACE")]
    pub save: Option<PathBuf>,
    /// Overwrite the trace file
    #[arg(long, requires = "save")]
    pub force: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Where a report goes.
#[derive(Debug, Args, Clone)]
pub struct Output {
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Write the report to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Report formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// One finding a line
    Jsonl,
}

/// `watch`
#[derive(Debug, Args, Clone)]
pub struct Watch {
    /// Processes to watch
    #[arg(short, long, value_name = "PID", num_args = 1.., value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Every process with this name
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    /// Every process of this cgroup (v2 path below /sys/fs/cgroup)
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
    /// Every process
    #[arg(long, conflicts_with_all = ["pid", "comm", "cgroup"])]
    pub all: bool,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    #[command(flatten)]
    pub probing: Probing,
}

impl Watch {
    /// True if the user said whom to watch.
    pub fn has_target(&self) -> bool {
        self.all || !self.pid.is_empty() || self.comm.is_some() || self.cgroup.is_some()
    }
}

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub probing: Probing,
    /// Exit with 3 if the command succeeds but one of these findings is reported
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', value_parser = code)]
    pub fail_on: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// `report`
#[derive(Debug, Args)]
pub struct Replay {
    /// A file written by --save
    pub file: PathBuf,
    #[command(flatten)]
    pub output: Output,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Use this backend wherever it can
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// One incident; all of them by default
    pub incident: Option<String>,
    #[arg(long, value_enum)]
    pub backend: Option<Backend>,
}

/// `250ms`, `10s`, `1.5s`, `5m`, `2h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let value: f64 =
        number.parse().map_err(|_| "a number with a unit is needed, for example 250ms or 10s".to_owned())?;
    let seconds = match unit {
        "us" => value / 1e6,
        "ms" => value / 1e3,
        "s" | "" => value,
        "m" | "min" => value * 60.0,
        "h" => value * 3600.0,
        other => return Err(format!("unknown unit {other:?}: use us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

fn mechanism(text: &str) -> Result<Mechanism, String> {
    Mechanism::ALL.iter().copied().find(|m| m.name() == text).ok_or_else(|| {
        let names: Vec<_> = Mechanism::ALL.iter().map(|m| m.name()).collect();
        format!("no such mechanism; there are {}", names.join(", "))
    })
}

fn code(text: &str) -> Result<String, String> {
    if DETECTORS.iter().any(|d| d.code == text) {
        return Ok(text.to_owned());
    }
    let codes: Vec<_> = DETECTORS.iter().map(|d| d.code).collect();
    Err(format!("no such finding; there are {}", codes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_said_is_what_the_collector_takes() {
        let cli = Cli::parse_from(["ipctrace", "--all"]);
        assert_eq!(cli.watch.probing.min_stall, crate::source::MIN_STALL);
    }

    #[test]
    fn durations_take_units() {
        for (text, want) in [
            ("250ms", Some(Duration::from_millis(250))),
            ("10s", Some(Duration::from_secs(10))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("2", Some(Duration::from_secs(2))),
            ("5m", Some(Duration::from_secs(300))),
            ("-1s", None),
            ("5 parsecs", None),
            ("", None),
            ("1e30h", None),
        ] {
            assert_eq!(duration(text).ok(), want, "{text}");
        }
    }
}
