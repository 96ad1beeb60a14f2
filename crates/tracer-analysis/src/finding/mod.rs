//! The verdict of a detector: a plain, complete answer that every output is made from.

pub mod builder;
pub mod detector;
pub mod object;
pub mod site;
pub mod syscall;
pub mod time;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Critical,
    Warning,
    Info,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Seen happening and confirmed by the kernel's own tables, where such exist.
    Certain,
    Likely,
    /// Rests on a window in which records were lost.
    Uncertain,
}

/// Whether the object was there before.
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
    /// One sentence that a person can act on.
    pub title: String,
    pub object: Option<Object>,
    pub processes: Vec<Process>,
    /// Numbers by name; a value that was not collected, or of which there is none, is null, never 0. 64-bit counters are strings.
    pub evidence: Map<String, Value>,
    pub limit: Option<Limit>,
    pub stacks: Vec<Stack>,
    pub chain: Vec<String>,
    pub remedy: Vec<Remedy>,
    /// Page of the documentation.
    pub docs: String,
    /// RFC 3339, UTC.
    pub first_seen: Option<String>,
    pub last_seen: Option<String>,
}

/// The object that a finding is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub kind: String,
    pub id: String,
    pub key: Option<String>,
    pub name: Option<String>,
    pub ns: Option<u32>,
}

/// What a process or a stack can have to do with a finding; a public contract.
pub const ROLES: &[&str] =
    &["creator", "owner", "holder", "blocked", "reader", "writer", "sender", "receiver", "parent", "child", "peer"];

/// A process in its role.
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

/// A limit with its use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    pub used: Option<u64>,
    pub max: Option<u64>,
    /// Seconds until it is reached at the present rate; null: not rising or not known.
    pub eta_s: Option<u64>,
}

/// A stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    pub role: String,
    pub pid: u32,
    pub kind: String,
    /// Its innermost line of the program's own code, in words.
    #[serde(default)]
    pub site: Option<String>,
    /// Down to that line it was followed by unwind tables; else by frame pointers, and callees of it may be missing.
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
    /// It has no frame of its own: the next one contains its code.
    #[serde(default)]
    pub inlined: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    pub what: String,
    pub command: Option<String>,
}
