//! The report for a terminal: a summary, then processes, evidence and fix of each finding, then what was watched.
//!
//! [`Page`] lays the text out and escapes every string of the report.

use super::escape::escape;
use super::model::Report;
use super::page::{Page, Style, severity_style};
use super::phrase::{
    LIST_MAX, at, by_role, confidence, counted, evidence, folded, limit, lost, object, origin, process, redacted, seen,
    severity, sites, target, watched,
};
use tracer_analysis::finding::time::seconds;
use tracer_analysis::finding::{Confidence, Finding, FindingStack, Origin};

/// The report as text, lines at most `width` columns wide where words allow it, ending in a newline.
pub fn render(report: &Report, width: usize, colour: bool) -> String {
    let mut page = Page::new(width, colour);
    summary(&mut page, report);
    for (n, finding) in report.findings.iter().enumerate() {
        page.line("");
        detail(&mut page, n + 1, finding);
    }
    page.line("");
    coverage(&mut page, report);
    page.out
}

fn summary(page: &mut Page, report: &Report) {
    if report.findings.is_empty() {
        const NONE: &str = "no findings:";
        page.row(NONE, Style::Green, NONE.len() + 1, &format!("watched {}", watched(report)));
    } else {
        let text = format!("{} in {}: {}", counted(report), seconds(report.window.duration_s), target(report));
        page.row("", Style::Plain, 0, &text);
        for (n, f) in report.findings.iter().enumerate() {
            let label = format!("{:>2} {:<8} {}", n + 1, severity(f.severity), escape(&f.code));
            let indent = label.chars().count() + 2;
            let doubt = match f.confidence {
                Confidence::Certain => String::new(),
                Confidence::Likely | Confidence::Uncertain => format!(" ({})", confidence(f.confidence)),
            };
            page.row(&label, severity_style(f.severity), indent, &format!("{}{doubt}", f.title));
        }
    }
    if report.loss.events > 0 {
        let text = format!("{}; findings that rest on them are marked uncertain", lost(report));
        page.row("lost", Style::Red, 5, &text);
    }
}

fn detail(page: &mut Page, n: usize, f: &Finding) {
    let head = format!("[{n}] {}", escape(&f.code));
    let about = f.object.as_ref().map_or_else(String::new, object);
    let label = page.styled(severity_style(f.severity), &head);
    page.line(format!("{label}  {}", escape(&about)).trim_end());
    for (role, group) in by_role(&f.processes) {
        let mut name = role;
        for p in group.iter().take(LIST_MAX) {
            page.named(name, &process(p));
            name = "";
        }
        if group.len() > LIST_MAX {
            page.named("", &format!("and {} more", group.len() - LIST_MAX));
        }
    }
    for (i, link) in f.chain.iter().enumerate() {
        let arrow = if i == 0 { "" } else { "-> " };
        page.named(if i == 0 { "waits" } else { "" }, &format!("{arrow}{link}"));
    }
    let facts: Vec<String> = evidence(f).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    if !facts.is_empty() {
        page.named("evidence", &facts.join(" · "));
    }
    if let Some(l) = &f.limit {
        page.named("limit", &limit(l));
    }
    page.named("confidence", &format!("{}, {}", confidence(f.confidence), origin(f.origin)));
    if let Some(seen) = seen(f) {
        page.named("seen", &seen);
    }
    if f.stacks.is_empty() && f.origin == Origin::Baseline {
        page.named("stack", "none: the object existed before tracing began");
    }
    for stack in &f.stacks {
        frames(page, stack);
    }
    for (i, r) in f.remedy.iter().enumerate() {
        page.named(if i == 0 { "fix" } else { "" }, &r.what);
        if let Some(command) = &r.command {
            page.command(command);
        }
    }
    if !f.docs.is_empty() {
        page.named("more", &f.docs);
    }
}

fn coverage(page: &mut Page, report: &Report) {
    const AT: usize = 15;
    let mut row = |name: &str, text: &str| page.row(name, Style::Dim, AT, text);
    if !report.findings.is_empty() {
        row("watched", &watched(report));
    }
    row("when", &format!("{} to {}", report.window.start, report.window.end));
    row("where", &format!("{}, Linux {} {}", report.host.name, report.kernel.release, report.host.arch));
    let sites = sites(report);
    if !sites.is_empty() {
        row("probes", &sites);
    }
    if let Some(text) = redacted(report) {
        row("names", text);
    }
    row("lost", &if report.loss.events > 0 { lost(report) } else { "nothing".into() });
    if report.not_collected.is_empty() {
        row("not collected", "nothing that was requested");
    }
    for (i, sentence) in report.not_collected.iter().enumerate() {
        row(if i == 0 { "not collected" } else { "" }, sentence);
    }
}

fn frames(page: &mut Page, stack: &FindingStack) {
    if let Some(at) = at(stack) {
        page.named("at", &at);
    }
    let place = if stack.kind == "kernel" { " in the kernel" } else { "" };
    page.named("stack", &format!("{} {}{place}: {}", stack.role, stack.pid, folded(stack)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::escape::unsafe_to_show;
    use super::super::model::tests::{finding, report};
    use super::super::page::WIDTH_MIN;
    use super::*;
    use tracer_analysis::finding::Severity;

    #[test]
    fn a_whole_report() {
        let got = render(&report(vec![finding("sem-leak", Severity::Critical)], &[]), 100, false);
        let want = "\
1 finding in 12.3 s: all processes
 1 CRITICAL sem-leak  worker creates semaphore sets and never removes them

[1] sem-leak  sem 32768, key 0x0056a4d5, namespace 4026531839
   creator    4121 evil\\x1b[31m (/opt/worker), since 2014-03-30T10:33:38.000Z, dead
   waits      4130 blocked in semop(32768, 0) 8.2 s
              -> last taken by 4121, which is dead
   evidence   instances 128 · oldest age 2 days · ids 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 8
              more
   limit      SEMMNI: 128 of 128 in use (100 %)
   confidence certain, seen happening
   seen       2014-03-30T10:33:38.000Z
   at         /src/m.c:12 in main
   stack      creator 4121: worker+0x10 < main m.c:12 < ...
   fix        remove the sets that nobody uses
              $ ipcrm -s 32768
              remove the set in every error path
   more       docs/findings/sem-leak.md

watched        all processes for 12.3 s: all mechanisms; stalls of at least 100 ms
when           2014-03-30T10:33:38.000Z to 2014-03-30T10:33:50.345Z
where          host, Linux 6.18.0 x86_64
probes         1 site by tracepoint, not watched: fd_getfd
lost           nothing
not collected  writes through io_uring
               limits not read
";
        assert_eq!(got, want);
    }

    #[test]
    fn a_report_without_findings_names_what_was_watched() {
        let got = render(&report(vec![], &[]), 80, false);
        let first = got.lines().next().unwrap_or_default();
        assert!(first.starts_with("no findings: watched all processes for 12.3 s: all mechanisms;"), "{got}");
        assert!(got.contains("lost           nothing"));
    }

    #[test]
    fn losses_are_reported_at_the_top() {
        let got = render(&report(vec![finding("a", Severity::Info)], &[("sem_create", 1), ("sem_op", 9)]), 100, false);
        assert!(got.lines().nth(2).is_some_and(|l| l.starts_with("lost 10 records (1 sem_create, 9 sem_op)")), "{got}");
        let none = render(&report(vec![], &[("sem_create", 1)]), 100, false);
        assert!(none.contains("lost 1 record (1 sem_create)"), "{none}");
    }

    #[test]
    fn lines_keep_to_the_width() {
        for width in [0, 40, 60, 80, 120] {
            let got = render(&report(vec![finding("sem-leak", Severity::Warning)], &[("sem_create", 1)]), width, false);
            // Time stamps and paths are single words; one may be longer than a narrow line.
            let long =
                got.lines().filter(|l| l.chars().count() > width.max(WIDTH_MIN)).filter(|l| l.trim().contains(' '));
            let allowed = |l: &&str| l.contains("2014-") || l.contains("namespace");
            assert_eq!(long.filter(|l| !allowed(l)).collect::<Vec<_>>(), Vec::<&str>::new(), "width {width}");
        }
    }

    #[test]
    fn colour_only_if_asked_and_nothing_raw_ever() {
        let mut f = finding("sem-leak", Severity::Critical);
        let evil = "x\u{1b}]0;pwn\x07\u{9b}2J\u{202e}\ny";
        f.title = evil.into();
        f.chain = vec![evil.into()];
        f.remedy.iter_mut().for_each(|r| r.command = Some(evil.into()));
        f.evidence.insert("cause".into(), json!(evil));
        f.stacks.iter_mut().flat_map(|s| &mut s.frames).for_each(|s| s.symbol = Some(evil.into()));
        f.object.iter_mut().for_each(|o| o.name = Some(evil.into()));
        f.processes.iter_mut().for_each(|p| p.role = evil.into());
        f.code = evil.into();
        let mut report = report(vec![f], &[]);
        report.not_collected.push(evil.into());
        report.host.name = evil.into();
        report.target.words = evil.into();
        let plain = render(&report, 100, false);
        assert!(!plain.chars().any(|c| c != '\n' && unsafe_to_show(c)), "{plain}");
        let coloured = render(&report, 100, true);
        let without: String =
            coloured.replace("\x1b[0m", "").replace("\x1b[2m", "").replace("\x1b[1m", "").replace("\x1b[1;31m", "");
        assert!(coloured != plain && without == plain);
    }
}
