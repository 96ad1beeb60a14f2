//! The row that describes a detector; tables, schemas and documents are made from these rows.

use super::Finding;
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};

/// One row of the table of detectors.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    /// The finding's code, a public contract.
    pub code: &'static str,
    /// `None`: the detector covers waits across mechanisms and always runs.
    pub mechanism: Option<Mechanism>,
    /// The sites whose events it rests on: records lost there make its findings uncertain.
    pub sites: &'static [Site],
    /// What a finding of this code states, in one sentence.
    pub what: &'static str,
    pub detect: fn(&Model, u64) -> Vec<Finding>,
}

impl Detector {
    /// Whether the detector runs when only these mechanisms are watched (`--only`; empty: all).
    pub fn runs_with(&self, only: &[String]) -> bool {
        let wanted = |of: Mechanism| only.iter().any(|m| m == of.name() || (m == "signal" && of == Mechanism::Child));
        only.is_empty() || self.mechanism.is_none_or(wanted)
    }
}
