//! Compares the findings of a report with the truth of one incident. Pure.
//!
//! It compares codes, objects, processes, evidence and limits, but no prose: titles only explain a problem.
//! Of a chain it reads the pids in parentheses.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::truth::{Expected, Truth};

/// Everything that is wrong: expected findings that are missing, duplicate or inexact, and false findings.
///
/// `lost` is the number of lost records and skipped program runs that the report admits.
pub(super) fn truth_problems(truth: &Truth, findings: &[Value], time_scale: f64, lost: u64) -> Vec<String> {
    let mut problems = Vec::new();
    let ours: Vec<&Value> = findings.iter().filter(|finding| concerns(truth, finding)).collect();
    let mut used = vec![false; ours.len()];
    for expected in &truth.expect {
        let closest = (ours.iter().enumerate())
            .filter(|(at, finding)| !used[*at] && finding["code"] == *expected.code)
            .map(|(at, finding)| (at, differences(expected, finding, time_scale, lost)))
            .min_by_key(|(_, differences)| differences.len());
        match closest {
            None => problems.push(format!("missed {}", describe(expected))),
            Some((at, differences)) => {
                used[at] = true;
                if !differences.is_empty() {
                    let title = title(ours[at]);
                    problems.push(format!("{}: {} (title: {title})", expected.code, differences.join(", ")));
                }
            }
        }
    }
    for (finding, used) in ours.iter().zip(used) {
        let code = finding["code"].as_str().unwrap_or("?");
        if !used && !truth.may.iter().any(|may| may == code) {
            let again = truth.expect.iter().any(|expected| expected.code == code);
            let word = if again { "duplicate" } else { "false" };
            problems.push(format!("{word} {code}: {}", title(finding)));
        }
    }
    problems
}

/// The first difference between the findings of two reports of the same trace.
pub(super) fn replay_difference(live: &Value, replayed: &Value) -> Option<String> {
    difference("findings", &live["findings"], &replayed["findings"])
}

/// True if the finding names a process of this incident or one of its names in a file system.
pub(super) fn concerns(truth: &Truth, finding: &Value) -> bool {
    let named = || ids_of(finding).into_iter().any(|id| truth.names.contains(&id));
    pids_of(finding).iter().any(|pid| truth.all_pids.contains(&(*pid as i32))) || named()
}

/// Facts that one lost record can hide: an incident's message carries up to four descriptors.
const FACTS_PER_RECORD: f64 = 4.0;

/// Where a finding differs from the expected one.
fn differences(expected: &Expected, finding: &Value, time_scale: f64, lost: u64) -> Vec<String> {
    let mut out = text_differences(expected, finding);
    out.extend(chain_difference(&expected.chain, finding));
    out.extend(unnamed(expected, finding));
    out.extend(number_differences(expected, finding, time_scale, lost));
    out
}

fn text_differences(expected: &Expected, finding: &Value) -> Vec<String> {
    let rows = [
        ("object.kind", &expected.object_kind, &finding["object"]["kind"]),
        ("cause", &expected.cause, &finding["evidence"]["cause"]),
        ("origin", &expected.origin, &finding["origin"]),
        ("limit.name", &expected.limit, &finding["limit"]["name"]),
    ];
    let differs = |(name, wanted, found): (&str, &Option<String>, &Value)| {
        let wanted = wanted.as_deref().filter(|wanted| found != wanted)?;
        Some(format!("{name} is {found}, truth {wanted:?}"))
    };
    rows.into_iter().filter_map(differs).collect()
}

/// Each link names its process as `comm (pid)`.
fn chain_difference(pids: &[i32], finding: &Value) -> Option<String> {
    let links: Vec<&str> = array(&finding["chain"]).filter_map(Value::as_str).collect();
    let names = |(at, pid): (usize, &i32)| links.get(at).is_some_and(|link| link.contains(&format!("({pid})")));
    let right = pids.iter().enumerate().all(names);
    (!right).then(|| format!("chain is {links:?}, truth {pids:?}"))
}

/// Ids, pids and roles that the finding does not name.
fn unnamed(expected: &Expected, finding: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let ids = ids_of(finding);
    let missing: Vec<&String> = expected.ids.iter().filter(|id| !ids.contains(*id)).collect();
    if !missing.is_empty() {
        out.push(format!("{} of {} ids not named: {missing:?}", missing.len(), expected.ids.len()));
    }
    let pids = pids_of(finding);
    let missing: Vec<&i32> = expected.pids.iter().filter(|pid| !pids.contains(&i64::from(**pid))).collect();
    if !missing.is_empty() {
        out.push(format!("{} of {} pids not named: {missing:?}", missing.len(), expected.pids.len()));
    }
    for (role, pid) in &expected.roles {
        let named = array(&finding["processes"]).any(|p| p["role"] == **role && p["pid"] == *pid);
        if !named {
            out.push(format!("no process {pid} as {role}"));
        }
    }
    out
}

/// Evidence that is not equal, too small or out of tolerance.
fn number_differences(expected: &Expected, finding: &Value, time_scale: f64, lost: u64) -> Vec<String> {
    let mut out = Vec::new();
    let evidence = &finding["evidence"];
    // A number may be off by the lost records if the finding admits that its window is lossy.
    let slack = if finding["confidence"] == "uncertain" { lost as f64 * FACTS_PER_RECORD } else { 0.0 };
    for (name, wanted) in &expected.evidence {
        let found = &evidence[name];
        let within = matches!((number(found), number(wanted)), (Some(a), Some(b)) if (a - b).abs() <= slack);
        if plain(found) != plain(wanted) && !within {
            out.push(format!("{name} is {found}, truth {wanted}"));
        }
    }
    for (name, least) in &expected.evidence_min {
        if number(&evidence[name]).is_none_or(|found| found < *least) {
            out.push(format!("{name} is {}, truth at least {least}", evidence[name]));
        }
    }
    for (name, [wanted, tolerance]) in &expected.evidence_near {
        let tolerance = if name.ends_with("_ms") { tolerance * time_scale.max(1.0) } else { *tolerance };
        if number(&evidence[name]).is_none_or(|found| (found - wanted).abs() > tolerance) {
            out.push(format!("{name} is {}, truth {wanted} +- {tolerance}", evidence[name]));
        }
    }
    out
}

/// Every pid that a finding names.
pub(super) fn pids_of(finding: &Value) -> BTreeSet<i64> {
    let named = array(&finding["processes"]).map(|process| &process["pid"]);
    named.chain(array(&finding["evidence"]["pids"])).filter_map(Value::as_i64).collect()
}

/// Every object id, name and key that a finding names.
pub(super) fn ids_of(finding: &Value) -> BTreeSet<String> {
    let object = &finding["object"];
    [&object["id"], &object["name"], &object["key"]]
        .into_iter()
        .chain(array(&finding["evidence"]["ids"]))
        .filter(|id| !id.is_null())
        .map(plain)
        .collect()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value as text: 64-bit counters are strings in JSON, and text compares all their digits.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn title(finding: &Value) -> &str {
    finding["title"].as_str().unwrap_or("no title")
}

fn describe(expected: &Expected) -> String {
    let few = |ids: &[String]| ids.iter().take(4).cloned().collect::<Vec<_>>().join(",");
    let pids: Vec<i32> = expected.roles.values().chain(&expected.pids).copied().take(6).collect();
    format!("{} (ids {}, pids {pids:?})", expected.code, few(&expected.ids))
}

fn difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    if a == b {
        return None;
    }
    if let (Some(a), Some(b)) = (a.as_array(), b.as_array()) {
        let inside = a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&format!("{path}[{i}]"), a, b));
        return inside.or_else(|| Some(format!("{path}: {} live, {} replayed", a.len(), b.len())));
    }
    if let (Some(a), Some(b)) = (a.as_object(), b.as_object()) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let null = Value::Null;
        return keys.into_iter().find_map(|key| {
            let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
            difference(&format!("{path}.{key}"), a, b)
        });
    }
    Some(format!("{path}: {a} live, {b} replayed"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn truth() -> Truth {
        let expected = Expected::new("pipe-stall")
            .kind("pipe")
            .ids([77])
            .pids([11])
            .role("reader", 12)
            .exact("stalls", 3)
            .near("max_ms", 500.0, 60.0);
        let mut truth = Truth::one(expected).may("deadlock");
        truth.all_pids.extend([10, 11, 12]);
        truth
    }

    fn finding() -> Value {
        json!({
            "code": "pipe-stall", "title": "t", "object": {"kind": "pipe", "id": "77"},
            "processes": [{"role": "blocked", "pid": 11}, {"role": "reader", "pid": 12}],
            "evidence": {"stalls": 3, "max_ms": 530.2},
        })
    }

    fn check(findings: &[Value], scale: f64, wanted: &[&str]) {
        let problems = truth_problems(&truth(), findings, scale, 0);
        assert_eq!(problems.len(), wanted.len(), "{problems:?}");
        for (problem, wanted) in problems.iter().zip(wanted) {
            assert!(problem.contains(wanted), "{problem:?} does not contain {wanted:?}");
        }
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut changed = finding();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    }

    #[test]
    fn right_finding() {
        check(&[finding()], 1.0, &[]);
        check(&[with("/evidence/stalls", json!("3"))], 1.0, &[]);
    }

    #[test]
    fn missed_inexact_duplicate_and_false() {
        check(&[], 1.0, &["missed pipe-stall"]);
        check(&[with("/evidence/stalls", json!(2))], 1.0, &["stalls is 2, truth 3"]);
        check(&[with("/evidence/stalls", Value::Null)], 1.0, &["stalls is null"]);
        check(&[with("/object/id", json!("78"))], 1.0, &["ids not named"]);
        check(&[with("/processes/1/role", json!("peer"))], 1.0, &["no process 12 as reader"]);
        check(&[finding(), finding()], 1.0, &["duplicate pipe-stall"]);
        check(&[finding(), with("/code", json!("fd-leak"))], 1.0, &["false fd-leak"]);
        check(&[finding(), with("/code", json!("deadlock"))], 1.0, &[]);
    }

    #[test]
    fn a_late_finding_has_the_origin_baseline() {
        let mut truth = truth();
        truth.expect[0].origin = Some("baseline".to_owned());
        for (origin, problems) in [("baseline", 0), ("observed", 1)] {
            let mut finding = finding();
            finding["origin"] = json!(origin);
            assert_eq!(truth_problems(&truth, &[finding], 1.0, 0).len(), problems, "{origin}");
        }
    }

    #[test]
    fn durations_widen_with_the_time_scale() {
        let slow = with("/evidence/max_ms", json!(700));
        check(std::slice::from_ref(&slow), 1.0, &["max_ms is 700"]);
        check(&[slow], 5.0, &[]);
    }

    #[test]
    fn a_finding_about_other_processes_is_ignored() {
        let mut other = finding();
        other["processes"] = json!([{"role": "blocked", "pid": 99}]);
        check(&[finding(), other], 1.0, &[]);
    }

    #[test]
    fn a_finding_about_a_name_of_the_incident_counts_without_a_process() {
        let mut truth = Truth::default();
        truth.names.insert("/incident-7-1".to_owned());
        for (name, problems) in [("/incident-7-1", 1), ("/incident-8-1", 0)] {
            let mut finding = finding();
            finding["processes"] = json!([]);
            finding["evidence"]["ids"] = json!([name]);
            assert_eq!(truth_problems(&truth, &[finding], 1.0, 0).len(), problems, "{name}");
        }
    }

    #[test]
    fn replay_names_the_first_difference() {
        let (a, b) = (json!({"findings": [finding()]}), json!({"findings": [with("/title", json!("u"))]}));
        assert_eq!(replay_difference(&a, &a), None);
        assert_eq!(replay_difference(&a, &b).unwrap(), "findings[0].title: \"t\" live, \"u\" replayed");
        let none = json!({"findings": []});
        assert_eq!(replay_difference(&a, &none).unwrap(), "findings: 1 live, 0 replayed");
    }

    #[test]
    fn an_uncertain_finding_may_be_off_by_the_lost_records() {
        let expected = Expected::new("sem-leak").pids([1]).exact("instances", 5);
        let mut truth = Truth::one(expected);
        truth.all_pids.insert(1);
        for (confidence, got, lost, fine) in [
            ("uncertain", 4, 1, true),
            ("certain", 4, 1, false),
            ("uncertain", 4, 0, false),
            ("uncertain", 0, 1, false),
        ] {
            let finding = serde_json::json!({"code": "sem-leak", "confidence": confidence,
                "processes": [{"pid": 1, "role": "creator"}], "evidence": {"instances": got}});
            let problems = truth_problems(&truth, &[finding], 1.0, lost);
            assert_eq!(problems.is_empty(), fine, "{confidence} {got} {lost} {problems:?}");
        }
    }
}
