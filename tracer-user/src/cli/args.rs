//! Option groups that several subcommands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use tracer_common::site::Mechanism;

use super::value::{self, duration, mechanism};
use tracer_collector::kernel::plan::Backend;
use tracer_collector::stream::RING_KIB;

/// Which processes to watch.
#[derive(Debug, clap::Args, Clone)]
pub struct Targets {
    /// Watch these processes
    #[arg(short, long, value_name = "PID", num_args = 1.., value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Watch every process with this name
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    /// Watch every process of this cgroup (v2 path below /sys/fs/cgroup)
    #[arg(long, value_name = "PATH", conflicts_with_all = ["pid", "comm"])]
    pub cgroup: Option<String>,
    /// Watch every process
    #[arg(long, conflicts_with_all = ["pid", "comm", "cgroup"])]
    pub all: bool,
}

impl Targets {
    /// Whether the user named any.
    pub fn is_given(&self) -> bool {
        self.all || !self.pid.is_empty() || self.comm.is_some() || self.cgroup.is_some()
    }
}

/// Options of everything that attaches probes.
#[derive(Debug, clap::Args, Clone)]
pub struct Probing {
    /// Only waits of at least --min-stall are reported
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration)]
    pub min_stall: Duration,
    /// Watch only these mechanisms
    #[arg(long, value_name = "MECH,...", value_delimiter = ',', value_parser = mechanism)]
    pub only: Vec<Mechanism>,
    /// Prefer this backend wherever it works (for tests)
    #[arg(long, value_parser = value::choice(Backend::CHOICES))]
    pub backend: Option<Backend>,
    #[command(flatten)]
    pub symbols: Symbols,
    /// Do not follow child processes
    #[arg(long)]
    pub no_follow: bool,
    /// Size of the ring buffer in KiB
    #[arg(long, value_name = "N", default_value_t = RING_KIB, hide = true, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub ring_kib: u32,
}

/// How addresses become functions and lines.
#[derive(Debug, clap::Args, Clone)]
pub struct Symbols {
    /// Search this directory for separate debug files, before /usr/lib/debug; may be repeated
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,
    /// Do not resolve functions and lines: stacks show addresses, and no program file is read
    #[arg(long, conflicts_with = "debug_dir")]
    pub no_symbols: bool,
}

impl Symbols {
    /// Directories with debug files; `None`: resolve nothing.
    pub fn dirs(&self) -> Option<Vec<PathBuf>> {
        (!self.no_symbols).then(|| self.debug_dir.clone())
    }
}

/// Whether a live run saves its trace, and where its report goes.
#[derive(Debug, clap::Args, Clone)]
pub struct Saving {
    /// Save the trace to this file, for `ipctrace report`
    #[arg(long, value_name = "TRACE")]
    pub save: Option<PathBuf>,
    /// Replace the trace file if it exists
    #[arg(long, requires = "save")]
    pub force: bool,
    /// Replace names of processes, files, sockets, containers and hosts by tokens in the trace (not in this report)
    #[arg(long, requires = "save")]
    pub redact: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Where a report goes.
#[derive(Debug, clap::Args, Clone)]
pub struct Output {
    /// Format of the report
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
    /// Write the report to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Formats of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For a terminal
    Text,
    /// One document
    Json,
    /// One finding per line
    Jsonl,
    /// For a ticket or a chat
    #[value(alias = "md")]
    Markdown,
    /// A self-contained page with a timeline, wait graph and stacks
    Html,
}

/// Formats of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a terminal
    Text,
    /// One document
    Json,
    /// One document per line
    Jsonl,
}
