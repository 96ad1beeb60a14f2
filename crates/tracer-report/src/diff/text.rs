//! A diff for a terminal: the verdict, the outcome of each finding, then what was compared and how the runs differ.

use std::collections::BTreeSet;

use serde_json::{Number, Value};

use super::model::{Brief, Change, Diff, Kind, Side, Step, Tier, Verdict};
use crate::escape::escape;
use crate::page::{Page, Style, severity_style};
use crate::phrase;
use tracer_analysis::finding::measure::LIMIT_PERCENT;
use tracer_analysis::finding::time::seconds;
use tracer_analysis::finding::{Origin, Severity};

/// Column at which the facts about both runs begin.
const AT: usize = 10;
/// Number of different codes that the first line names.
const CODES: usize = 3;

/// The diff as text, lines at most `width` columns wide where words allow it, ending in a newline.
pub fn render(diff: &Diff, width: usize, colour: bool) -> String {
    let mut page = Page::new(width, colour);
    let (label, style) = verdict(diff.verdict);
    page.row(label, style, label.len() + 1, &counted(diff));
    let mut kind = None;
    for change in &diff.changes {
        // Unchanged findings stand together, one per line.
        if !(change.change == Kind::Same && kind == Some(Kind::Same)) {
            page.line("");
        }
        kind = Some(change.change);
        detail(&mut page, change);
    }
    page.line("");
    side(&mut page, "A", &diff.a);
    side(&mut page, "B", &diff.b);
    for warning in &diff.warnings {
        page.row("unlike", Style::Yellow, AT, warning);
    }
    page.out
}

fn verdict(verdict: Verdict) -> (&'static str, Style) {
    match verdict {
        Verdict::Worse => ("WORSE:", Style::Red),
        Verdict::Better => ("BETTER:", Style::Green),
        Verdict::Unknown => ("UNKNOWN:", Style::Yellow),
        Verdict::Same => ("NO CHANGE:", Style::Green),
    }
}

/// "1 new (deadlock), 2 gone (sem-leak), 3 the same".
fn counted(diff: &Diff) -> String {
    let all = [Kind::New, Kind::Worse, Kind::Unknown, Kind::Gone, Kind::Better, Kind::Same];
    let mut words: Vec<String> = all.into_iter().filter_map(|kind| some(diff, kind)).collect();
    if words.is_empty() {
        return "no findings in A, none in B".to_owned();
    }
    let c = &diff.counts;
    if c.new + c.worse == 0 && diff.verdict != Verdict::Same {
        words.push("nothing new or worse".to_owned());
    }
    words.join(", ")
}

/// The number of findings with this outcome, and their codes if there are few.
fn some(diff: &Diff, kind: Kind) -> Option<String> {
    let all = diff.changes.iter().filter(|c| c.change == kind);
    let n = all.clone().count();
    let codes: BTreeSet<&str> = all.map(|c| c.code.as_str()).collect();
    let codes: Vec<&str> = codes.into_iter().collect();
    let (label, _) = name(kind);
    let word = if kind == Kind::Same { "the same".to_owned() } else { label.to_lowercase() };
    let named = kind != Kind::Same && codes.len() <= CODES;
    let codes = if named { format!(" ({})", codes.join(", ")) } else { String::new() };
    (n > 0).then(|| format!("{n} {word}{codes}"))
}

fn name(kind: Kind) -> (&'static str, Style) {
    match kind {
        Kind::New => ("NEW", Style::Red),
        Kind::Worse => ("WORSE", Style::Red),
        Kind::Unknown => ("UNKNOWN", Style::Yellow),
        Kind::Gone => ("GONE", Style::Green),
        Kind::Better => ("BETTER", Style::Green),
        Kind::Same => ("SAME", Style::Dim),
    }
}

fn detail(page: &mut Page, c: &Change) {
    let (kind, _) = name(c.change);
    let Some(brief) = c.latest() else { return };
    let label = format!("{kind:<8} {:<8} {}", phrase::severity(brief.severity), escape(&c.code));
    let indent = label.chars().count() + 2;
    page.row(&label, style(c.change, brief.severity), indent, &brief.title);
    if c.change == Kind::Same {
        return;
    }
    for reason in &c.reasons {
        page.named("why", reason);
    }
    let (changed, alike): (Vec<&Step>, Vec<&Step>) = c.measures.iter().partition(|s| s.change != Kind::Same);
    for step in changed {
        let (word, _) = name(step.change);
        page.named(&word.to_lowercase(), &comparison(step));
    }
    if !alike.is_empty() {
        let all: Vec<String> = alike.into_iter().map(comparison).collect();
        page.named("as before", &all.join(" · "));
    }
    page.named("see", &numbers(c));
    let at = |b: &Brief| b.at.clone().unwrap_or_else(|| "an unknown place".to_owned());
    match (&c.a, &c.b) {
        (Some(a), Some(b)) if a.at != b.at => page.named("at", &format!("{}; in A {}", at(b), at(a))),
        _ if brief.at.is_some() => page.named("at", &at(brief)),
        _ => {}
    }
    if let Some(tier) = c.matched_by {
        page.named("matched", matched(tier));
    }
    if brief.origin == Origin::Baseline {
        page.named("since", phrase::origin(brief.origin));
    }
    if let Some(note) = &c.note {
        page.named("note", note);
    }
    if matches!(c.change, Kind::New | Kind::Worse)
        && let Some(remedy) = &brief.remedy
    {
        page.named("fix", remedy);
    }
}

fn style(kind: Kind, severity: Severity) -> Style {
    if kind == Kind::New { severity_style(severity) } else { name(kind).1 }
}

/// Its numbers in both reports, where its details are.
fn numbers(c: &Change) -> String {
    match (&c.a, &c.b) {
        (Some(a), Some(b)) => format!("finding {} of A, {} of B", a.number, b.number),
        (Some(a), None) => format!("finding {} of A", a.number),
        (None, Some(b)) => format!("finding {} of B", b.number),
        (None, None) => String::new(),
    }
}

fn matched(tier: Tier) -> &'static str {
    match tier {
        Tier::Line => "program and line of code",
        Tier::Function => "program and function; the line moved",
        Tier::Object => "the object's name or key",
        Tier::Program => "program; the place in the code is not known in both runs",
    }
}

/// "stalls 3 -> 12, 38.5 -> 155 per minute".
fn comparison(step: &Step) -> String {
    let severities = |n: f64| match n {
        n if n >= 3.0 => phrase::severity(Severity::Critical),
        n if n >= 2.0 => phrase::severity(Severity::Warning),
        _ => phrase::severity(Severity::Info),
    };
    let value = |n: f64| Number::from_f64(round(n)).map_or(Value::Null, Value::Number);
    let ((stem, a), (_, b)) = match step.name {
        "severity" => {
            (("severity".to_owned(), severities(step.a).to_owned()), (String::new(), severities(step.b).to_owned()))
        }
        name if name == LIMIT_PERCENT.name() => {
            let of = |n: f64| format!("{:.0} %", n);
            (("limit used".to_owned(), of(step.a)), (String::new(), of(step.b)))
        }
        name => (phrase::fact(name, &value(step.a)), phrase::fact(name, &value(step.b))),
    };
    let whole = |text: String| text.strip_suffix(".0").map(str::to_owned).unwrap_or(text);
    let mut out = format!("{stem} {} -> {}", whole(a), whole(b));
    if let (Some(a), Some(b)) = (step.a_per_minute, step.b_per_minute) {
        let pace = if step.name.ends_with("_ms") {
            let share = |ms: f64| format!("{} %", whole(round(ms / 600.0).to_string()));
            format!(", {} -> {} of the time", share(a), share(b))
        } else {
            format!(", {} -> {} per minute", round(a), round(b))
        };
        out.push_str(&pace);
    }
    out
}

/// Rounds to one decimal.
fn round(n: f64) -> f64 {
    (n * 10.0).round() / 10.0
}

/// One of the two runs, with its place and time.
fn side(page: &mut Page, name: &str, s: &Side) {
    let n = s.findings;
    page.row(name, Style::Bold, AT, &format!("{}: {n} finding{}", s.file, phrase::plural(n)));
    let mechanisms =
        if s.target.mechanisms.is_empty() { "all mechanisms".into() } else { s.target.mechanisms.join(", ") };
    let least = seconds(s.target.min_stall_ms / 1e3);
    let duration = seconds(s.window.duration_s);
    page.row(
        "",
        Style::Plain,
        AT,
        &format!(
            "{} for {duration} from {}: {mechanisms}; stalls of at least {least}",
            phrase::target_of(&s.target),
            s.window.start
        ),
    );
    let lost = match s.loss.events {
        0 => "nothing lost".to_owned(),
        n => format!("{n} records lost"),
    };
    page.row(
        "",
        Style::Plain,
        AT,
        &format!("{}, Linux {} {}, ipctrace {}; {lost}", s.host.name, s.kernel.release, s.host.arch, s.tool.version),
    );
}
