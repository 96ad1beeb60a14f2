//! The parts of a finding in words, for people: one line of plain text each, not yet escaped.

use std::fmt::Write;

use serde_json::Value;

use crate::detect::finding::{Confidence, Finding, Limit, Object, Origin, Process, Stack, StackFrame};
use crate::detect::site::is_system;
use crate::detect::time::seconds;

/// Elements of a list that are shown; JSON has them all.
pub(super) const LIST_MAX: usize = 12;

/// Frames of one stack that are shown.
const FRAMES_MAX: usize = 24;

/// Evidence in the order of reading; names that are not here follow by alphabet.
const EVIDENCE_ORDER: &[&str] = &[
    "cause",
    "instances",
    "oldest_age_s",
    "rate_per_h",
    "errno",
    "failed",
    "used",
    "max",
    "waiters",
    "holder_died_s",
    "stalls",
    "ongoing",
    "began_before_start",
    "total_ms",
    "max_ms",
    "p50_ms",
    "p99_ms",
    "min_stall_ms",
    "capacity_bytes",
    "fill_bytes",
    "slots",
    "slots_used",
    "suggested_capacity_bytes",
    "default_bytes",
    "pipes_of_user",
    "eagain",
    "last_drain_age_ms",
    "counter",
    "received",
    "closed",
    "outstanding",
    "outstanding_at_start",
    "dropped",
    "messages_truncated",
    "queued",
    "exits",
    "sigchld_generated",
    "sigchld_coalesced",
    "waits",
    "reaped",
    "unreaped",
];

/// Evidence that may have nothing to say: its null means that there is none, not that it was not collected.
/// Such a fact is left out here, so that "not collected" stays what it is; JSON has the null.
const MAY_NOT_APPLY: &[&str] = &["errno", "last_drain_age_ms", "rate_per_h", "suggested_capacity_bytes"];

pub(super) fn object(o: &Object) -> String {
    let mut out = format!("{} {}", o.kind, o.id);
    if let Some(name) = &o.name {
        let _ = write!(out, " {name}");
    }
    if let Some(key) = &o.key {
        let _ = write!(out, ", key {key}");
    }
    if let Some(ns) = o.ns {
        let _ = write!(out, ", namespace {ns}");
    }
    out
}

pub(super) fn process(p: &Process) -> String {
    let mut out = format!("{}", p.pid);
    if let Some(tid) = p.tid.filter(|t| *t != p.pid) {
        let _ = write!(out, "/{tid}");
    }
    if let Some(comm) = &p.comm {
        let _ = write!(out, " {comm}");
    }
    if let Some(exe) = &p.exe {
        let _ = write!(out, " ({exe})");
    }
    let mut more = Vec::new();
    more.extend(p.ns_pid.map(|n| format!("pid {n} in its namespace")));
    more.extend(p.container.as_ref().map(|c| format!("container {c}")));
    more.extend(p.pod.as_ref().map(|c| format!("pod {c}")));
    more.extend(p.unit.clone());
    more.extend(p.start.as_ref().map(|s| format!("since {s}")));
    more.extend(p.alive.filter(|a| !a).map(|_| "dead".to_owned()));
    for m in more {
        let _ = write!(out, ", {m}");
    }
    out
}

pub(super) fn evidence(f: &Finding) -> Vec<String> {
    let rank = |name: &str| EVIDENCE_ORDER.iter().position(|n| *n == name).unwrap_or(EVIDENCE_ORDER.len());
    let applies = |(name, value): &(&String, &Value)| !value.is_null() || !MAY_NOT_APPLY.contains(&name.as_str());
    let mut items: Vec<(&String, &Value)> = f.evidence.iter().filter(applies).collect();
    items.sort_by_key(|(name, _)| rank(name));
    items.into_iter().map(|(name, value)| fact(name, value)).collect()
}

/// One fact in words; the unit at the end of its name goes into the value.
fn fact(name: &str, value: &Value) -> String {
    type Shown = fn(f64) -> String;
    let units: [(&str, Shown); 4] = [
        ("_ms", |n| seconds(n / 1e3)),
        ("_s", seconds),
        ("_bytes", |n| format!("{n} bytes")),
        ("_per_h", |n| format!("{} an hour", (n * 10.0).round() / 10.0)),
    ];
    let unit = units.iter().find_map(|(suffix, shown)| Some((name.strip_suffix(suffix)?, shown)));
    let (stem, shown) = match (unit, value.as_f64()) {
        (Some((stem, shown)), Some(n)) => (stem, shown(n)),
        (Some((stem, _)), None) => (stem, plain(value)),
        (None, _) => (name, plain(value)),
    };
    format!("{} {shown}", stem.replace('_', " "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(all) => {
            let mut shown: Vec<String> = all.iter().take(LIST_MAX).map(plain).collect();
            if all.len() > LIST_MAX {
                shown.push(format!("and {} more", all.len() - LIST_MAX));
            }
            if shown.is_empty() { "none".into() } else { shown.join(", ") }
        }
        Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
        Value::Null => "not collected".into(),
        Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

pub(super) fn limit(l: &Limit) -> String {
    let of = |v: Option<u64>| v.map_or_else(|| "?".to_owned(), |v| v.to_string());
    let mut out = format!("{}: {} of {} in use", l.name, of(l.used), of(l.max));
    if let (Some(used), Some(max @ 1..)) = (l.used, l.max) {
        let _ = write!(out, " ({} %)", u128::from(used) * 100 / u128::from(max));
    }
    if let Some(eta) = l.eta_s.filter(|e| *e > 0) {
        let _ = write!(out, ", reached in {} at this rate", seconds(eta as f64));
    }
    out
}

pub(super) fn seen(f: &Finding) -> Option<String> {
    match (&f.first_seen, &f.last_seen) {
        (Some(a), Some(b)) if a != b => Some(format!("{a} to {b}")),
        (Some(a), _) | (None, Some(a)) => Some(a.clone()),
        (None, None) => None,
    }
}

/// A stack in one line, callee < caller; more than two frames in a row of the system's or a language's libraries, and
/// what is beyond [`FRAMES_MAX`], become dots. JSON has them all.
pub(super) fn folded(stack: &Stack) -> String {
    let mut out: Vec<String> = Vec::new();
    let runs = stack.frames.chunk_by(|a, b| is_system(a) == is_system(b));
    for run in runs {
        let system = run.first().is_some_and(is_system);
        let shown = if system && run.len() > 2 { 1 } else { run.len() };
        out.extend(run.iter().take(shown).map(frame));
        if shown < run.len() {
            out.push("...".into());
        }
    }
    if out.len() > FRAMES_MAX || stack.truncated {
        out.truncate(FRAMES_MAX);
        out.push("...".into());
    }
    if out.is_empty() { "no frames".into() } else { out.join(" < ") }
}

/// `function file:line`, without folders, or what is known of that.
fn frame(f: &StackFrame) -> String {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let module = || f.module.as_deref().map(base);
    let mut out = match f.symbol.as_deref() {
        Some(offset) if offset.starts_with('+') => module().unwrap_or_default() + offset,
        Some(name) => name.to_owned(),
        None => module().unwrap_or_else(|| f.addr.clone()),
    };
    if let Some(file) = &f.file {
        let _ = write!(out, " {}", base(file));
        if let Some(line) = f.line {
            let _ = write!(out, ":{line}");
        }
    }
    out
}

pub(super) fn confidence(c: Confidence) -> &'static str {
    match c {
        Confidence::Certain => "certain",
        Confidence::Likely => "likely",
        Confidence::Uncertain => "uncertain",
    }
}

pub(super) fn origin(o: Origin) -> &'static str {
    match o {
        Origin::Baseline => "existed before tracing began",
        Origin::Observed => "seen happening",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::tests::finding;
    use super::*;
    use crate::detect::finding::Severity;

    #[test]
    fn facts() {
        for (name, value, want) in [
            ("max_ms", json!(8200.5), "max 8.2 s"),
            ("p50_ms", json!(0.25), "p50 250 µs"),
            ("total_ms", json!(0), "total 0 ms"),
            ("holder_died_s", json!(7300), "holder died 2.03 h"),
            ("capacity_bytes", json!(65536), "capacity 65536 bytes"),
            ("rate_per_h", json!(12.34), "rate 12.3 an hour"),
            ("capacity_bytes", json!(null), "capacity not collected"),
            ("counter", json!("18446744073709551614"), "counter 18446744073709551614"),
            ("ids", json!([]), "ids none"),
            ("ongoing", json!(true), "ongoing yes"),
        ] {
            assert_eq!(fact(name, &value), want);
        }
    }

    #[test]
    fn what_does_not_apply_is_told_from_what_was_not_collected() {
        let mut f = finding("pipe-stall", Severity::Warning);
        f.evidence = MAY_NOT_APPLY.iter().chain(&["capacity_bytes"]).map(|n| ((*n).to_owned(), Value::Null)).collect();
        assert_eq!(evidence(&f), ["capacity not collected"]);
        f.evidence.insert("suggested_capacity_bytes".into(), json!(131_072));
        assert_eq!(evidence(&f), ["capacity not collected", "suggested capacity 131072 bytes"]);
    }
}
