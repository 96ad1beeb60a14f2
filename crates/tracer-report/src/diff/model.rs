//! The result of a comparison as plain data; the field names are the JSON contract (docs/diff.schema.json).

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
    /// Distinguishes a diff from a report.
    pub kind: &'static str,
    pub verdict: Verdict,
    pub counts: Counts,
    pub a: Side,
    pub b: Side,
    /// Differences between the runs that make the comparison unfair, one sentence each.
    pub warnings: Vec<String>,
    /// New findings first, then worse, unknown, gone, better and same; the most severe first in each group.
    pub changes: Vec<Change>,
}

/// The result in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Something is new or worse.
    Worse,
    /// Nothing is new or worse; something is gone or better.
    Better,
    /// None of these, but the outcome of some finding is unknown.
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

/// The outcome of a finding, in reading order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    New,
    Worse,
    /// The comparison cannot decide between the others.
    Unknown,
    Gone,
    Better,
    Same,
}

/// The number of findings by outcome.
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

/// One of the two reports compared.
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
    /// Number of findings.
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

/// The outcome of one finding of A, of B or of both.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    pub change: Kind,
    pub code: String,
    /// How the findings of A and B were matched; null unless there are both.
    pub matched_by: Option<Tier>,
    pub a: Option<Brief>,
    pub b: Option<Brief>,
    /// The numbers compared; empty unless there are both.
    pub measures: Vec<Step>,
    /// Why the outcome is unknown.
    pub reasons: Vec<String>,
    pub note: Option<String>,
}

impl Change {
    /// The finding of B, else of A.
    pub(super) fn latest(&self) -> Option<&Brief> {
        self.b.as_ref().or(self.a.as_ref())
    }
}

/// How two findings were matched; the most certain first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Code, program and line of code.
    Line,
    /// Code, program, function and its file: the line moved.
    Function,
    /// Code and the name or key of the object.
    Object,
    /// Code and program: the place of at least one of them is unknown.
    Program,
}

/// Identifies a finding in its report.
#[derive(Clone, Debug, Serialize)]
pub struct Brief {
    /// Its number in its report, from 1.
    pub number: usize,
    pub severity: Severity,
    pub confidence: Confidence,
    pub origin: Origin,
    pub title: String,
    pub object: Option<Object>,
    /// Names of the processes, by role.
    pub programs: Vec<Program>,
    /// Line of the program's own code that its stack leads to.
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
    /// Per minute watched, for numbers that add up over time; else null.
    pub a_per_minute: Option<f64>,
    pub b_per_minute: Option<f64>,
    /// `worse`, `better` or `same`.
    pub change: Kind,
}
