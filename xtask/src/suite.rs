//! `cargo xtask test`: everything that a clean checkout can test, in order, then one table.
//!
//! A step that fails does not keep the others from running; one that cannot run because of it is
//! counted as skipped, with that reason. The last line of standard output is always
//! `N passed, N failed, N skipped`.

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

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// All kernels of the matrix [default: the oldest and the newest]
    #[arg(long)]
    full_matrix: bool,
    /// No VMs: for a machine that cannot boot them; counted as one skip
    #[arg(long)]
    no_vm: bool,
    /// Kill a VM that runs longer than this
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    vm_timeout: u64,
    /// Only tests and cases whose name holds one of these
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
    let mut toolchain = None;
    suite.step("setup", |suite| {
        toolchain = Some(setup::toolchain(suite.machine)?);
        Ok(Vec::new())
    });
    let object = match &toolchain {
        Some(toolchain) => suite.step("build eBPF", |suite| {
            build::ebpf(suite.machine, toolchain)?;
            Ok(Vec::new())
        }),
        None => suite.skip("build eBPF", "the setup failed"),
    };
    match &toolchain {
        Some(toolchain) if object => {
            suite.step("clippy", |suite| suite.clippy(toolchain));
        }
        Some(_) | None => {
            suite.skip("clippy", "there is no eBPF object");
        }
    }
    let built = if object {
        suite.step("build", |suite| {
            build::userspace(suite.machine)?;
            Ok(Vec::new())
        })
    } else {
        suite.skip("build", "there is no eBPF object")
    };
    if object {
        suite.step("unit", Suite::unit);
    } else {
        suite.skip("unit", "there is no eBPF object");
    }
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
    /// Runs one step and keeps what became of it. Returns whether nothing in it failed.
    fn step(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<Vec<Case>>) -> bool {
        let started = Instant::now();
        let cases = work(self).unwrap_or_else(|error| {
            eprintln!("    FAILED: {error:#}");
            vec![Case::broken(name, format!("{error:#}"))]
        });
        let notes = cases
            .iter()
            .filter(|case| case.outcome != Outcome::Passed)
            .map(|case| {
                let word = match case.outcome {
                    Outcome::Failed | Outcome::Passed => "FAILED",
                    Outcome::Skipped => "skipped",
                };
                format!("{word} {} {}: {}", case.name, case.variant, case.detail)
            })
            .collect();
        let counts = Counts::of(&cases);
        self.rows.push(Row { name, counts, elapsed: started.elapsed(), notes });
        counts.failed == 0
    }

    /// Counts a step that cannot run. Returns false: what rests on it cannot run either.
    fn skip(&mut self, name: &'static str, reason: &str) -> bool {
        eprintln!("==> {name}: skipped, {reason}");
        self.rows.push(Row {
            name,
            counts: Counts { skipped: 1, ..Counts::default() },
            elapsed: Duration::ZERO,
            notes: vec![format!("skipped {name}: {reason}")],
        });
        false
    }

    fn tidy(&mut self) -> Result<Vec<Case>> {
        let step = self.announce("tidy", "the rules that hold the rooms apart")?;
        let verdict = tidy::check(&self.machine.repo)?;
        step.done(&format!("{} files", verdict.files));
        Ok(verdict.cases())
    }

    fn fmt(&mut self) -> Result<Vec<Case>> {
        let step = self.announce("fmt", "cargo fmt --check")?;
        let Some(mut cargo) = self.component("fmt", "rustfmt") else {
            return Ok(vec![missing("fmt", "rustfmt")]);
        };
        step.run(cargo.args(["--all", "--check"]))?;
        step.done("formatted");
        Ok(vec![passed("fmt")])
    }

    fn clippy(&mut self, toolchain: &Toolchain) -> Result<Vec<Case>> {
        let step =
            self.announce("clippy", "lints of all crates; it checks every dependency once, a minute the first time")?;
        let Some(mut cargo) = self.component("clippy", "clippy") else {
            return Ok(vec![missing("clippy", "clippy")]);
        };
        cargo.args(["--all-targets", "--", "-D", "warnings"]);
        step.run(&mut cargo)?;
        let mut kernel_half = build::ebpf_cargo(self.machine, toolchain, "clippy");
        step.run(kernel_half.args(["--release", "--", "-D", "warnings"]))?;
        step.done("no warning");
        Ok(vec![passed("clippy"), passed("clippy eBPF")])
    }

    fn unit(&mut self) -> Result<Vec<Case>> {
        let step =
            self.announce("unit", "cargo test; it compiles all crates with their tests, a minute the first time")?;
        let mut cargo = self.cargo("test");
        cargo.args(["--no-fail-fast", "--"]).args(self.filter);
        let mut lines = Vec::new();
        let (status, tail) = step.capture(&mut cargo, &mut |line| lines.push(line.to_owned()))?;
        let counts = results::parse_cargo_test(lines.iter().map(String::as_str));
        let failed: Vec<&str> =
            lines.iter().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
        if !status.success() {
            for line in &tail {
                step.note(&format!("| {line}"));
            }
        }
        let mut cases = Vec::new();
        for name in &failed {
            let log = step.log().display();
            cases.push(Case::broken(name, format!("see {log}")));
        }
        if failed.len() < counts.failed || (!status.success() && failed.is_empty()) {
            let log = step.log().display();
            cases.push(Case::broken("cargo test", format!("ended with {status}, see {log}")));
        }
        cases.extend((0..counts.passed).map(|_| passed("unit")));
        cases.extend((0..counts.skipped).map(|_| Case {
            outcome: Outcome::Skipped,
            detail: "marked #[ignore]".to_owned(),
            ..passed("unit")
        }));
        step.done(&counts.to_string());
        Ok(cases)
    }

    fn native(&mut self) -> Result<Vec<Case>> {
        setup::stress(self.machine);
        let why = "the native end-to-end suite (it loads eBPF programs)";
        self.machine.announce_root(why);
        let step =
            self.announce("native", "every incident and its healthy twin on this kernel; it waits for real stalls")?;
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
        let lab = setup::lab(self.machine, &families).context("the VMs cannot boot (`--no-vm` leaves them out)")?;
        let limit = Duration::from_secs(options.vm_timeout);
        let runs = matrix::suite(self.machine, &lab, &BACKENDS, self.filter, limit);
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

    /// A cargo command that is a component of its own, if it is installed or can be added.
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

fn passed(name: &str) -> Case {
    Case { outcome: Outcome::Passed, ..Case::broken(name, String::new()) }
}

fn missing(name: &str, component: &str) -> Case {
    Case { outcome: Outcome::Skipped, ..Case::broken(name, format!("not installed: rustup component add {component}")) }
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
