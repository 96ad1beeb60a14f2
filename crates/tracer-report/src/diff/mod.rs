//! Compares two reports, typically from before and after a fix: findings are new, gone, worse, better, the same or
//! unknown. Pure.
//!
//! [`feature`] and [`pair`] match the findings of both reports. [`measure`] compares the numbers that the detector's row
//! names. [`absence`] decides whether a report without a finding could have shown it, [`loss`] names lost records that a
//! finding rests on, and [`fair`] lists differences between the runs. [`text`] and [`json`] write the result.

mod absence;
mod fair;
mod feature;
mod loss;
mod measure;
pub mod model;
mod pair;
#[cfg(test)]
mod tests;
pub mod text;

use std::io;

use super::model::Report;
use feature::Features;
use model::{Brief, Change, Counts, Diff, Kind, Side, Verdict};
use tracer_analysis::finding::Finding;
use tracer_analysis::finding::detector::Family;

/// The JSON Schema of the JSON diff; `tracer-user/tests/diff.rs` validates diffs against it.
pub const SCHEMA: &str = include_str!("../../../../docs/diff.schema.json");

/// A report and the name of its file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub file: &'a str,
    pub report: &'a Report,
}

/// Compares `b` with `a`, the older report or the baseline.
pub fn compare(a: Source<'_>, b: Source<'_>) -> Diff {
    let (old, new) = (a.report, b.report);
    let old_features: Vec<Features> = old.findings.iter().map(Features::of).collect();
    let new_features: Vec<Features> = new.findings.iter().map(Features::of).collect();
    let paired = pair::pairs(old, &old_features, new, &new_features);
    let mut changes: Vec<Change> = Vec::new();
    for p in &paired.pairs {
        let (Some(x), Some(y)) = (old.findings.get(p.a), new.findings.get(p.b)) else { continue };
        let outcome = measure::compare(old, x, new, y);
        changes.push(Change {
            change: outcome.kind,
            code: y.code.clone(),
            matched_by: Some(p.tier),
            a: Some(brief(p.a, x)),
            b: Some(brief(p.b, y)),
            measures: outcome.steps,
            reasons: outcome.reasons,
            note: leftover(old, x, new, y),
        });
    }
    let missing = |found: &Report, at: usize, f: &Finding, lacking: &Report, names: [&str; 2], kind: Kind| {
        let reasons = absence::reasons(f, found, lacking, names);
        let place = Some(brief(at, f));
        let (a, b) = if kind == Kind::Gone { (place, None) } else { (None, place) };
        let change = if reasons.is_empty() { kind } else { Kind::Unknown };
        Change { change, code: f.code.clone(), matched_by: None, a, b, measures: Vec::new(), reasons, note: None }
    };
    let lone = |all: &[usize], report: &'_ Report| -> Vec<(usize, Finding)> {
        all.iter().filter_map(|at| Some((*at, report.findings.get(*at)?.clone()))).collect()
    };
    for (at, f) in lone(&paired.only_b, new) {
        let mut change = missing(new, at, &f, old, ["A", "B"], Kind::New);
        change.note = moved(&paired.only_a, &old_features, new_features.get(at));
        changes.push(change);
    }
    for (at, f) in lone(&paired.only_a, old) {
        changes.push(missing(old, at, &f, new, ["B", "A"], Kind::Gone));
    }
    changes.sort_by_key(|c| (c.change, c.latest().map(|b| (b.severity, b.number))));
    let counts = Counts::of(&changes);
    let mut warnings = fair::warnings(old, new);
    warnings.extend(paired.problem);
    Diff {
        schema: model::SCHEMA,
        kind: "diff",
        verdict: Verdict::of(&counts),
        counts,
        a: Side::of(a),
        b: Side::of(b),
        warnings,
        changes,
    }
}

/// The diff as one indented JSON document with a trailing newline.
///
/// # Errors
/// A value that JSON cannot hold; a diff has none.
pub fn json(diff: &Diff) -> io::Result<String> {
    super::json::document(diff, true)
}

fn brief(at: usize, f: &Finding) -> Brief {
    Brief {
        number: at + 1,
        severity: f.severity,
        confidence: f.confidence,
        origin: f.origin,
        title: f.title.clone(),
        object: f.object.clone(),
        programs: feature::programs(f),
        at: f.stacks.iter().find_map(|s| s.site.clone()),
        remedy: f.remedy.first().map(|r| r.what.clone()),
        first_seen: f.first_seen.clone(),
        last_seen: f.last_seen.clone(),
    }
}

/// A note if a leak of A may still exist while B runs.
fn leftover(old: &Report, a: &Finding, new: &Report, b: &Finding) -> Option<String> {
    use tracer_analysis::finding::Origin::{Baseline, Observed};
    (b.is_of(Family::Leak) && (a.origin, b.origin) == (Observed, Baseline) && old.host.name == new.host.name)
        .then(|| "it existed before B began and did not grow: it may be a leftover of A's run".to_owned())
}

/// A note if a finding that is gone may be this new one, because its code moved to another function.
fn moved(gone: &[usize], old: &[Features], new: Option<&Features>) -> Option<String> {
    let new = new?;
    let from = gone.iter().filter_map(|at| old.get(*at)).find(|f| f.code == new.code && f.shares_program(new))?;
    let at = from.place().map(|p| format!(" at {p}")).unwrap_or_default();
    Some(format!(
        "A has a finding of this kind in this program{at} that B lacks; if that code moved here, it is the same finding"
    ))
}
