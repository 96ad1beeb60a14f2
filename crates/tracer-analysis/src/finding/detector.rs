//! What a detector is: one row, from which tables, schemas and documents are made.

use super::Finding;
use crate::model::Model;
use tracer_common::site::{Mechanism, Site};

/// One row of the table of detectors.
#[derive(Clone, Copy, Debug)]
pub struct Detector {
    /// The finding's code, a public contract.
    pub code: &'static str,
    /// `None`: it is about waits across mechanisms, and never left out.
    pub mechanism: Option<Mechanism>,
    /// Whose events its verdicts rest on: records lost there make them uncertain.
    pub sites: &'static [Site],
    /// What is true when it finds something, in one sentence.
    pub what: &'static str,
    pub detect: fn(&Model, u64) -> Vec<Finding>,
}

impl Detector {
    /// Whether it judges when only these mechanisms are watched (`--only`; empty: all).
    pub fn runs_with(&self, only: &[String]) -> bool {
        let wanted = |of: Mechanism| only.iter().any(|m| m == of.name() || (m == "signal" && of == Mechanism::Child));
        only.is_empty() || self.mechanism.is_none_or(wanted)
    }
}
