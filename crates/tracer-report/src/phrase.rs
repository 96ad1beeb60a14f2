//! The parts of a finding in words, for people: one line of plain text each, not escaped yet.

use std::fmt::Write;

use serde_json::Value;

use super::model::{Report, Target};
use tracer_analysis::finding::evidence::{self, Evidence};
use tracer_analysis::finding::site::is_system;
use tracer_analysis::finding::time::seconds;
use tracer_analysis::finding::{
    Confidence, Finding, FindingStack, Limit, Object, Origin, Process, Severity, StackFrame,
};

/// List elements shown; JSON has all of them.
pub(super) const LIST_MAX: usize = 12;

/// Frames shown of one stack.
const FRAMES_MAX: usize = 24;

/// Evidence in reading order; all other names follow in alphabetical order.
const EVIDENCE_ORDER: &[Evidence] = &[
    evidence::CAUSE,
    evidence::INSTANCES,
    evidence::OLDEST_AGE_S,
    evidence::RATE_PER_H,
    evidence::ERRNO,
    evidence::FAILED,
    evidence::USED,
    evidence::MAX,
    evidence::WAITERS,
    evidence::HOLDER_DIED_S,
    evidence::STALLS,
    evidence::ONGOING,
    evidence::BEGAN_BEFORE_START,
    evidence::TOTAL_MS,
    evidence::MAX_MS,
    evidence::P50_MS,
    evidence::P99_MS,
    evidence::MIN_STALL_MS,
    evidence::CAPACITY_BYTES,
    evidence::FILL_BYTES,
    evidence::SLOTS,
    evidence::SLOTS_USED,
    evidence::SUGGESTED_CAPACITY_BYTES,
    evidence::DEFAULT_BYTES,
    evidence::PIPES_OF_USER,
    evidence::EAGAIN,
    evidence::LAST_DRAIN_AGE_MS,
    evidence::COUNTER,
    evidence::CREATED,
    evidence::RECEIVED,
    evidence::CLOSED,
    evidence::OUTSTANDING,
    evidence::OUTSTANDING_AT_START,
    evidence::DROPPED,
    evidence::MESSAGES_TRUNCATED,
    evidence::QUEUED,
    evidence::EXITS,
    evidence::SIGCHLD_GENERATED,
    evidence::SIGCHLD_COALESCED,
    evidence::WAITS,
    evidence::REAPED,
    evidence::UNREAPED,
];

/// Evidence whose null means "none" or "does not apply" rather than "not collected".
/// It is omitted here, so that "not collected" stays reliable; JSON has the null.
const MAY_NOT_APPLY: &[Evidence] =
    &[evidence::ERRNO, evidence::LAST_DRAIN_AGE_MS, evidence::RATE_PER_H, evidence::SUGGESTED_CAPACITY_BYTES];

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

/// The shortest name that identifies an object.
pub(super) fn object_name(o: &Object) -> String {
    match &o.name {
        Some(name) if name.contains(':') => name.clone(),
        Some(name) => format!("{} {name}", o.kind),
        None => format!("{} {}", o.kind, o.id),
    }
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

/// The evidence of a finding as names and values in words.
pub(super) fn evidence(f: &Finding) -> Vec<(String, String)> {
    let rank = |name: &str| EVIDENCE_ORDER.iter().position(|e| e.name == name).unwrap_or(EVIDENCE_ORDER.len());
    let applies = |(name, value): &(&String, &Value)| !value.is_null() || MAY_NOT_APPLY.iter().all(|e| e.name != *name);
    let mut items: Vec<(&String, &Value)> = f.evidence.iter().filter(applies).collect();
    items.sort_by_key(|(name, _)| rank(name));
    items.into_iter().map(|(name, value)| fact(name, value)).collect()
}

/// One piece of evidence: the unit moves from its name into its value.
pub(super) fn fact(name: &str, value: &Value) -> (String, String) {
    type Shown = fn(f64) -> String;
    let units: [(&str, Shown); 4] = [
        ("_ms", |n| seconds(n / 1e3)),
        ("_s", seconds),
        ("_bytes", |n| format!("{n} bytes")),
        ("_per_h", |n| format!("{} per hour", (n * 10.0).round() / 10.0)),
    ];
    let unit = units.iter().find_map(|(suffix, shown)| Some((name.strip_suffix(suffix)?, shown)));
    let (stem, shown) = match (unit, value.as_f64()) {
        (Some((stem, shown)), Some(n)) => (stem, shown(n)),
        (Some((stem, _)), None) => (stem, plain(value)),
        (None, _) => (name, plain(value)),
    };
    (stem.replace('_', " "), shown)
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

/// The line of the program's own code that a stack leads to.
pub(super) fn at(stack: &FindingStack) -> Option<String> {
    let doubt = if stack.exact { "" } else { ", or a line that it calls (followed by frame pointers)" };
    stack.site.as_ref().map(|site| format!("{site}{doubt}"))
}

/// A stack in one line, `callee < caller`; see [`frames`].
pub(super) fn folded(stack: &FindingStack) -> String {
    let frames = frames(stack);
    if frames.is_empty() { "no frames".into() } else { frames.join(" < ") }
}

/// The frames of a stack, innermost first. Dots replace runs of more than two frames in libraries of the system or of a
/// language, and everything beyond [`FRAMES_MAX`]. JSON has all frames.
pub(super) fn frames(stack: &FindingStack) -> Vec<String> {
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
    out
}

/// `function file:line` without directories; parts that are unknown are omitted.
pub(super) fn frame(f: &StackFrame) -> String {
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

pub(super) fn severity(s: Severity) -> &'static str {
    match s {
        Severity::Critical => "CRITICAL",
        Severity::Warning => "WARNING",
        Severity::Info => "INFO",
    }
}

/// "all processes for 12.3 s: sem, pipe; stalls of at least 100 ms".
pub(super) fn watched(report: &Report) -> String {
    let mechanisms =
        if report.target.mechanisms.is_empty() { "all mechanisms".into() } else { report.target.mechanisms.join(", ") };
    format!(
        "{} for {}: {mechanisms}; stalls of at least {}",
        target(report),
        seconds(report.window.duration_s),
        seconds(report.target.min_stall_ms / 1e3)
    )
}

pub(super) fn target(report: &Report) -> String {
    target_of(&report.target)
}

/// "pid 12 and children".
pub(super) fn target_of(t: &Target) -> String {
    if t.words == "all" {
        return "all processes".into();
    }
    let mut words = t.words.replace(',', ", ");
    if words.is_empty() {
        words = "the target".into();
    } else if words.bytes().all(|b| matches!(b, b'0'..=b'9' | b',' | b' ')) {
        words = format!("pid{} {words}", if words.contains(',') { "s" } else { "" });
    }
    format!("{words}{}", if t.follow { " and children" } else { "" })
}

/// The number of sites that each backend watches, and the names of the sites that none watches.
pub(super) fn sites(report: &Report) -> String {
    let mut parts = Vec::new();
    for backend in ["fentry", "kprobe", "tracepoint"] {
        let n = report.plan.iter().filter(|p| p.backend == backend).count();
        if n > 0 {
            parts.push(format!("{n} site{} by {backend}", plural(n)));
        }
    }
    let blind: Vec<&str> = report.plan.iter().filter(|p| p.backend == "none").map(|p| p.site.as_str()).collect();
    if !blind.is_empty() {
        parts.push(format!("not watched: {}", blind.join(", ")));
    }
    parts.join(", ")
}

pub(super) fn lost(report: &Report) -> String {
    let n = report.loss.events;
    let sites: Vec<String> = report.loss.sites.iter().map(|s| format!("{} {}", s.events, s.site)).collect();
    format!("{n} record{} ({})", plural(usize::try_from(n).unwrap_or(usize::MAX)), sites.join(", "))
}

/// A note about names, if the report is redacted.
pub(super) fn redacted(report: &Report) -> Option<&'static str> {
    report.redacted.then_some("redacted: tokens stand for them; within this trace, equal names have equal tokens")
}

/// Groups processes by role, in the order in which the roles first appear.
pub(super) fn by_role(processes: &[Process]) -> Vec<(&str, Vec<&Process>)> {
    let mut out: Vec<(&str, Vec<&Process>)> = Vec::new();
    for p in processes {
        match out.iter_mut().find(|(role, _)| *role == p.role) {
            Some((_, group)) => group.push(p),
            None => out.push((&p.role, vec![p])),
        }
    }
    out
}

pub(super) fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// `2 findings`
pub(super) fn counted(report: &Report) -> String {
    let n = report.findings.len();
    format!("{n} finding{}", plural(n))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::tests::{finding, report};
    use super::*;
    use tracer_analysis::finding::Severity;

    #[test]
    fn units_move_into_the_value() {
        for (name, value, want) in [
            ("max_ms", json!(8200.5), "max 8.2 s"),
            ("p50_ms", json!(0.25), "p50 250 µs"),
            ("total_ms", json!(0), "total 0 ms"),
            ("holder_died_s", json!(7300), "holder died 2.03 h"),
            ("capacity_bytes", json!(65536), "capacity 65536 bytes"),
            ("rate_per_h", json!(12.34), "rate 12.3 per hour"),
            ("capacity_bytes", json!(null), "capacity not collected"),
            ("counter", json!("18446744073709551614"), "counter 18446744073709551614"),
            ("ids", json!([]), "ids none"),
            ("ongoing", json!(true), "ongoing yes"),
        ] {
            let (name, value) = fact(name, &value);
            assert_eq!(format!("{name} {value}"), want);
        }
    }

    #[test]
    fn evidence_that_does_not_apply_is_omitted() {
        let mut f = finding("pipe-stall", Severity::Warning);
        f.evidence =
            MAY_NOT_APPLY.iter().chain([&evidence::CAPACITY_BYTES]).map(|e| (e.name.to_owned(), Value::Null)).collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(evidence(&f), [pair("capacity", "not collected")]);
        f.evidence.insert("suggested_capacity_bytes".into(), json!(131_072));
        assert_eq!(evidence(&f), [pair("capacity", "not collected"), pair("suggested capacity", "131072 bytes")]);
    }

    #[test]
    fn targets() {
        let mut report = report(vec![], &[]);
        for (words, follow, want) in [
            ("all", true, "all processes"),
            ("12", true, "pid 12 and children"),
            ("12,13", false, "pids 12, 13"),
            ("/system.slice/a.service", true, "/system.slice/a.service and children"),
            ("", false, "the target"),
        ] {
            (report.target.words, report.target.follow) = (words.into(), follow);
            assert_eq!(target(&report), want);
        }
    }
}
