//! What a workload knows to be true, as JSON: the findings that a correct report must hold.
//!
//! A workload prints it as `READY {json}`; the runner reads it back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A wait of this length or more is a stall (the default of `--min-stall`), in milliseconds.
pub const MIN_STALL_MS: u64 = 100;

/// How far a reported duration may be from the measured one, in milliseconds on an unloaded machine.
pub const STALL_TOLERANCE_MS: f64 = 60.0;

/// The ground truth of one workload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Truth {
    pub incident: String,
    pub variant: String,
    /// Findings that must be in the report, each exactly once.
    pub expect: Vec<Expected>,
    /// Codes that are true as well, though nobody asks for them.
    #[serde(default)]
    pub may: Vec<String>,
    /// Pids by what they do in the incident.
    #[serde(default)]
    pub pids: BTreeMap<String, Vec<i32>>,
    /// Every process that the workload started: a finding that names one of them is about this incident.
    #[serde(default)]
    pub all_pids: BTreeSet<i32>,
    /// Names in file systems that nobody else uses: a finding that names one of them is about this incident.
    #[serde(default)]
    pub names: BTreeSet<String>,
    /// Further facts for a human reader.
    #[serde(default)]
    pub facts: Map<String, Value>,
}

/// One finding that must be there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Expected {
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_kind: Option<String>,
    /// Object ids that it must name, as the object's or in `evidence.ids`.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Processes that it must name, by role or in `evidence.pids`.
    #[serde(default)]
    pub pids: Vec<i32>,
    /// Processes that it must name in this role.
    #[serde(default)]
    pub roles: BTreeMap<String, i32>,
    /// Numbers that must be equal; 64-bit counters are strings.
    #[serde(default)]
    pub evidence: Map<String, Value>,
    /// Numbers that must be at least this.
    #[serde(default)]
    pub evidence_min: BTreeMap<String, f64>,
    /// Numbers that must be within a tolerance: name to `[value, tolerance]`.
    /// For durations (names in `_ms`) the runner's time scale widens the tolerance.
    #[serde(default)]
    pub evidence_near: BTreeMap<String, [f64; 2]>,
    /// The value of `evidence.cause`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The finding's origin: `baseline` if it was there before tracing began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The value of `limit.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Processes that the first links of `chain` name, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<i32>,
}

impl Truth {
    /// A truth that expects one finding.
    pub fn one(expected: Expected) -> Self {
        Self { expect: vec![expected], ..Self::default() }
    }

    /// Adds a code that is true as well.
    pub fn may(mut self, code: &str) -> Self {
        self.may.push(code.to_owned());
        self
    }

    /// Names processes by what they do.
    pub fn role(mut self, role: &str, pids: impl IntoIterator<Item = i32>) -> Self {
        self.pids.entry(role.to_owned()).or_default().extend(pids);
        self
    }

    /// Adds a fact for the reader.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

impl Expected {
    pub fn new(code: &str) -> Self {
        Self { code: code.to_owned(), ..Self::default() }
    }

    pub fn kind(mut self, kind: &str) -> Self {
        self.object_kind = Some(kind.to_owned());
        self
    }

    pub fn ids<T: ToString>(mut self, ids: impl IntoIterator<Item = T>) -> Self {
        self.ids.extend(ids.into_iter().map(|id| id.to_string()));
        self
    }

    pub fn pids(mut self, pids: impl IntoIterator<Item = i32>) -> Self {
        self.pids.extend(pids);
        self
    }

    pub fn role(mut self, role: &str, pid: i32) -> Self {
        self.roles.insert(role.to_owned(), pid);
        self
    }

    pub fn exact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }

    pub fn near(mut self, name: &str, value: f64, tolerance: f64) -> Self {
        self.evidence_near.insert(name.to_owned(), [value, tolerance]);
        self
    }

    pub fn cause(mut self, cause: &str) -> Self {
        self.cause = Some(cause.to_owned());
        self
    }

    pub fn chain(mut self, pids: impl IntoIterator<Item = i32>) -> Self {
        self.chain.extend(pids);
        self
    }

    pub fn limit(mut self, name: &str) -> Self {
        self.limit = Some(name.to_owned());
        self
    }
}
