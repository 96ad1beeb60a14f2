//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! The rules themselves are pure and in `rule`; here files are found and read.

mod code;
mod rule;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::results::{Case, Outcome};
use rule::RULES;

/// From here on a file should be split: said, not refused.
const LONG_LINES: usize = 600;

/// What the rules found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// How many files were read.
    pub(crate) files: usize,
    /// By rule: where it is broken, and why that is wrong.
    broken: BTreeMap<&'static str, Vec<String>>,
    /// Files that are long, with their number of lines.
    long: Vec<(String, usize)>,
}

/// Runs the command.
pub(crate) fn run(machine: &Machine) -> Result<ExitCode> {
    let verdict = check(&machine.repo)?;
    for (rule, places) in &verdict.broken {
        for place in places {
            println!("{rule}: {place}");
        }
    }
    for (path, lines) in &verdict.long {
        println!("note: {path} has {lines} lines: is it one thing?");
    }
    eprintln!("{} files read, {} rules, {} broken", verdict.files, RULES.len(), verdict.broken.len());
    Ok(if verdict.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Verdict {
    /// One case a rule, for the table of `cargo xtask test`.
    pub(crate) fn cases(&self) -> Vec<Case> {
        let case = |name: &'static str| match self.broken.get(name) {
            Some(places) => Case::broken(name, places.join("; ")),
            None => Case { outcome: Outcome::Passed, ..Case::broken(name, String::new()) },
        };
        RULES.iter().map(|rule| case(rule.name)).collect()
    }

    fn read(&mut self, path: &str, bytes: &[u8]) {
        self.files += 1;
        for rule in &RULES {
            let places = (rule.check)(path, bytes);
            if !places.is_empty() {
                let all = self.broken.entry(rule.name).or_default();
                all.extend(places.into_iter().map(|place| match place.line {
                    0 => format!("{path}: {}", place.why),
                    line => format!("{path}:{line}: {}", place.why),
                }));
            }
        }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        if path.ends_with(".rs") && lines > LONG_LINES {
            self.long.push((path.to_owned(), lines));
        }
    }
}

/// Checks every file of the repository that git tracks, or would with the next `git add`.
pub(crate) fn check(repo: &Path) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for path in files(repo)? {
        let full = repo.join(&path);
        // A tracked file may be deleted in the work tree; a link is another file's name.
        let Ok(meta) = fs::symlink_metadata(&full) else {
            continue;
        };
        if meta.is_file() {
            let mut bytes = Vec::new();
            fs::File::open(&full)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .with_context(|| format!("cannot read {path}"))?;
            verdict.read(&path, &bytes);
        }
    }
    Ok(verdict)
}

/// All files, by their path in the repository; without git all but the build's output.
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
        let mut verdict = Verdict::default();
        verdict.read("tests/src/a.rs", b"fn main() {}\n");
        let failed: Vec<Case> = verdict.cases().into_iter().filter(|case| case.outcome == Outcome::Failed).collect();
        assert_eq!(failed.len(), 1);
        assert!(failed[0].detail.starts_with("tests/src/a.rs:1: "), "{}", failed[0].detail);
    }

    #[test]
    fn a_long_file_is_reported() {
        let mut verdict = Verdict::default();
        let text = "//! x\n".repeat(LONG_LINES + 1);
        verdict.read("tests/src/a.rs", text.as_bytes());
        assert_eq!(verdict.long.len(), 1);
        assert!(verdict.broken.is_empty());
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
