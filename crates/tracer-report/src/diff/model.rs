//! The outcome of a comparison as plain data; the field names are the JSON contract (docs/diff.schema.json).

use serde::Serialize;

use super::Source;
use crate::model::{Host, Kernel, Loss, Target, Tool, Window};
use tracer_analysis::finding::{Confidence, Object, Origin, Severity};

/// Version of the JSON diff's form.
pub const SCHEMA: u32 = 1;

/// Two reports compared.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    pub schema: u32,
    /// Tells it from a report.
    pub kind: &'static str,
    pub verdict: Verdict,
    pub counts: Counts,
    pub a: Side,
    pub b: Side,
    /// What makes the comparison unfair, each a sentence.
    pub warnings: Vec<String>,
    /// New ones first, then worse, unknown, gone, better, the same; the worst of each first.
    pub changes: Vec<Change>,
}

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Something is new or worse.
    Worse,
    /// Nothing is; something is gone or better.
    Better,
    /// Nothing of that, and of something it cannot be told.
    Unknown,
    Same,
}

impl Verdict {
    pub(super) fn of(counts: &Counts) -> Self {
        match counts {
            c if c.new + c.worse > 0 => Self::Worse,
            c if c.gone + c.better > 0 => Self::Better,
            c if c.unknown > 0 => Self::Unknown,
            _ => Self::Same,
        }
    }
}

/// What became of a finding, in the order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    New,
    Worse,
    /// Which of the others it is cannot be told.
    Unknown,
    Gone,
    Better,
    Same,
}

/// How many findings became what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub new: usize,
    pub worse: usize,
    pub unknown: usize,
    pub gone: usize,
    pub better: usize,
    pub same: usize,
}

impl Counts {
    pub(super) fn of(changes: &[Change]) -> Self {
        let n = |kind: Kind| changes.iter().filter(|c| c.change == kind).count();
        Self {
            new: n(Kind::New),
            worse: n(Kind::Worse),
            unknown: n(Kind::Unknown),
            gone: n(Kind::Gone),
            better: n(Kind::Better),
            same: n(Kind::Same),
        }
    }
}

/// What was compared.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// As named by the user.
    pub file: String,
    pub tool: Tool,
    pub host: Host,
    pub kernel: Kernel,
    pub target: Target,
    pub window: Window,
    pub loss: Loss,
    /// How many there are.
    pub findings: usize,
}

impl Side {
    pub(super) fn of(source: Source<'_>) -> Self {
        let r = source.report;
        Self {
            file: source.file.to_owned(),
            tool: r.tool.clone(),
            host: r.host.clone(),
            kernel: r.kernel.clone(),
            target: r.target.clone(),
            window: r.window.clone(),
            loss: r.loss.clone(),
            findings: r.findings.len(),
        }
    }
}

/// One finding, of A, of B or of both.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    pub change: Kind,
    pub code: String,
    /// By what both were found to be one; null unless there are both.
    pub matched_by: Option<Tier>,
    pub a: Option<Brief>,
    pub b: Option<Brief>,
    /// What was compared; empty unless there are both.
    pub measures: Vec<Step>,
    /// Why it cannot be told.
    pub reasons: Vec<String>,
    pub note: Option<String>,
}

impl Change {
    /// B's, else A's.
    pub(super) fn latest(&self) -> Option<&Brief> {
        self.b.as_ref().or(self.a.as_ref())
    }
}

/// By what two findings were found to be one; the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Code, program and line of code.
    Line,
    /// Code, program, function and its file: the line moved.
    Function,
    /// Code and the name or key of the object.
    Object,
    /// Code and program: of one of them at least the place is not known.
    Program,
}

/// What to recognise a finding by in its report.
#[derive(Clone, Debug, Serialize)]
pub struct Brief {
    /// Its place among the findings of its report, from 1.
    pub number: usize,
    pub severity: Severity,
    pub confidence: Confidence,
    pub origin: Origin,
    pub title: String,
    pub object: Option<Object>,
    /// Names of the processes, by role.
    pub programs: Vec<Program>,
    /// Line of the program's own code.
    pub at: Option<String>,
    /// The first of its remedies.
    pub remedy: Option<String>,
    pub first_seen: Option<String>,
    pub last_seen: Option<String>,
}

/// A program in a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Program {
    pub role: String,
    pub name: String,
}

/// One piece of evidence, compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Name of the evidence; or `severity`, `limit_percent`.
    pub name: &'static str,
    pub a: f64,
    pub b: f64,
    /// Per minute watched, of what adds up with time; else null.
    pub a_per_minute: Option<f64>,
    pub b_per_minute: Option<f64>,
    /// `worse`, `better` or `same`.
    pub change: Kind,
}
