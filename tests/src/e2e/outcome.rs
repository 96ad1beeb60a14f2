//! The outcome of each case, printed for people and, in a VM, as `RESULT {json}` lines for the reader of its console.

use std::io::Write;

use serde_json::json;

use super::settings::Settings;
use crate::skip::Skip;

/// How one case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// Everything that is wrong.
    Failed(Vec<String>),
    /// Why the case cannot run here, or what its report admits.
    Skipped(String),
}

impl Outcome {
    /// `Passed` if there are no problems.
    pub fn of(problems: Vec<String>) -> Self {
        if problems.is_empty() { Self::Passed } else { Self::Failed(problems) }
    }

    /// `Skipped` for an error that is a [`Skip`], `Failed` for any other error.
    pub(super) fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => Self::Skipped(reason.clone()),
            None => Self::Failed(vec![format!("{error:#}")]),
        }
    }
}

/// The skip reason of a problem that is not a failure, because the report itself admits a possible cause.
pub(super) fn admitted(what: &str, problem: &str) -> String {
    format!("the report admits {what}, which may explain: {problem}")
}

/// Counts and prints outcomes.
#[derive(Debug)]
pub struct Tally {
    backend: String,
    machine_readable: bool,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    pub(super) fn new(settings: &Settings) -> Self {
        let backend = settings.backend_name().to_owned();
        Self { backend, machine_readable: settings.vm, passed: 0, failed: 0, skipped: 0 }
    }

    /// Counts and prints one case.
    pub(super) fn add(&mut self, case: &str, variant: &str, outcome: &Outcome) {
        let (count, mark, word, detail) = match outcome {
            Outcome::Passed => (&mut self.passed, "ok  ", "passed", String::new()),
            Outcome::Failed(problems) => (&mut self.failed, "FAIL", "failed", problems.join("; ")),
            Outcome::Skipped(reason) => (&mut self.skipped, "skip", "skipped", reason.clone()),
        };
        *count += 1;
        let mut lines = format!("{mark} {case} {variant}\n");
        match outcome {
            Outcome::Passed => {}
            Outcome::Failed(problems) => problems.iter().for_each(|p| lines.push_str(&format!("       {p}\n"))),
            Outcome::Skipped(reason) => lines.push_str(&format!("       {reason}\n")),
        }
        if self.machine_readable {
            let result = json!({
                "case": case, "variant": variant, "backend": self.backend, "outcome": word, "detail": detail,
            });
            lines.push_str(&format!("RESULT {result}\n"));
        }
        // A closed standard output must not end the suite.
        let _ = std::io::stdout().lock().write_all(lines.as_bytes());
    }

    /// True if any case failed.
    pub fn failed(&self) -> bool {
        self.failed > 0
    }

    /// `N passed, N failed, N skipped`.
    pub fn summary(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
