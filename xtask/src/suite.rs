//! `cargo xtask test`: everything that a clean checkout can test, in order, then one table.
//!
//! After a failed step the others still run; a step that depends on it counts as skipped, with that reason.
//! The last line of standard output is always `N passed, N failed, N skipped`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::kernels::{FAMILIES, Family};
use crate::machine::Machine;
use crate::matrix::{self, BACKENDS};
use crate::results::{self, Case, Counts, Outcome, Run};
use crate::setup::{self, Toolchain};
use crate::step::Step;
use crate::tidy;

/// The packages that embed the eBPF object. All others build and test without it, on a clean checkout.
const NEEDS_OBJECT: [&str; 3] = ["tracer-collector", "tracer-user", "ipctrace-tests"];
/// Builds only for the BPF target.
const KERNEL_HALF: &str = "tracer-ebpf";
const NO_OBJECT: &str = "there is no eBPF object";

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Test all kernels of the matrix [default: the oldest and the newest]
    #[arg(long)]
    full_matrix: bool,
    /// Boot no VMs; counts as one skip
    #[arg(long)]
    no_vm: bool,
    /// Kill a VM that runs longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    vm_timeout: u64,
    /// Run only tests and cases whose name contains one of these
    #[arg(last = true)]
    filter: Vec<String>,
}

/// One line of the final table.
#[derive(Debug)]
struct Row {
    name: &'static str,
    counts: Counts,
    elapsed: Duration,
    /// Why something failed or was skipped.
    notes: Vec<String>,
}

/// The steps so far.
struct Suite<'a> {
    machine: &'a Machine,
    filter: &'a [String],
    log_dir: PathBuf,
    rows: Vec<Row>,
    runs: Vec<Run>,
}

/// Runs the command.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    let mut suite = Suite {
        machine,
        filter: &options.filter,
        log_dir: machine.target().join("test-logs"),
        rows: Vec::new(),
        runs: Vec::new(),
    };
    suite.step("tidy", Suite::tidy);
    suite.step("fmt", Suite::fmt);
    let toolchain = suite.setup();
    let object = suite.build_ebpf(toolchain.as_ref());
    match toolchain.filter(|_| object) {
        Some(toolchain) => suite.step("clippy", |suite| suite.clippy(&toolchain)),
        None => suite.skip("clippy", NO_OBJECT),
    };
    let built = suite.build_userspace(object);
    suite.step("unit", |suite| suite.unit(object));
    if built {
        suite.step("native", Suite::native);
    } else {
        suite.skip("native", "the build failed");
    }
    if !built {
        suite.skip("VM", "the build failed");
    } else if options.no_vm {
        suite.skip("VM", "--no-vm was given");
    } else {
        suite.step("VM", |suite| suite.vms(options));
    }
    Ok(suite.report(started.elapsed()))
}

impl Suite<'_> {
    /// Runs one step and keeps its outcome. Returns whether nothing in it failed.
    fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<Vec<Case>>) -> bool {
        let started = Instant::now();
        let cases = work(self).unwrap_or_else(|error| {
            eprintln!("    FAILED: {error:#}");
            vec![Case::broken(name, format!("{error:#}"))]
        });
        let notes = cases.iter().filter(|case| case.outcome != Outcome::Passed).map(Case::sentence).collect();
        let counts = Counts::of(&cases);
        self.rows.push(Row { name, counts, elapsed: started.elapsed(), notes });
        counts.failed == 0
    }

    /// Counts a step that cannot run. Returns false: a step that depends on it cannot run either.
    fn skip(&mut self, name: &'static str, reason: &str) -> bool {
        eprintln!("==> {name}: skipped, {reason}");
        let case = Case::skipped(name, reason.to_owned());
        let counts = Counts { skipped: 1, ..Counts::default() };
        self.rows.push(Row { name, counts, elapsed: Duration::ZERO, notes: vec![case.sentence()] });
        false
    }

    fn setup(&mut self) -> Option<Toolchain> {
        let mut toolchain = None;
        self.step("setup", |suite| {
            toolchain = Some(setup::toolchain(suite.machine)?);
            Ok(Vec::new())
        });
        toolchain
    }

    /// Returns whether there is an object.
    fn build_ebpf(&mut self, toolchain: Option<&Toolchain>) -> bool {
        const NAME: &str = "build eBPF";
        let Some(toolchain) = toolchain else {
            return self.skip(NAME, "the setup failed");
        };
        self.step(NAME, |suite| {
            build::ebpf(suite.machine, toolchain)?;
            Ok(Vec::new())
        })
    }

    /// Returns whether there are programs.
    fn build_userspace(&mut self, object: bool) -> bool {
        const NAME: &str = "build";
        if !object {
            return self.skip(NAME, NO_OBJECT);
        }
        self.step(NAME, |suite| {
            build::userspace(suite.machine)?;
            Ok(Vec::new())
        })
    }

    fn tidy(&mut self) -> Result<Vec<Case>> {
        let step = self.announce("tidy", "the rules that no compiler checks")?;
        let verdict = tidy::check(&self.machine.repo)?;
        step.done(&format!("{} files", verdict.files));
        Ok(verdict.cases)
    }

    fn fmt(&mut self) -> Result<Vec<Case>> {
        let step = self.announce("fmt", "cargo fmt --check")?;
        let Some(mut cargo) = self.component("fmt", "rustfmt") else {
            return Ok(vec![missing("fmt", "rustfmt")]);
        };
        step.run(cargo.args(["--all", "--check"]))?;
        step.done("formatted");
        Ok(vec![Case::passed("fmt")])
    }

    fn clippy(&mut self, toolchain: &Toolchain) -> Result<Vec<Case>> {
        let step =
            self.announce("clippy", "lints of all crates; checks every dependency once, a minute the first time")?;
        let Some(mut cargo) = self.component("clippy", "clippy") else {
            return Ok(vec![missing("clippy", "clippy")]);
        };
        cargo.args(["--all-targets", "--", "-D", "warnings"]);
        step.run(&mut cargo)?;
        let mut kernel_half = build::ebpf_cargo(self.machine, toolchain, "clippy");
        step.run(kernel_half.args(["--release", "--", "-D", "warnings"]))?;
        step.done("no warning");
        Ok(vec![Case::passed("clippy"), Case::passed("clippy eBPF")])
    }

    /// Without an object only the packages are tested that do not embed it; the others are one skip.
    fn unit(&mut self, object: bool) -> Result<Vec<Case>> {
        let step =
            self.announce("unit", "cargo test; compiles all crates with their tests, a minute the first time")?;
        let skips = self.log_dir.join("unit.skips");
        // Those of the last run.
        let _ = fs::remove_file(&skips);
        let mut cargo = self.cargo("test");
        cargo.arg("--no-fail-fast").env(tracer_skip::FILE_ENV, &skips);
        if !object {
            cargo.arg("--workspace");
            for package in NEEDS_OBJECT.iter().chain([&KERNEL_HALF]) {
                cargo.args(["--exclude", package]);
            }
        }
        cargo.arg("--").args(self.filter);
        let mut lines = Vec::new();
        let (status, tail) = step.capture(&mut cargo, &mut |line| lines.push(line.to_owned()))?;
        if !status.success() {
            for line in &tail {
                step.note(&format!("| {line}"));
            }
        }
        let skipped = results::parse_skips(&fs::read_to_string(&skips).unwrap_or_default());
        let log = step.log().display();
        let mut cases = results::unit_cases(&lines, skipped, &format!("see {log}"));
        if !status.success() && Counts::of(&cases).failed == 0 {
            cases.push(Case::broken("cargo test", format!("ended with {status}, see {log}")));
        }
        if !object {
            cases.push(Case::skipped(&NEEDS_OBJECT.join(", "), NO_OBJECT.to_owned()));
        }
        step.done(&Counts::of(&cases).to_string());
        Ok(cases)
    }

    fn native(&mut self) -> Result<Vec<Case>> {
        setup::stress(self.machine);
        let why = "the native end-to-end suite (it loads eBPF programs)";
        self.machine.announce_root(why);
        let step =
            self.announce("native", "every incident and its healthy twin on this kernel; waits for real stalls")?;
        let mut e2e = self.machine.as_root(self.machine.release_binary("e2e"), why)?;
        e2e.arg("native").args(self.filter).current_dir(&self.machine.repo);
        let mut lines = Vec::new();
        let (status, tail) = step.capture(&mut e2e, &mut |line| lines.push(line.to_owned()))?;
        let mut cases = results::parse_results(lines.iter().map(String::as_str));
        if cases.is_empty() {
            cases = results::parse_marks(lines.iter().map(String::as_str));
        }
        let counts = Counts::of(&cases);
        let summary = counts.to_string();
        let complete = lines.contains(&summary);
        if !complete || (status.success() != (counts.failed == 0)) {
            let last = tail.last().map_or("no output", String::as_str);
            let detail = format!("the suite ended early with {status}: {last}");
            cases.push(Case::broken("e2e", detail));
        } else if cases.is_empty() && self.filter.is_empty() {
            cases.push(Case::broken("e2e", "no case ran".to_owned()));
        }
        step.done(&Counts::of(&cases).to_string());
        self.runs.push(Run { kernel: "native".to_owned(), backend: "auto".to_owned(), cases: cases.clone() });
        Ok(cases)
    }

    fn vms(&mut self, options: &Options) -> Result<Vec<Case>> {
        let mut families: Vec<&'static Family> = FAMILIES.iter().filter(|family| family.in_matrix).collect();
        if !options.full_matrix && families.len() > 2 {
            families = vec![families[0], families[families.len() - 1]];
        }
        let lab = setup::lab(self.machine, &families).context("the VMs cannot boot (skip them with --no-vm)")?;
        let timeout = Duration::from_secs(options.vm_timeout);
        let runs = matrix::suite(self.machine, &lab, &BACKENDS, self.filter, timeout);
        let mut cases = Vec::new();
        for run in &runs {
            for case in &run.cases {
                let mut case = case.clone();
                case.name = format!("{} on {} {}", case.name, run.kernel, run.backend);
                cases.push(case);
            }
        }
        self.runs.extend(runs);
        Ok(cases)
    }

    /// Prints the matrix, the table and the last line.
    fn report(&self, elapsed: Duration) -> ExitCode {
        if self.runs.iter().any(|run| !run.cases.is_empty()) {
            println!("\n{}", results::matrix(&self.runs));
        }
        for note in self.rows.iter().flat_map(|row| &row.notes) {
            println!("{note}");
        }
        let mut total = Counts::default();
        println!("\n{:12} {:>7} {:>7} {:>8} {:>8}", "step", "passed", "failed", "skipped", "seconds");
        for row in &self.rows {
            total += row.counts;
            let Counts { passed, failed, skipped } = row.counts;
            let seconds = row.elapsed.as_secs_f64();
            println!("{:12} {passed:>7} {failed:>7} {skipped:>8} {seconds:>8.1}", row.name);
        }
        println!("{:>45.1}", elapsed.as_secs_f64());
        eprintln!("logs: {}", self.log_dir.display());
        println!("{total}");
        if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn announce(&self, name: &str, what: &str) -> Result<Step> {
        Step::start(name, what, &self.log_dir)
    }

    fn cargo(&self, verb: &str) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.arg(verb).env("CARGO_TARGET_DIR", self.machine.target()).current_dir(&self.machine.repo);
        cargo
    }

    /// A cargo command that rustup has as a component, if it is installed or can be added.
    fn component(&self, verb: &str, component: &str) -> Option<Command> {
        let works = || {
            let output = self.cargo(verb).arg("--version").output();
            output.is_ok_and(|output| output.status.success())
        };
        let add = || {
            let mut rustup = Command::new("rustup");
            let output = rustup.args(["component", "add", component]).output();
            output.is_ok_and(|output| output.status.success())
        };
        (works() || (add() && works())).then(|| self.cargo(verb))
    }
}

fn missing(name: &str, component: &str) -> Case {
    Case::skipped(name, format!("not installed: rustup component add {component}"))
}

/// `cargo xtask demo`: builds what is needed, then lets ipctrace reproduce and diagnose incidents.
pub(crate) fn demo(machine: &Machine, incident: Option<&str>) -> Result<ExitCode> {
    build::run(machine)?;
    let why = "the demo (it loads eBPF programs)";
    machine.announce_root(why);
    let mut ipctrace = machine.as_root(machine.release_binary("ipctrace"), why)?;
    ipctrace.arg("demo").args(incident);
    let status = ipctrace.status().context("cannot run ipctrace")?;
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        None => bail!("ipctrace demo ended with {status}"),
    }
}
