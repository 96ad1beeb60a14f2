//! The ground truth of a workload, as JSON: the findings that a correct report must contain.
//!
//! A workload prints it as `READY {json}`; the end-to-end suite parses it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The shortest stall, in milliseconds: the default of `--min-stall`.
pub const MIN_STALL_MS: u64 = 100;

/// Tolerance between a reported and a measured duration, in milliseconds on an unloaded machine.
pub const STALL_TOLERANCE_MS: f64 = 60.0;

/// The ground truth of one workload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Truth {
    pub incident: String,
    pub variant: String,
    /// Findings that the report must contain, each exactly once.
    pub expect: Vec<Expected>,
    /// Codes of findings that are true as well, but not required.
    #[serde(default)]
    pub may: Vec<String>,
    /// Pids by their role in the incident.
    #[serde(default)]
    pub pids: BTreeMap<String, Vec<i32>>,
    /// Pids of every process that the workload started: a finding that names one of them is about this incident.
    #[serde(default)]
    pub all_pids: BTreeSet<i32>,
    /// Names in file systems that only this workload uses: a finding that names one of them is about this incident.
    #[serde(default)]
    pub names: BTreeSet<String>,
    /// Further facts for a human reader.
    #[serde(default)]
    pub facts: Map<String, Value>,
}

/// One finding that the report must contain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Expected {
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_kind: Option<String>,
    /// Object ids that it must name, as the object's id, name or key, or in `evidence.ids`.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Pids that it must name, in any role or in `evidence.pids`.
    #[serde(default)]
    pub pids: Vec<i32>,
    /// Pids that it must name in this role.
    #[serde(default)]
    pub roles: BTreeMap<String, i32>,
    /// Evidence that must be equal; 64-bit counters are strings.
    #[serde(default)]
    pub evidence: Map<String, Value>,
    /// Evidence that must be at least this.
    #[serde(default)]
    pub evidence_min: BTreeMap<String, f64>,
    /// Evidence that must be within a tolerance: name to `[value, tolerance]`.
    /// The time scale of the suite widens the tolerance of durations, whose names end with `_ms`.
    #[serde(default)]
    pub evidence_near: BTreeMap<String, [f64; 2]>,
    /// The value of `evidence.cause`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The finding's origin: `baseline` if its cause is older than the trace, or `observed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The value of `limit.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Pids that the first links of `chain` name, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<i32>,
}

impl Truth {
    /// A truth that expects one finding.
    pub fn one(expected: Expected) -> Self {
        Self { expect: vec![expected], ..Self::default() }
    }

    /// Adds the code of a finding that is true as well, but not required.
    pub fn may(mut self, code: &str) -> Self {
        self.may.push(code.to_owned());
        self
    }

    /// Adds pids with a role.
    pub fn role(mut self, role: &str, pids: impl IntoIterator<Item = i32>) -> Self {
        self.pids.entry(role.to_owned()).or_default().extend(pids);
        self
    }

    /// Adds a fact for a human reader.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

impl Expected {
    /// A finding with this code, and no other requirement.
    pub fn new(code: &str) -> Self {
        Self { code: code.to_owned(), ..Self::default() }
    }

    /// Requires the kind of the object.
    pub fn kind(mut self, kind: &str) -> Self {
        self.object_kind = Some(kind.to_owned());
        self
    }

    /// Requires object ids.
    pub fn ids<T: ToString>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.ids.extend(ids.into_iter().map(|id| id.to_string()));
        self
    }

    /// Requires pids in any role.
    pub fn pids(mut self, pids: impl IntoIterator<Item = i32>) -> Self {
        self.pids.extend(pids);
        self
    }

    /// Requires a pid in a role.
    pub fn role(mut self, role: &str, pid: i32) -> Self {
        self.roles.insert(role.to_owned(), pid);
        self
    }

    /// Requires evidence that is equal to `value`.
    pub fn exact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }

    /// Requires evidence that differs from `value` by `tolerance` at most.
    pub fn near(mut self, name: &str, value: f64, tolerance: f64) -> Self {
        self.evidence_near.insert(name.to_owned(), [value, tolerance]);
        self
    }

    /// Requires `evidence.cause`.
    pub fn cause(mut self, cause: &str) -> Self {
        self.cause = Some(cause.to_owned());
        self
    }

    /// Requires the pids of the first links of the chain.
    pub fn chain(mut self, pids: impl IntoIterator<Item = i32>) -> Self {
        self.chain.extend(pids);
        self
    }

    /// Requires `limit.name`.
    pub fn limit(mut self, name: &str) -> Self {
        self.limit = Some(name.to_owned());
        self
    }
}
