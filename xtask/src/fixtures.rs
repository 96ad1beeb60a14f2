//! `cargo xtask fixtures`: records incidents in a VM as the traces of the replay test.
//!
//! A trace names the host and the paths of the traced programs. In the guest both are the same for everybody.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::kernels::Family;
use crate::machine::Machine;
use crate::matrix::{log_dir, quote};
use crate::results::{self, Case, Outcome};
use crate::setup;
use crate::vm::{self, Ending, Job};

/// The programs' folder in the guest; the replay test rejects other paths.
const GUEST_FOLDER: &str = "/tmp/demo";
/// The traces and snapshots of the replay test, in the repository.
const FIXTURES: &str = "tests/fixtures";
/// The replay test and its package; with [`UPDATE_ENV`] it writes the snapshots.
const PACKAGE: &str = "tracer-report";
const TEST: &str = "replay";
const UPDATE_ENV: &str = "UPDATE_FIXTURES";

/// Options of `cargo xtask fixtures`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Record on this kernel: 5.10, 6.1, 6.12, 6.18, 7.x
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    kernel: String,
    /// Kill a VM that runs longer than this; a case takes ten seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// Record only cases whose name contains one of these [default: all]
    #[arg(last = true)]
    filter: Vec<String>,
}

/// A trace from the guest.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    /// File name without extension: the case's name with dashes.
    name: String,
    bytes: Vec<u8>,
}

/// Runs the command. A case that fails keeps its old trace.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    let lab = setup::lab(machine, &[Family::named(&options.kernel)?])?;
    build::run(machine)?;
    let job = Job {
        script: &guest_script(machine, &options.filter),
        folder: &machine.repo,
        name: "fixtures",
        log_dir: &log_dir(machine),
        timeout: Duration::from_secs(options.timeout),
    };
    eprintln!("==> fixtures: one VM, one session for each case; all cases take about ten minutes");
    let kernel = lab.kernels.first().context("the lab has no kernel")?;
    let report = vm::run(&lab.emulator, kernel, &job, &|line| {
        if !line.starts_with("RESULT ") && !line.starts_with("TRACE ") {
            println!("{line}");
        }
    })?;
    let console = report.console.display();
    if !matches!(report.ending, Ending::Exited(_)) {
        bail!("the VM ended with {:?}, all traces are unchanged; console: {console}", report.ending);
    }
    let lines = || report.lines.iter().map(String::as_str);
    let (recorded, rejected) = select(traces(lines())?, &results::parse_results(lines()));
    let folder = machine.repo.join(FIXTURES);
    for trace in &recorded {
        let path = folder.join(&trace.name).with_extension("trace");
        fs::write(&path, &trace.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for sentence in &rejected {
        println!("not recorded: {sentence}");
    }
    if recorded.is_empty() {
        bail!("no case was recorded; console: {console}");
    }
    snapshots(machine)?;
    println!("{} traces recorded, {} not; review them with `git diff {FIXTURES}`", recorded.len(), rejected.len());
    Ok(if rejected.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the cases in [`GUEST_FOLDER`], and prints the traces in hexadecimal.
fn guest_script(machine: &Machine, filter: &[String]) -> String {
    let programs: Vec<String> = ["e2e", "incidents", "ipctrace"]
        .iter()
        .map(|name| quote(&machine.release_binary(name).to_string_lossy()))
        .collect();
    let words: Vec<String> = filter.iter().map(|word| quote(word)).collect();
    format!(
        "mkdir {GUEST_FOLDER} && cp {} {GUEST_FOLDER} && cd {GUEST_FOLDER} || exit 1\n\
         ./e2e vm --by-pid --keep out {}\n\
         code=$?\n\
         cd out && for trace in *.trace; do\n\
         \x20 echo \"TRACE $trace $(od -An -v -tx1 \"$trace\" | tr -d ' \\n')\"\n\
         done\n\
         exit $code",
        programs.join(" "),
        words.join(" ")
    )
}

/// The traces in the guest's output.
fn traces<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Trace>> {
    lines
        .filter_map(|line| line.strip_prefix("TRACE "))
        .map(|line| {
            let (file, hex) = line.split_once(' ').with_context(|| format!("no bytes in the line {line:?}"))?;
            let name = file.strip_suffix(".trace").with_context(|| format!("{file:?} is no trace"))?;
            let bytes = bytes_of(hex).with_context(|| format!("the bytes of {file} are not hexadecimal"))?;
            Ok(Trace { name: name.to_owned(), bytes })
        })
        .collect()
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// The traces of cases that passed, and why the others are rejected.
fn select(traces: Vec<Trace>, cases: &[Case]) -> (Vec<Trace>, Vec<String>) {
    let mut rejected: Vec<String> = Vec::new();
    let mut passed: Vec<String> = Vec::new();
    for case in cases {
        // The case that compares the replayed report has the trace's name as its variant.
        let name = match case.name.strip_prefix("by-pid/") {
            Some(name) => format!("{name}-{}", case.variant).replace('/', "-"),
            None => case.variant.clone(),
        };
        if case.outcome == Outcome::Passed {
            passed.push(name);
        } else {
            let why = if case.detail.is_empty() { "no reason was given" } else { &case.detail };
            rejected.push(format!("{name}: {why}"));
        }
    }
    let fine = |trace: &Trace| {
        let is_it = |sentence: &String| sentence.strip_prefix(&trace.name).is_some_and(|rest| rest.starts_with(':'));
        passed.contains(&trace.name) && !rejected.iter().any(is_it)
    };
    let recorded = traces.into_iter().filter(fine).collect();
    (recorded, rejected)
}

/// Runs the replay test to write the snapshots of the new traces.
fn snapshots(machine: &Machine) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--quiet", "--package", PACKAGE, "--test", TEST])
        .env(UPDATE_ENV, "1")
        .current_dir(&machine.repo);
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the traces are written, but the replay test rejects them: see its messages above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, variant: &str, outcome: Outcome) -> Case {
        Case { name: name.to_owned(), variant: variant.to_owned(), outcome, detail: String::new() }
    }

    #[test]
    fn traces_are_read_from_the_guests_lines() -> Result<()> {
        let found = traces(["ok   x", "TRACE a-bug.trace 00ff4a", "EXIT 0"].into_iter())?;
        assert_eq!(found, [Trace { name: "a-bug".to_owned(), bytes: vec![0, 255, 0x4a] }]);
        // If no trace matches, the shell keeps the pattern and od prints nothing.
        for bad in ["TRACE a.trace", "TRACE a.json 00", "TRACE a.trace 0", "TRACE a.trace +1"] {
            assert!(traces([bad].into_iter()).is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn only_what_passed_is_recorded() {
        let trace = |name: &str| Trace { name: name.to_owned(), bytes: Vec::new() };
        let cases = [
            case("by-pid/a/label", "bug", Outcome::Passed),
            case("replay", "a-label-bug", Outcome::Passed),
            case("by-pid/b", "fixed", Outcome::Skipped),
            case("replay", "b-fixed", Outcome::Passed),
            case("by-pid/c", "bug", Outcome::Passed),
            case("replay", "c-bug", Outcome::Failed),
        ];
        let all = ["a-label-bug", "b-fixed", "c-bug", "unknown-bug"].map(trace).into();
        let (recorded, rejected) = select(all, &cases);
        assert_eq!(recorded, [trace("a-label-bug")]);
        assert_eq!(rejected, ["b-fixed: no reason was given", "c-bug: no reason was given"]);
    }
}
