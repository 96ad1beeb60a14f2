//! `cargo xtask tidy`: the repository's rules that no compiler checks.
//!
//! `rule` has the rules for single files, `words` the words that one of them rejects, `purity` the rule for the crates
//! without effects, `deny` that for dependencies; here files are found and read.

mod deny;
mod purity;
mod rule;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::results::{Case, Counts, Outcome};
use rule::RULES;

/// A longer source file gets a note: is it one thing?
const LONG_LINES: usize = 600;
/// The case of `purity`.
const PURE_CRATES: &str = "pure crates";

/// The result of all rules.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// How many files were read.
    pub(crate) files: usize,
    /// One case a rule.
    pub(crate) cases: Vec<Case>,
    /// Long files, with their number of lines.
    long: Vec<(String, usize)>,
}

/// Runs the command.
pub(crate) fn run(machine: &Machine) -> Result<ExitCode> {
    let verdict = check(&machine.repo)?;
    for case in verdict.cases.iter().filter(|case| case.outcome != Outcome::Passed) {
        let skipped = if case.outcome == Outcome::Skipped { "skipped: " } else { "" };
        for line in case.detail.lines() {
            println!("{}: {skipped}{line}", case.name);
        }
    }
    for (path, lines) in &verdict.long {
        println!("note: {path} has {lines} lines: is it one thing?");
    }
    let counts = Counts::of(&verdict.cases);
    eprintln!("{} files; rules: {counts}", verdict.files);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks every file of the repository that git tracks, or would with the next `git add`, and the workspace.
pub(crate) fn check(repo: &Path) -> Result<Verdict> {
    let mut places = Places::default();
    for path in files(repo)? {
        let full = repo.join(&path);
        // A tracked file may be deleted in the work tree; a link is another file's name.
        let Ok(meta) = fs::symlink_metadata(&full) else {
            continue;
        };
        if meta.is_file() {
            places.read(&path, &fs::read(&full).with_context(|| format!("cannot read {path}"))?);
        }
    }
    places.broken.insert(PURE_CRATES, purity::check(repo));
    let mut cases = places.cases();
    cases.push(deny::check(repo));
    Ok(Verdict { files: places.files, cases, long: places.long })
}

/// The rules that are broken so far.
#[derive(Debug, Default)]
struct Places {
    files: usize,
    /// By rule: `path[:line]: why`.
    broken: BTreeMap<&'static str, Vec<String>>,
    long: Vec<(String, usize)>,
}

impl Places {
    fn read(&mut self, path: &str, bytes: &[u8]) {
        self.files += 1;
        for rule in &RULES {
            let places = (rule.check)(path, bytes);
            let all = self.broken.entry(rule.name).or_default();
            all.extend(places.into_iter().map(|place| match place.line {
                0 => format!("{path}: {}", place.why),
                line => format!("{path}:{line}: {}", place.why),
            }));
        }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        if path.ends_with(".rs") && lines > LONG_LINES {
            self.long.push((path.to_owned(), lines));
        }
    }

    /// One case a rule.
    fn cases(&self) -> Vec<Case> {
        let case = |(name, places): (&&str, &Vec<String>)| match places.as_slice() {
            [] => Case::passed(name),
            places => Case::broken(name, places.join("\n")),
        };
        self.broken.iter().map(case).collect()
    }
}

/// All files, by their path in the repository; without git all but the output of the build.
fn files(repo: &Path) -> Result<Vec<String>> {
    let git = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(repo)
        .output();
    let mut files: Vec<String> = match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect(),
        Ok(_) | Err(_) => walk(repo)?,
    };
    files.sort();
    files.dedup();
    Ok(files)
}

fn walk(repo: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let full = repo.join(&folder);
        let entries = fs::read_dir(&full).with_context(|| format!("cannot read {}", full.display()))?;
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            if path == Path::new("target") || path == Path::new(".git") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else {
                files.push(path.to_string_lossy().into_owned());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_rule_is_a_failed_case_with_its_place() {
        let mut places = Places::default();
        places.read("tests/src/a.rs", b"fn main() {}\n");
        assert_eq!(places.cases().len(), RULES.len());
        let failed: Vec<Case> = places.cases().into_iter().filter(|case| case.outcome == Outcome::Failed).collect();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].detail.starts_with("tests/src/a.rs:1: "), "{}", failed[0].detail);
    }

    #[test]
    fn a_long_file_is_noted_and_passes() {
        let mut places = Places::default();
        let text = "//! x\n".repeat(LONG_LINES + 1);
        places.read("tests/src/a.rs", text.as_bytes());
        assert_eq!(places.long.len(), 1);
        assert_eq!(Counts::of(&places.cases()).failed, 0);
    }

    #[test]
    fn without_git_the_build_output_is_left_out() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir_all(dir.path().join("target"))?;
        fs::create_dir_all(dir.path().join("a/target"))?;
        for file in ["target/x", "a/target/y", "z"] {
            fs::write(dir.path().join(file), "")?;
        }
        let mut files = walk(dir.path())?;
        files.sort();
        assert_eq!(files, ["a/target/y", "z"]);
        Ok(())
    }
}
