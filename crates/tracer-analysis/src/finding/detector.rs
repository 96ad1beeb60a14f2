//! The row that describes a detector; tables, schemas and documents are made from these rows.

use super::Finding;
use super::evidence::Evidence;
use super::measure::Measure;
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};

/// One row of the table of detectors.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    /// The finding's code, a public contract.
    pub code: &'static str,
    /// `None`: the detector covers waits across mechanisms and always runs.
    pub mechanism: Option<Mechanism>,
    pub family: Family,
    /// The sites whose events it rests on: records lost there make its findings uncertain.
    pub sites: &'static [Site],
    /// What a finding of this code states, in one sentence.
    pub what: &'static str,
    /// The evidence that a finding may have, in groups because detectors share some; it has no other.
    pub evidence: &'static [&'static [Evidence]],
    /// The numbers that show that it became worse; the first says how often it happened.
    pub worse: &'static [Measure],
    pub detect: fn(&Model, u64) -> Vec<Finding>,
}

/// What kind of problem it is. Outputs that treat codes alike ask for this, never for a part of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Objects pile up, or outlive their users. The tables read at the end confirm it.
    Leak,
    /// Calls block for at least min-stall.
    Stall,
    /// Threads block each other for ever.
    Deadlock,
    /// Calls fail, or wait in vain, because another process does not drain or release an object.
    Refused,
    /// Calls fail, or soon will, because a limit is used up.
    Exhausted,
    /// Calls succeed, but a limit cuts what they deliver: signals, descriptors or capacity.
    Truncated,
}

impl Family {
    pub const ALL: [Self; 6] =
        [Self::Leak, Self::Stall, Self::Deadlock, Self::Refused, Self::Exhausted, Self::Truncated];

    /// Heading of its part in the index of findings.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Leak => "Leaks",
            Self::Stall => "Stalls",
            Self::Deadlock => "Deadlocks",
            Self::Refused => "Refusals",
            Self::Exhausted => "Exhausted limits",
            Self::Truncated => "Truncation",
        }
    }

    /// What its findings have in common, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Leak => "Objects pile up, or outlive their users.",
            Self::Stall => "Calls block for at least `--min-stall`.",
            Self::Deadlock => "Threads block each other for ever.",
            Self::Refused => {
                "Calls fail, or wait in vain, because another process does not drain or release an object."
            }
            Self::Exhausted => "Calls fail, or soon will, because a limit is used up.",
            Self::Truncated => "Calls succeed, but a limit cuts what they deliver: signals, descriptors or capacity.",
        }
    }

    /// Its column in the table of capabilities.
    pub fn column(self) -> Column {
        match self {
            Self::Leak => Column::Leaks,
            Self::Stall | Self::Deadlock | Self::Refused => Column::Stalls,
            Self::Exhausted | Self::Truncated => Column::Limits,
        }
    }
}

/// A column of the table of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    Stalls,
    Leaks,
    Limits,
}

impl Column {
    /// In the order of the table.
    pub const ALL: [Self; 3] = [Self::Stalls, Self::Leaks, Self::Limits];

    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stalls => "stalls",
            Self::Leaks => "leaks",
            Self::Limits => "limits",
        }
    }
}

impl Detector {
    /// Whether the detector runs when only these mechanisms are watched (`--only`; empty: all).
    pub fn runs_with(&self, only: &[String]) -> bool {
        let wanted = |of: Mechanism| only.iter().any(|m| m == of.name() || (m == "signal" && of == Mechanism::Child));
        only.is_empty() || self.mechanism.is_none_or(wanted)
    }

    /// All evidence that a finding may have.
    pub fn evidence(&self) -> impl Iterator<Item = &'static Evidence> {
        self.evidence.iter().copied().flatten()
    }

    /// Its page of the documentation, from the root of the repository.
    pub fn page(&self) -> String {
        format!("docs/findings/{}.md", self.code)
    }
}
