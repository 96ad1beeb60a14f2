//! `cargo deny`: licences, duplicate crates and sources of all dependencies, by the rules in deny.toml.
//!
//! Never installed from here, and run offline; advisories need a download, so they are left out.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::machine::find_on_path;
use crate::results::Case;

/// The case's name.
const NAME: &str = "cargo deny";
/// How many lines of its messages are kept.
const LINES: usize = 20;

/// Runs it, if it is installed.
pub(super) fn check(repo: &Path) -> Case {
    if find_on_path("cargo-deny").is_none() {
        return Case::skipped(NAME, "not installed: cargo install cargo-deny --locked".to_owned());
    }
    let mut cargo = Command::new("cargo");
    cargo.args(["deny", "--offline", "--color", "never", "check", "licenses", "bans", "sources"]);
    run(cargo.current_dir(repo))
}

fn run(command: &mut Command) -> Case {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Case::passed(NAME),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(LINES).collect();
            Case::broken(NAME, format!("{}\n{}", output.status, lines.join("\n")))
        }
        Err(error) => Case::broken(NAME, format!("cannot run cargo: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Outcome;

    #[test]
    fn its_exit_code_decides_and_its_messages_are_kept() {
        let shell = |script: &str| run(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo note >&2").outcome, Outcome::Passed);
        let failed = shell("echo licence rejected >&2; exit 3");
        assert_eq!(failed.outcome, Outcome::Failed);
        assert!(failed.detail.contains("exit status: 3\nlicence rejected"), "{}", failed.detail);
        assert_eq!(run(&mut Command::new("/nonexistent/cargo")).outcome, Outcome::Failed);
    }
}
