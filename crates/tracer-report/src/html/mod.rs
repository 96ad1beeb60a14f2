//! The report as one self-contained HTML page, which loads no file and uses no network.
//!
//! It shows the same facts as the other writers, and charts. Every string passes through [`shown`] and maud's escaping.
//! The page's policy allows only its own style and scripts, by their hashes, so that no name can become either.

mod data;
mod draw;
mod finding;

use std::borrow::Cow;
use std::io;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::Charts;
use super::escape::escape;
use super::model::Report;
use super::phrase::{confidence, counted, lost, redacted, severity, sites, target, watched};
use tracer_analysis::finding::time::seconds;
use tracer_analysis::finding::{Confidence, Severity};

const STYLE: &str = include_str!(concat!(env!("OUT_DIR"), "/page-style"));
const SCRIPT: &str = include_str!(concat!(env!("OUT_DIR"), "/page-script"));
const POLICY: &str = concat!(
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-",
    env!("IPCTRACE_PAGE_STYLE_SHA256"),
    "'; script-src 'sha256-",
    env!("IPCTRACE_PAGE_SCRIPT_SHA256"),
    "'"
);

/// The page.
///
/// # Errors
/// A value that JSON cannot hold; charts have none.
pub fn render(report: &Report, charts: &Charts) -> io::Result<String> {
    let title = format!("ipctrace: {}", headline(report));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the findings" }
                (header(report))
                (contents(report, charts))
                main #main tabindex="-1" {
                    (summary(report))
                    @for (n, f) in report.findings.iter().enumerate() { (finding::article(n + 1, f)) }
                    (timeline(charts))
                    (waits(charts))
                    (stacks(charts))
                    (durations(charts))
                    (limits(report, charts))
                    (coverage(report))
                }
                footer { p { "Written by ipctrace " (shown(&report.tool.version)) ". This page loads nothing." } }
                script type="application/json" #data { (PreEscaped(data::json(charts)?)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// A string from outside as it is shown: nothing in it hides or reorders text.
fn shown(text: &str) -> Cow<'_, str> {
    escape(text)
}

fn headline(report: &Report) -> String {
    if report.findings.is_empty() { "no findings".into() } else { counted(report) }
}

fn class(s: Severity) -> &'static str {
    match s {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

fn header(report: &Report) -> Markup {
    html! {
        header.top {
            h1 { "ipctrace: " (headline(report)) }
            p { (shown(&target(report))) ", watched for " (seconds(report.window.duration_s)) " on "
                (shown(&report.host.name)) ", from " time { (shown(&report.window.start)) } }
        }
    }
}

fn contents(report: &Report, charts: &Charts) -> Markup {
    let rows = [
        (!report.findings.is_empty(), "findings", "Findings"),
        (!charts.timeline.lanes.is_empty(), "timeline", "Timeline"),
        (!charts.waits.nodes.is_empty(), "waits", "Waits"),
        (charts.stacks.is_some(), "stacks", "Stacks"),
        (!charts.durations.is_empty(), "durations", "Durations"),
        (has_limits(report, charts), "limits", "Limits"),
        (true, "coverage", "Coverage"),
    ];
    html! {
        nav aria-label="Parts of the report" {
            ul { @for (_, id, name) in rows.iter().filter(|(there, _, _)| *there) {
                li { a href={ "#" (id) } { (name) } }
            } }
        }
    }
}

fn summary(report: &Report) -> Markup {
    html! {
        section #findings aria-labelledby="findings-head" {
            h2 #findings-head { "Findings" }
            @if report.findings.is_empty() {
                p.healthy { "No findings: watched " (shown(&watched(report))) "." }
            }
            @if report.loss.events > 0 {
                p.lost role="note" { strong { "Lost " } (shown(&lost(report)))
                    "; findings that rest on them are marked uncertain." }
            }
            ol.findings { @for (n, f) in report.findings.iter().enumerate() {
                li class=(class(f.severity)) {
                    a href={ "#finding-" (n + 1) } {
                        span.severity { (severity(f.severity)) } " "
                        code { (shown(&f.code)) } " "
                        span.title { (shown(&f.title)) }
                        @if f.confidence != Confidence::Certain { " (" (confidence(f.confidence)) ")" }
                    }
                }
            } }
        }
    }
}

fn timeline(charts: &Charts) -> Markup {
    let timeline = &charts.timeline;
    html! { @if !timeline.lanes.is_empty() {
        section #timeline aria-labelledby="timeline-head" {
            h2 #timeline-head { "Timeline" }
            p #timeline-keys {
                "Lifetimes of objects, and waits at them. Drag or use the arrow keys to move, Ctrl and the wheel or " kbd { "+" } " and " kbd { "-" } " to zoom, " kbd { "0" } " to show all."
            }
            p.legend { span.life { "exists" } " " span.wait { "a thread waits" } " "
                span.zombie { "exited, not reaped" } }
            div.tools role="group" aria-label="Time range" {
                @for (act, label, sign) in [("in", "Zoom in", "+"), ("out", "Zoom out", "−"), ("left", "Earlier", "←"),
                    ("right", "Later", "→"), ("all", "All", "0")] {
                    button type="button" data-act=(act) aria-label=(label) title=(label) { (sign) }
                }
                output #timeline-range aria-live="polite" {}
            }
            div.view #timeline-view tabindex="0" role="group" aria-labelledby="timeline-head"
                aria-describedby="timeline-keys" {}
            p #timeline-hint aria-live="polite" {}
            @if timeline.left_out > 0 { p.note { (timeline.left_out) " more objects and processes are not drawn." } }
            details {
                summary { "As a table" }
                div.wide { table {
                    thead { tr { th scope="col" { "object" } th scope="col" { "findings" } th scope="col" { "waits" }
                        th scope="col" { "total" } } }
                    tbody { @for lane in &timeline.lanes {
                        tr { th scope="row" { (shown(&lane.name)) }
                            td { (finding::links(&lane.findings)) }
                            td.number { (lane.waits.iter().map(|s| s.n).sum::<u64>()) }
                            td.number { (seconds(lane.waits.iter().fold(0.0, |all, s| all + s.sum) / 1e3)) } }
                    } }
                } }
            }
        }
    } }
}

fn waits(charts: &Charts) -> Markup {
    let graph = &charts.waits;
    html! { @if !graph.nodes.is_empty() {
        section #waits aria-labelledby="waits-head" {
            h2 #waits-head { "Waits" }
            p { "Arrows lead from a waiting process to the object, and from the object to the processes that can end "
                "the wait." }
            div.wide tabindex="0" role="group" aria-labelledby="waits-head" { (draw::graph(graph)) }
            @if graph.left_out > 0 { p.note { (graph.left_out) " more processes and objects are not drawn; the findings name them." } }
        }
    } }
}

fn stacks(charts: &Charts) -> Markup {
    html! { @if charts.stacks.is_some() {
        section #stacks aria-labelledby="stacks-head" {
            h2 #stacks-head { "Stacks" }
            p #stacks-keys { "The stacks of all findings, callers above. Arrow keys move between functions, "
                kbd { "Enter" } " zooms in, " kbd { "Escape" } " shows all again." }
            div.flame #stacks-view role="group" aria-labelledby="stacks-head" aria-describedby="stacks-keys" {}
            p #stacks-hint aria-live="polite" {}
        }
    } }
}

fn durations(charts: &Charts) -> Markup {
    html! { @if !charts.durations.is_empty() {
        section #durations aria-labelledby="durations-head" {
            h2 #durations-head { "Durations of waits" }
            div.charts { @for h in &charts.durations { (draw::histogram(h)) } }
        }
    } }
}

fn has_limits(report: &Report, charts: &Charts) -> bool {
    !charts.trends.is_empty() || report.findings.iter().any(|f| f.limit.is_some())
}

fn limits(report: &Report, charts: &Charts) -> Markup {
    let with = report.findings.iter().enumerate().filter_map(|(n, f)| Some((n + 1, f.limit.as_ref()?)));
    let with: Vec<_> = with.collect();
    html! { @if has_limits(report, charts) {
        section #limits aria-labelledby="limits-head" {
            h2 #limits-head { "Limits" }
            @if !with.is_empty() {
                table {
                    thead { tr { th scope="col" { "finding" } th scope="col" { "limit" } th scope="col" { "usage" } } }
                    tbody { @for (n, l) in &with {
                        tr { td { (finding::links(&[*n])) } th scope="row" { (shown(&l.name)) }
                            td { (finding::limit(l)) } }
                    } }
                }
            }
            div.charts { @for t in &charts.trends { (draw::trend(t)) } }
        }
    } }
}

fn coverage(report: &Report) -> Markup {
    let sites = sites(report);
    html! {
        section #coverage aria-labelledby="coverage-head" {
            h2 #coverage-head { "Coverage" }
            dl {
                dt { "watched" } dd { (shown(&watched(report))) }
                dt { "when" } dd { (shown(&report.window.start)) " to " (shown(&report.window.end)) }
                dt { "where" } dd { (shown(&report.host.name)) ", Linux " (shown(&report.kernel.release)) " "
                    (shown(&report.host.arch)) }
                @if !sites.is_empty() { dt { "probes" } dd { (shown(&sites)) } }
                @if let Some(text) = redacted(report) { dt { "names" } dd { (text) } }
                dt { "lost" }
                dd { @if report.loss.events > 0 { (shown(&lost(report))) } @else { "nothing" } }
                dt { "not collected" }
                dd { @if report.not_collected.is_empty() { "nothing that was requested" } @else {
                    ul { @for sentence in &report.not_collected { li { (shown(sentence)) } } }
                } }
            }
        }
    }
}

#[cfg(test)]
mod tests;
