//! `cargo xtask fixtures`: records incidents in a VM and puts their traces where the replay test reads them.
//!
//! In a VM, because a trace names the host and the paths of the programs that it saw: the guest has neither a name
//! nor a checkout of anybody.

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

/// Where the programs run in the guest; the replay test knows it too.
const GUEST_FOLDER: &str = "/tmp/demo";
/// The folder of the replay test, in the repository.
const FIXTURES: &str = "tests/fixtures";

/// Options of `cargo xtask fixtures`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The kernel to record on: 5.10, 6.1, 6.12, 6.18, 7.x
    #[arg(long, value_name = "VERSION", default_value = "6.12")]
    kernel: String,
    /// Kill a VM that runs longer than this; a case takes ten seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    timeout: u64,
    /// Only cases whose name holds one of these [default: all]
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

/// Runs the command. Cases that fail keep the trace that they had.
pub(crate) fn run(machine: &Machine, options: &Options) -> Result<ExitCode> {
    let lab = setup::lab(machine, &[Family::named(&options.kernel)?])?;
    build::run(machine)?;
    let job = Job {
        script: &guest_script(machine, &options.filter),
        folder: &machine.repo,
        name: "fixtures",
        log_dir: &log_dir(machine),
        limit: Duration::from_secs(options.timeout),
    };
    eprintln!("==> fixtures: one VM; each case attaches anew, so all of them take about ten minutes");
    let kernel = lab.kernels.first().context("the lab has no kernel")?;
    let answer = vm::run(&lab.emulator, kernel, &job, &|line| {
        if !line.starts_with("RESULT ") && !line.starts_with("TRACE ") {
            println!("{line}");
        }
    })?;
    let console = answer.console.display();
    if !matches!(answer.ending, Ending::Exited(_)) {
        bail!("the VM ended with {:?}, nothing was changed; its console: {console}", answer.ending);
    }
    let lines = || answer.lines.iter().map(String::as_str);
    let (recorded, refused) = sift(traces(lines())?, &results::parse_results(lines()));
    let folder = machine.repo.join(FIXTURES);
    for trace in &recorded {
        let path = folder.join(&trace.name).with_extension("trace");
        fs::write(&path, &trace.bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for sentence in &refused {
        println!("not recorded: {sentence}");
    }
    if recorded.is_empty() {
        bail!("no case was recorded; the VM's console: {console}");
    }
    snapshots(machine)?;
    println!("{} traces recorded, {} not; look at `git diff {FIXTURES}`", recorded.len(), refused.len());
    Ok(if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the cases from a folder with a name that is the same everywhere, and prints the traces in hexadecimal.
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

/// The traces among the lines of the guest.
fn traces<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Trace>> {
    lines
        .filter_map(|line| line.strip_prefix("TRACE "))
        .map(|line| {
            let (file, hex) = line.split_once(' ').with_context(|| format!("no bytes in the line of {line:?}"))?;
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

/// Traces of which nothing failed, and why the others are refused.
fn sift(traces: Vec<Trace>, cases: &[Case]) -> (Vec<Trace>, Vec<String>) {
    let mut refused: Vec<String> = Vec::new();
    let mut passed: Vec<String> = Vec::new();
    for case in cases {
        // The comparison of the replayed report has the trace's name as its variant.
        let name = match case.name.strip_prefix("by-pid/") {
            Some(name) => format!("{name}-{}", case.variant).replace('/', "-"),
            None => case.variant.clone(),
        };
        if case.outcome == Outcome::Passed {
            passed.push(name);
        } else {
            let why = if case.detail.is_empty() { "no reason was given" } else { &case.detail };
            refused.push(format!("{name}: {why}"));
        }
    }
    let fine = |trace: &Trace| {
        let is_it = |sentence: &String| sentence.strip_prefix(&trace.name).is_some_and(|rest| rest.starts_with(':'));
        passed.contains(&trace.name) && !refused.iter().any(is_it)
    };
    let recorded = traces.into_iter().filter(fine).collect();
    (recorded, refused)
}

/// Lets the replay test write the reports of the new traces.
fn snapshots(machine: &Machine) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["test", "--quiet", "--package", "tracer-report", "--test", "replay"])
        .env("UPDATE_FIXTURES", "1")
        .current_dir(&machine.repo);
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the traces are written, but the replay test refuses them: its messages are above");
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
        // Without a match the shell leaves the pattern, and od says nothing.
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
        let (recorded, refused) = sift(all, &cases);
        assert_eq!(recorded, [trace("a-label-bug")]);
        assert_eq!(refused, ["b-fixed: no reason was given", "c-bug: no reason was given"]);
    }
}
