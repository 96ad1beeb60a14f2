//! What a detector reports: a plain, complete finding from which every output is made.

pub mod builder;
pub mod detector;
pub mod evidence;
pub mod measure;
pub mod object;
pub mod site;
pub mod syscall;
pub mod time;

use evidence::Evidence;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Critical,
    Warning,
    Info,
}

/// How certain a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Observed, and confirmed by the kernel's tables where they cover it.
    Certain,
    Likely,
    /// Records were lost in the window that the finding rests on.
    Uncertain,
}

/// Whether the object existed before tracing began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Baseline,
    Observed,
}

/// One finding; the field names are the JSON contract (schema 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub code: String,
    pub severity: Severity,
    pub confidence: Confidence,
    pub origin: Origin,
    /// One sentence: the process first, the cause last.
    pub title: String,
    pub object: Option<Object>,
    pub processes: Vec<Process>,
    /// Values by name. A value that was not collected or does not exist is null, never 0. 64-bit counters are strings.
    pub evidence: Map<String, Value>,
    pub limit: Option<Limit>,
    pub stacks: Vec<FindingStack>,
    pub chain: Vec<String>,
    pub remedy: Vec<Remedy>,
    /// Path of the documentation page.
    pub docs: String,
    /// RFC 3339, UTC.
    pub first_seen: Option<String>,
    pub last_seen: Option<String>,
}

impl Finding {
    /// Evidence by its row; `None` if the finding does not have it.
    pub fn value(&self, of: Evidence) -> Option<&Value> {
        self.evidence.get(of.name)
    }

    /// A number of the evidence, not below 0, whatever its unit; `None` for null.
    pub fn number(&self, of: Evidence) -> Option<f64> {
        let n = match self.value(of)? {
            Value::Number(n) => n.as_f64(),
            Value::String(s) => s.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        n.filter(|n: &f64| n.is_finite() && *n >= 0.0)
    }

    /// A list of strings of the evidence; nothing for null.
    pub fn texts(&self, of: Evidence) -> impl Iterator<Item = &str> {
        self.value(of).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }
}

/// The object of a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub kind: String,
    pub id: String,
    pub key: Option<String>,
    pub name: Option<String>,
    pub ns: Option<u32>,
}

/// The roles of processes and stacks in a finding; a public contract.
pub const ROLES: &[&str] =
    &["creator", "owner", "holder", "blocked", "reader", "writer", "sender", "receiver", "parent", "child", "peer"];

/// A process and its role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// One of [`ROLES`].
    pub role: String,
    pub pid: u32,
    pub tid: Option<u32>,
    pub comm: Option<String>,
    pub exe: Option<String>,
    /// RFC 3339, UTC.
    pub start: Option<String>,
    pub alive: Option<bool>,
    pub ns_pid: Option<u32>,
    pub container: Option<String>,
    pub pod: Option<String>,
    pub unit: Option<String>,
}

/// A limit and its use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    pub used: Option<u64>,
    pub max: Option<u64>,
    /// Seconds until the limit is reached at the current rate; null if use does not rise or the rate is unknown.
    pub eta_s: Option<u64>,
}

/// A stack as a finding reports it; `model::stack::Stack` is a user stack as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FindingStack {
    pub role: String,
    pub pid: u32,
    pub kind: String,
    /// The innermost frame of the program's own code, as text.
    #[serde(default)]
    pub site: Option<String>,
    /// Unwind tables give every frame down to that one. Otherwise frame pointers do, and its callees may be missing.
    #[serde(default)]
    pub exact: bool,
    pub truncated: bool,
    pub frames: Vec<StackFrame>,
}

/// One frame of a stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StackFrame {
    /// Hexadecimal.
    pub addr: String,
    pub symbol: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub module: Option<String>,
    /// The function is inlined into that of the next frame.
    #[serde(default)]
    pub inlined: bool,
}

/// A fix, or a step towards one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    pub what: String,
    pub command: Option<String>,
}
