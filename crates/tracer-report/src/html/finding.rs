//! One finding: processes, place and fix, then the evidence.

use maud::{Markup, html};

use super::super::phrase::{
    LIST_MAX, at, by_role, confidence, evidence, frames, limit as limit_words, object, origin, process, seen, severity,
};
use super::{class, shown};
use tracer_analysis::finding::{Finding, FindingStack, Limit, Origin};

pub(super) fn article(n: usize, f: &Finding) -> Markup {
    let head = format!("finding-{n}-head");
    let facts = evidence(f);
    html! {
        article id={ "finding-" (n) } class={ "finding " (class(f.severity)) } aria-labelledby=(head) {
            h3 id=(head) { span.severity { (severity(f.severity)) } " " (n) ". " code { (shown(&f.code)) }
                @if let Some(o) = &f.object { ": " (shown(&object(o))) } }
            p.title { (shown(&f.title)) }
            dl {
                @for (role, group) in by_role(&f.processes) {
                    dt { (shown(role)) }
                    @for p in group.iter().take(LIST_MAX) { dd { (shown(&process(p))) } }
                    @if group.len() > LIST_MAX { dd { "and " (group.len() - LIST_MAX) " more" } }
                }
                @for place in f.stacks.iter().filter_map(at) { dt { "at" } dd { code { (shown(&place)) } } }
                @if let Some(l) = &f.limit { dt { "limit" } dd { (limit(l)) } }
                dt { "confidence" } dd { (confidence(f.confidence)) ", " (origin(f.origin)) }
                @if let Some(seen) = seen(f) { dt { "seen" } dd { (shown(&seen)) } }
            }
            @if !f.chain.is_empty() {
                h4 { "Blocking chain" }
                ol.chain { @for link in &f.chain { li { (shown(link)) } } }
            }
            @if !f.remedy.is_empty() {
                h4 { "Fix" }
                ul.remedy { @for r in &f.remedy {
                    li { (shown(&r.what))
                        @if let Some(command) = &r.command {
                            div.command { pre tabindex="0" { code { (shown(command)) } } }
                        } }
                } }
            }
            @if !facts.is_empty() {
                h4 { "Evidence" }
                dl.evidence { @for (name, value) in &facts {
                    div { dt { (shown(name)) } dd { (shown(value)) } }
                } }
            }
            @if f.stacks.is_empty() && f.origin == Origin::Baseline {
                p.note { "No stack: the object existed before tracing began." }
            }
            @for s in &f.stacks { (stack(s)) }
            @if !f.docs.is_empty() { p.note { "More: " code { (shown(&f.docs)) } } }
        }
    }
}

fn stack(s: &FindingStack) -> Markup {
    let frames = frames(s);
    html! {
        details.stack {
            summary { "Stack of " (shown(&s.role)) " " (s.pid) }
            @if frames.is_empty() { p { "No frames." } }
            ol { @for f in &frames { li { code { (shown(f)) } } } }
        }
    }
}

/// A limit, with its usage as a bar if both are known.
pub(super) fn limit(l: &Limit) -> Markup {
    html! {
        (shown(&limit_words(l)))
        @if let (Some(used), Some(max @ 1..)) = (l.used, l.max) {
            " " meter min="0" max=(max) high=(max / 10 * 9) optimum="0" value=(used.min(max))
                aria-label={ (shown(&l.name)) " in use" } {}
        }
    }
}

/// Links to findings.
pub(super) fn links(findings: &[usize]) -> Markup {
    html! { @for (i, n) in findings.iter().enumerate() { @if i > 0 { ", " } a href={ "#finding-" (n) } { (n) } } }
}
