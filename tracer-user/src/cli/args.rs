//! The words of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracer_common::site::Mechanism;

use super::value::{
    self, bytes, code, codes, duration, kept_bytes, key, listed_kind, mechanism, mode, namespace, part_bytes,
};
use tracer_collector::kernel::plan::Backend;
use tracer_collector::stream::RING_KIB;
use tracer_report::export;
use tracer_report::listing::{self, Subject};

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
    /// Only record, for `ipctrace report`: on and on within bounds, or only what was before a finding
    Record(Record),
    /// Report on a saved trace
    Report(Replay),
    /// Compare two saved traces or JSON reports: what is new, gone, worse or better
    Diff(Diff),
    /// Write a saved trace in the format of another tool
    Export(Export),
    /// Write a saved trace again without names, to be given to others
    Redact(Redact),
    /// List what exists now: System V and POSIX objects, pipes, eventfds, unix sockets, zombies (needs no eBPF)
    Ls(Ls),
    /// Show everything about one object, or what a process uses
    Show(Show),
    /// Whom a process waits for, and whom those wait for, to the end (needs no eBPF)
    Explain(Explain),
    /// Remove objects that nobody uses
    Rm(Rm),
    /// Make an object, to reproduce something
    Mk(Mk),
    /// What this kernel and these privileges allow, site by site
    Doctor(Doctor),
    /// Reproduce an incident on this machine and diagnose it
    Demo(Demo),
}

/// Where names of functions and lines come from.
#[derive(Debug, Args, Clone)]
pub struct Symbols {
    /// Look for separate debug files here, too (before /usr/lib/debug); may be given several times
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,
    /// Do not look up functions and lines: stacks have addresses only, and no program's file is read
    #[arg(long, conflicts_with = "debug_dir")]
    pub no_symbols: bool,
}

impl Symbols {
    /// Folders with debug files; `None`: nothing is looked up.
    pub fn dirs(&self) -> Option<Vec<PathBuf>> {
        (!self.no_symbols).then(|| self.debug_dir.clone())
    }
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
    #[arg(long, value_parser = value::choice(Backend::CHOICES))]
    pub backend: Option<Backend>,
    #[command(flatten)]
    pub symbols: Symbols,
    /// Do not follow children
    #[arg(long)]
    pub no_follow: bool,
    /// Size of the ring buffer in KiB
    #[arg(long, value_name = "N", default_value_t = RING_KIB, hide = true, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    pub ring_kib: u32,
}

/// What comes of a run that judges at its end.
#[derive(Debug, Args, Clone)]
pub struct Saving {
    /// Keep the raw facts in this file, for `ipctrace report`
    #[arg(long, value_name = "TRACE")]
    pub save: Option<PathBuf>,
    /// Replace the trace file if it exists
    #[arg(long, requires = "save")]
    pub force: bool,
    /// Save no names of processes, files, sockets, containers, hosts: only tokens (not in the report of this run)
    #[arg(long, requires = "save")]
    pub redact: bool,
    #[command(flatten)]
    pub output: Output,
}

/// Where a report goes.
#[derive(Debug, Args, Clone)]
pub struct Output {
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub format: ReportFormat,
    /// Write the report to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Formats of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    Text,
    Json,
    /// One finding a line
    Jsonl,
    /// For a ticket or a chat
    #[value(alias = "md")]
    Markdown,
    /// One page that needs nothing else, with a timeline, the waits and the stacks drawn
    Html,
}

/// Formats of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// One finding a line
    Jsonl,
}

/// `explain`
#[derive(Debug, Args, Clone)]
pub struct Explain {
    /// The process
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: u32,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub symbols: Symbols,
}

/// Whom to watch.
#[derive(Debug, Args, Clone)]
pub struct Whom {
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
}

impl Whom {
    /// True if the user said whom to watch.
    pub fn is_said(&self) -> bool {
        self.all || !self.pid.is_empty() || self.comm.is_some() || self.cgroup.is_some()
    }
}

/// `watch`
#[derive(Debug, Args, Clone)]
pub struct Watch {
    #[command(flatten)]
    pub whom: Whom,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    #[command(flatten)]
    pub probing: Probing,
    #[command(flatten)]
    pub saving: Saving,
}

/// `record`
#[derive(Debug, Args)]
pub struct Record {
    #[command(flatten)]
    pub whom: Whom,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// The trace; with --flight-recorder a folder, or what the names of the traces begin with
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    pub force: bool,
    /// Record no names of processes, files, sockets, containers, hosts: only tokens
    #[arg(long)]
    pub redact: bool,
    /// Go on in a new part (FILE, FILE.1, FILE.2, ...) when one has this size; K, M and G are 1024-fold
    #[arg(long, value_name = "N", value_parser = part_bytes)]
    pub max_size: Option<u64>,
    /// Keep so many parts; the oldest goes
    #[arg(long, value_name = "N", default_value_t = 2, requires = "max_size", value_parser = clap::value_parser!(u16).range(2..))]
    pub parts: u16,
    /// Keep the last minutes in memory, and write them out when there is a finding, or on SIGUSR1
    #[arg(long, conflicts_with = "max_size")]
    pub flight_recorder: bool,
    #[command(flatten)]
    pub flight: FlightOptions,
    #[command(flatten)]
    pub probing: Probing,
}

/// What the flight recorder keeps and when it writes.
#[derive(Debug, Args)]
pub struct FlightOptions {
    /// How long before a finding
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "flight_recorder", value_parser = duration)]
    pub keep: Duration,
    /// Write when one of these is found (`*-leak`: all that end so) [default: any warning or worse]
    #[arg(long, value_name = "CODE,...", value_delimiter = ',', requires = "flight_recorder", value_parser = codes)]
    pub trigger: Vec<Codes>,
    /// How long to go on after a finding
    #[arg(long, value_name = "TIME", default_value = "30s", requires = "flight_recorder", value_parser = duration)]
    pub after: Duration,
    /// Memory for what is kept, compressed; K, M and G are 1024-fold
    #[arg(long, value_name = "N", default_value = "64M", requires = "flight_recorder", value_parser = kept_bytes)]
    pub memory: usize,
    /// Keep so many traces of this run; the oldest goes
    #[arg(long, value_name = "N", default_value_t = 5, requires = "flight_recorder", value_parser = clap::value_parser!(u16).range(1..))]
    pub dumps: u16,
}

/// Finding codes that a word stands for.
#[derive(Debug, Clone)]
pub struct Codes(pub Vec<&'static str>);

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub probing: Probing,
    #[command(flatten)]
    pub saving: Saving,
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
    /// A file written by `record` or --save; it may still be written
    #[arg(required_unless_present = "schema")]
    pub file: Option<PathBuf>,
    /// Print the JSON Schema of --format json
    #[arg(long, exclusive = true)]
    pub schema: bool,
    /// Show no names of processes, files, sockets, containers, hosts: only tokens
    #[arg(long)]
    pub redact: bool,
    #[command(flatten)]
    pub output: Output,
}

/// `diff`
#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 if nothing is new or worse, with 3 if something is, with 1 or 2 after an error.")]
pub struct Diff {
    /// The older one, or the one to measure by: a file written by --save, or a report by --format json
    #[arg(required_unless_present = "schema")]
    pub a: Option<PathBuf>,
    /// The one to judge
    #[arg(required_unless_present = "schema")]
    pub b: Option<PathBuf>,
    /// Print the JSON Schema of --format json
    #[arg(long, exclusive = true)]
    pub schema: bool,
    /// Exit with 3 also if of a finding it cannot be told
    #[arg(long)]
    pub strict: bool,
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    pub format: DiffFormat,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Formats of comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    Text,
    Json,
}

/// `export`
#[derive(Debug, Args)]
pub struct Export {
    /// A file written by --save
    pub file: PathBuf,
    /// The format
    #[arg(long, value_parser = value::choice(export::Format::CHOICES))]
    pub to: export::Format,
    /// Which table (jsonl, csv, parquet); events by default
    #[arg(long, value_parser = value::choice(export::Table::CHOICES))]
    pub table: Option<export::Table>,
    /// What is added up (folded); the number of events by default
    #[arg(long, value_parser = value::choice(export::Weight::CHOICES))]
    pub weight: Option<export::Weight>,
    /// Write no names of processes, files, sockets, containers, hosts: only tokens
    #[arg(long)]
    pub redact: bool,
    /// Write to this new file instead of stdout
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// `redact`
#[derive(Debug, Args)]
pub struct Redact {
    /// A file written by --save
    pub file: PathBuf,
    /// The new trace
    #[arg(short, long, value_name = "TRACE")]
    pub output: PathBuf,
    /// Replace the new trace's file if it exists
    #[arg(long)]
    pub force: bool,
}

/// `ls`
#[derive(Debug, Args)]
#[command(after_long_help = listing::help())]
pub struct Ls {
    /// Kinds to list; all of them by default
    #[arg(value_name = "MECH", value_parser = listed_kind)]
    pub kinds: Vec<&'static str>,
    /// Only what these processes use, as far as the kernel tells
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Vec<u32>,
    /// Only what nobody seems to use any more
    #[arg(long)]
    pub orphans: bool,
    /// Only System V objects of this IPC namespace: its inode number, or `own`; all that may be entered by default
    #[arg(long, value_name = "NS", value_parser = namespace)]
    pub ns: Option<Namespace>,
    /// The limits, with their use
    #[arg(long)]
    pub limits: bool,
    /// These columns, in this order (--help lists them)
    #[arg(long, value_name = "COL,...", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// Sort by this column; with a minus before its name the largest comes first
    #[arg(long, value_name = "COL", allow_hyphen_values = true)]
    pub sort: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// An IPC namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Own,
    Inode(u32),
}

/// `show`
#[derive(Debug, Args)]
pub struct Show {
    /// sem:32768, shm:655370@NAMESPACE, msg:0, mq:/name, posix-sem:/name, posix-shm:/name, pipe:8812, eventfd:41, socket:9913, pid:4121
    pub object: Subject,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `rm`
#[derive(Debug, Args)]
pub struct Rm {
    /// sem:32768, shm:655370@NAMESPACE, msg:0, mq:/name, posix-sem:/name, posix-shm:/name
    #[arg(required_unless_present = "orphans", conflicts_with = "orphans")]
    pub object: Vec<Subject>,
    /// All objects that are likely left over
    #[arg(long)]
    pub orphans: bool,
    /// With --orphans: also those of which `ls` says maybe
    #[arg(long, requires = "orphans")]
    pub maybe: bool,
    /// Only these kinds of orphans
    #[arg(long, value_name = "MECH,...", value_delimiter = ',', requires = "orphans", value_parser = listed_kind)]
    pub only: Vec<&'static str>,
    /// With --orphans: also those of other IPC namespaces
    #[arg(long, requires = "orphans")]
    pub all_namespaces: bool,
    /// Print the commands that would do it, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Also what living processes use
    #[arg(long)]
    pub force: bool,
}

/// `mk`
#[derive(Debug, Args)]
pub struct Mk {
    #[command(subcommand)]
    pub what: Make,
}

/// Kinds that can be made.
#[derive(Debug, Subcommand)]
pub enum Make {
    /// A System V semaphore set; prints its id
    Sem {
        /// Semaphores in the set
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        nsems: i32,
        #[command(flatten)]
        perm: Perm,
    },
    /// A System V shared memory segment; prints its id
    Shm {
        /// Bytes; K, M and G are 1024-fold
        #[arg(long, value_name = "N", value_parser = bytes)]
        size: usize,
        #[command(flatten)]
        perm: Perm,
    },
    /// A System V message queue; prints its id
    Msg {
        #[command(flatten)]
        perm: Perm,
    },
    /// A POSIX message queue; prints its name
    Mq {
        name: String,
        #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = mode)]
        mode: u32,
    },
    /// A POSIX named semaphore; prints its name
    PosixSem {
        name: String,
        /// Its first value
        #[arg(long, value_name = "N", default_value_t = 0)]
        value: u32,
        #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = mode)]
        mode: u32,
    },
}

/// Key and permissions of a System V object.
#[derive(Debug, Args)]
pub struct Perm {
    /// Permission bits
    #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = mode)]
    pub mode: u32,
    /// Key, decimal or 0x and hexadecimal; without one the object is private
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub key: Option<i32>,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Use this backend wherever it can
    #[arg(long, value_parser = value::choice(Backend::CHOICES))]
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
    #[arg(long, value_parser = value::choice(Backend::CHOICES))]
    pub backend: Option<Backend>,
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
        assert_eq!(cli.watch.probing.min_stall, tracer_collector::stream::MIN_STALL);
    }
}
