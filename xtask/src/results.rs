//! Results of test cases: parsed from the output of `cargo test` and of the end-to-end runner, counted, and shown as a
//! matrix.
//!
//! Pure: text in, text out.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde_json::Value;

/// How one case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One case that was run somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Such as `bug` or `twin`; may be empty.
    pub(crate) variant: String,
    pub(crate) outcome: Outcome,
    /// Why it failed or was skipped.
    pub(crate) detail: String,
}

/// The cases of one run of the suite, and where it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The kernel family, or `native`.
    pub(crate) kernel: String,
    pub(crate) backend: String,
    pub(crate) cases: Vec<Case>,
}

/// Counts, in the words of the last line of `cargo xtask test`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Case {
    /// A failure. Also for what is no case of a suite: the runner or its VM died.
    pub(crate) fn broken(name: &str, detail: String) -> Self {
        Self { name: name.to_owned(), variant: String::new(), outcome: Outcome::Failed, detail }
    }

    pub(crate) fn passed(name: &str) -> Self {
        Self { outcome: Outcome::Passed, ..Self::broken(name, String::new()) }
    }

    pub(crate) fn skipped(name: &str, reason: String) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::broken(name, reason) }
    }

    /// One line: outcome, name, variant and reason.
    pub(crate) fn sentence(&self) -> String {
        self.sentence_with("")
    }

    fn sentence_with(&self, place: &str) -> String {
        let word = match self.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        let space = if self.variant.is_empty() { "" } else { " " };
        format!("{word} {}{space}{}{place}: {}", self.name, self.variant, self.detail)
    }

    fn parse_json(json: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let outcome = match text("outcome") {
            Some("passed") => Outcome::Passed,
            Some("failed") => Outcome::Failed,
            Some("skipped") => Outcome::Skipped,
            other => return Err(format!("outcome {other:?}")),
        };
        Ok(Self {
            name: text("case").ok_or("no case")?.to_owned(),
            variant: text("variant").unwrap_or_default().to_owned(),
            outcome,
            detail: text("detail").unwrap_or_default().to_owned(),
        })
    }
}

impl Counts {
    pub(crate) fn of(cases: &[Case]) -> Self {
        let count = |outcome| cases.iter().filter(|case| case.outcome == outcome).count();
        Self { passed: count(Outcome::Passed), failed: count(Outcome::Failed), skipped: count(Outcome::Skipped) }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(out, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Reads the `RESULT {json}` lines of a runner's output. A line that cannot be read is a failure.
pub(crate) fn parse_results<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Case> {
    lines
        .filter_map(|line| line.strip_prefix("RESULT "))
        .map(|json| {
            Case::parse_json(json).unwrap_or_else(|why| Case::broken("runner", format!("bad line `{json}`: {why}")))
        })
        .collect()
}

/// Reads the lines that the runner prints for people: `ok`, `FAIL` or `skip`, case, variant, and
/// indented reasons.
pub(crate) fn parse_marks<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in lines {
        if let Some(reason) = line.strip_prefix("       ") {
            if let Some(case) = cases.last_mut() {
                let separator = if case.detail.is_empty() { "" } else { "; " };
                case.detail.push_str(separator);
                case.detail.push_str(reason.trim());
            }
            continue;
        }
        let outcomes = [("ok   ", Outcome::Passed), ("FAIL ", Outcome::Failed), ("skip ", Outcome::Skipped)];
        for (mark, outcome) in outcomes {
            if let Some(rest) = line.strip_prefix(mark) {
                let (name, variant) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
                cases.push(Case { name: name.to_owned(), variant: variant.to_owned(), outcome, detail: String::new() });
            }
        }
    }
    cases
}

/// Reads the file that tests append a line `crate::test<TAB>reason` to when they skip. A test is one case, whatever
/// number of its parts it skips. A line that cannot be read is a failure.
pub(crate) fn parse_skips(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let Some((name, reason)) = line.split_once('\t') else {
            cases.push(Case::broken("skip", format!("bad line `{line}`")));
            continue;
        };
        match cases.iter_mut().find(|case| case.name == name) {
            Some(case) if case.detail.split("; ").any(|known| known == reason) => {}
            Some(case) => case.detail.push_str(&format!("; {reason}")),
            None => cases.push(Case::skipped(name, reason.to_owned())),
        }
    }
    cases
}

/// The cases of `cargo test`, from the lines of its output and the skips of [`parse_skips`]. libtest counts a test that
/// skips as passed, here it counts as skipped. `hint` says where to read more about a failure.
pub(crate) fn unit_cases(lines: &[String], skips: Vec<Case>, hint: &str) -> Vec<Case> {
    let counts = parse_cargo_test(lines.iter().map(String::as_str));
    let failed: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    let mut cases: Vec<Case> = failed.iter().map(|name| Case::broken(name, hint.to_owned())).collect();
    let unnamed = counts.failed.saturating_sub(failed.len());
    cases.extend((0..unnamed).map(|_| Case::broken("cargo test", hint.to_owned())));
    // A test may skip a part and fail in another.
    let has_failed = |case: &Case| case.name.split_once("::").is_some_and(|(_, test)| failed.contains(&test));
    let skips: Vec<Case> = skips.into_iter().filter(|case| !has_failed(case)).collect();
    let passed = counts.passed.saturating_sub(Counts::of(&skips).skipped);
    cases.extend(skips);
    cases.extend((0..passed).map(|_| Case::passed("unit")));
    cases.extend((0..counts.skipped).map(|_| Case::skipped("unit", "marked #[ignore]".to_owned())));
    cases
}

/// Sums the `test result:` lines that `cargo test` prints, one for each test program.
fn parse_cargo_test<'a>(lines: impl Iterator<Item = &'a str>) -> Counts {
    let mut counts = Counts::default();
    for line in lines {
        let Some(rest) = line.trim().strip_prefix("test result: ") else {
            continue;
        };
        let words: Vec<&str> = rest.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if let [number, what] = pair
                && let Ok(number) = number.parse::<usize>()
            {
                match *what {
                    "passed" => counts.passed += number,
                    "failed" => counts.failed += number,
                    "ignored" => counts.skipped += number,
                    _ => {}
                }
            }
        }
    }
    counts
}

/// A table of cases by kernel and backend, with one cell for all variants of a case.
pub(crate) fn matrix(runs: &[Run]) -> String {
    let mut rows: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for run in runs {
        for case in &run.cases {
            rows.entry(&case.name).or_default();
        }
    }
    for (name, cells) in &mut rows {
        for run in runs {
            let variants: Vec<&Case> = run.cases.iter().filter(|case| case.name == *name).collect();
            cells.push(cell(&variants));
        }
    }
    let heads = |pick: fn(&Run) -> &str| runs.iter().map(|run| pick(run).to_owned()).collect();
    let mut lines: Vec<(&str, Vec<String>)> =
        vec![("kernel", heads(|run| &run.kernel)), ("backend", heads(|run| &run.backend))];
    lines.extend(rows);
    let first = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, cells) in lines {
        text.push_str(&format!("{name:first$}"));
        for (cell, run) in cells.iter().zip(runs) {
            let width = run.kernel.len().max(run.backend.len()).max(6);
            text.push_str(&format!("  {cell:width$}"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// One line for every case that failed or was skipped, with its reason.
pub(crate) fn exceptions(runs: &[Run]) -> Vec<String> {
    let line = |run: &Run, case: &Case| case.sentence_with(&format!(" on {} {}", run.kernel, run.backend));
    runs.iter()
        .flat_map(|run| run.cases.iter().map(move |case| (run, case)))
        .filter(|(_, case)| case.outcome != Outcome::Passed)
        .map(|(run, case)| line(run, case))
        .collect()
}

fn cell(variants: &[&Case]) -> String {
    let count = |outcome| variants.iter().filter(|case| case.outcome == outcome).count();
    let (passed, failed) = (count(Outcome::Passed), count(Outcome::Failed));
    match (variants.len(), passed, failed) {
        (0, _, _) => "-".to_owned(),
        (_, _, 1..) => "FAILED".to_owned(),
        (_, 0, 0) => "skip".to_owned(),
        (all, passed, 0) if all == passed => format!("ok {passed}"),
        (all, passed, 0) => format!("ok {passed}/{all}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, variant: &str, outcome: Outcome) -> Case {
        Case { name: name.to_owned(), variant: variant.to_owned(), outcome, detail: String::new() }
    }

    #[test]
    fn result_lines_are_read_among_others() {
        let output = "ok   sem bug\n\
            RESULT {\"case\":\"sem\",\"variant\":\"bug\",\"outcome\":\"passed\",\"detail\":\"\"}\n\
            RESULT {\"case\":\"fd\",\"variant\":\"twin\",\"outcome\":\"skipped\",\"detail\":\"why\"}\n\
            RESULT {\"case\":\"fd\",\n";
        let cases = parse_results(output.lines());
        assert_eq!(cases.len(), 3);
        assert_eq!(cases[0], case("sem", "bug", Outcome::Passed));
        assert_eq!(cases[1].detail, "why");
        assert_eq!(cases[2].outcome, Outcome::Failed, "a torn line is a failure");
    }

    #[test]
    fn an_unknown_outcome_is_a_failure() {
        let cases = parse_results(["RESULT {\"case\":\"a\",\"outcome\":\"fine\"}"].into_iter());
        assert_eq!(Counts::of(&cases).failed, 1);
    }

    #[test]
    fn lines_for_people_are_read_with_their_reasons() {
        let output = "ok   sem bug\nFAIL fd twin\n       one\n       two\nskip a b\n       c\nx\n";
        let cases = parse_marks(output.lines());
        assert_eq!(cases.len(), 3);
        assert_eq!(cases[0], case("sem", "bug", Outcome::Passed));
        assert_eq!(cases[1].detail, "one; two");
        assert_eq!((cases[2].outcome, cases[2].detail.as_str()), (Outcome::Skipped, "c"));
    }

    #[test]
    fn cargo_test_counts_are_summed() {
        let output = "running 2 tests\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
            finished in 0.00s\n\
            test result: FAILED. 1 passed; 3 failed; 4 ignored; 0 measured; 9 filtered out; \
            finished in 0.00s\n";
        let counts = parse_cargo_test(output.lines());
        assert_eq!(counts, Counts { passed: 3, failed: 3, skipped: 4 });
        assert_eq!(counts.to_string(), "3 passed, 3 failed, 4 skipped");
    }

    #[test]
    fn a_skip_is_no_pass() {
        let output = "test b::works ... ok\n\
            test b::half ... FAILED\n\
            test b::never ... ok\n\
            test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        let skips = parse_skips("a::b::never\tno x\na::b::half\tno y\na::b::never\tno x\na::b::never\tno z\n");
        let cases = unit_cases(&lines, skips, "see log");
        assert_eq!(Counts::of(&cases), Counts { passed: 1, failed: 1, skipped: 2 });
        let sentences: Vec<String> = cases.iter().map(Case::sentence).collect();
        let expected = ["FAILED b::half: see log", "skipped a::b::never: no x; no z", "skipped unit: marked #[ignore]"];
        for sentence in expected {
            assert!(sentences.iter().any(|found| found == sentence), "{sentence} in {sentences:?}");
        }
    }

    #[test]
    fn a_skip_without_a_reason_is_a_failure() {
        assert_eq!(Counts::of(&parse_skips("a::b")).failed, 1);
        assert_eq!(parse_skips(""), []);
    }

    #[test]
    fn a_failure_without_a_name_is_counted() {
        let lines = ["test result: FAILED. 0 passed; 1 failed; 0 ignored".to_owned()];
        assert_eq!(Counts::of(&unit_cases(&lines, Vec::new(), "")).failed, 1);
    }

    #[test]
    fn the_matrix_has_a_cell_for_each_run() {
        let runs = [
            Run {
                kernel: "5.10".to_owned(),
                backend: "fentry".to_owned(),
                cases: vec![
                    case("sem", "bug", Outcome::Passed),
                    case("sem", "twin", Outcome::Passed),
                    case("pipe", "bug", Outcome::Skipped),
                ],
            },
            Run {
                kernel: "7.x".to_owned(),
                backend: "tracepoint".to_owned(),
                cases: vec![case("sem", "bug", Outcome::Failed), case("sem", "twin", Outcome::Passed)],
            },
        ];
        assert_eq!(
            matrix(&runs),
            "kernel   5.10    7.x\n\
             backend  fentry  tracepoint\n\
             pipe     skip    -\n\
             sem      ok 2    FAILED\n"
        );
        assert_eq!(exceptions(&runs), ["skipped pipe bug on 5.10 fentry: ", "FAILED sem bug on 7.x tracepoint: "]);
    }
}
