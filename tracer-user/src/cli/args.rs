//! The words of the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracer_common::site::Mechanism;

use crate::detect::DETECTORS;
use crate::export;
use crate::kernel::plan::Backend;
use crate::report::listing::{self, Subject};
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
    #[arg(long, value_enum)]
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
    #[arg(long, value_enum)]
    pub to: export::Format,
    /// Which table (jsonl, csv, parquet); events by default
    #[arg(long, value_enum)]
    pub table: Option<export::Table>,
    /// What is added up (folded); the number of events by default
    #[arg(long, value_enum)]
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

fn listed_kind(text: &str) -> Result<&'static str, String> {
    listing::kind(text).map(|k| k.name).ok_or_else(|| {
        let names: Vec<_> = listing::KINDS.iter().map(|k| k.name).collect();
        format!("no such kind of object; there are {}", names.join(", "))
    })
}

fn namespace(text: &str) -> Result<Namespace, String> {
    match text {
        "own" => Ok(Namespace::Own),
        number => number.parse().map(Namespace::Inode).map_err(|_| "give its inode number, or own".to_owned()),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok().filter(|m| *m <= 0o777);
    bits.ok_or_else(|| "permission bits are octal, 0 to 0777".to_owned())
}

/// A key may be negative in C; its 32 bits count. 0 is IPC_PRIVATE.
fn key(text: &str) -> Result<i32, String> {
    let bits = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok().map(u32::cast_signed),
        None => text
            .parse::<i64>()
            .ok()
            .and_then(|n| i32::try_from(n).ok().or_else(|| u32::try_from(n).ok().map(u32::cast_signed))),
    };
    bits.filter(|k| *k != 0).ok_or_else(|| "a key has 32 bits and is not 0, for example 0x5eed or 24301".to_owned())
}

fn bytes(text: &str) -> Result<usize, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: usize = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}: use K, M or G")),
    };
    let count = number.parse::<usize>().ok().filter(|n| *n > 0).and_then(|n| n.checked_mul(factor));
    count.ok_or_else(|| "a number of bytes is needed, for example 4096 or 16M".to_owned())
}

/// Size of a part: what it begins with must fit several times.
fn part_bytes(text: &str) -> Result<u64, String> {
    at_least(text, 1 << 20, "1M")?.try_into().map_err(|_| "it is too large".to_owned())
}

fn kept_bytes(text: &str) -> Result<usize, String> {
    at_least(text, 4 << 20, "4M")
}

fn at_least(text: &str, least: usize, name: &str) -> Result<usize, String> {
    let n = bytes(text)?;
    if n < least { Err(format!("at least {name} is needed")) } else { Ok(n) }
}

/// A code, or all codes that begin or end as a pattern with one `*` at its end or start says.
fn codes(text: &str) -> Result<Codes, String> {
    let matches = |code: &str| match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(end), _) => code.ends_with(end),
        (_, Some(start)) => code.starts_with(start),
        (None, None) => code == text,
    };
    let found: Vec<_> = DETECTORS.iter().map(|d| d.code).filter(|c| matches(c)).collect();
    if found.is_empty() { code(text).map(|_| Codes(Vec::new())) } else { Ok(Codes(found)) }
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
    fn keys_modes_and_sizes() {
        for (text, want) in [
            ("0x0056a4d5", Some(0x0056_a4d5)),
            ("0xffffffff", Some(-1)),
            ("-1", Some(-1)),
            ("4294967295", Some(-1)),
            ("24301", Some(24301)),
            ("0", None),
            ("0x100000000", None),
            ("key", None),
        ] {
            assert_eq!(key(text).ok(), want, "{text}");
        }
        for (text, want) in [("0600", Some(0o600)), ("777", Some(0o777)), ("1777", None), ("8", None), ("", None)] {
            assert_eq!(mode(text).ok(), want, "{text}");
        }
        for (text, want) in
            [("1", Some(1)), ("4K", Some(4096)), ("0", None), ("1T", None), ("99999999999999999999", None)]
        {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
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
