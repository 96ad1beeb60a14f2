//! The report as Markdown (GitHub and GitLab flavours), for tickets: a summary first.
//!
//! No name becomes markup. Text from outside stands in code spans and blocks, or is escaped, so that it creates no link,
//! image, mention or reference, even where a site looks for those in the rendered text.

use std::borrow::Cow;
use std::fmt::Write;

use super::escape::escape;
use super::model::Report;
use super::phrase::{
    LIST_MAX, at, by_role, confidence, counted, evidence, frames, limit, lost, object, origin, process, redacted, seen,
    severity, sites, target, watched,
};
use tracer_analysis::finding::time::seconds;
use tracer_analysis::finding::{Confidence, Finding, Origin};

/// The report as Markdown, ending in a newline.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    summary(&mut out, report);
    for (n, finding) in report.findings.iter().enumerate() {
        detail(&mut out, n + 1, finding);
    }
    coverage(&mut out, report);
    out
}

/// Writing to a String cannot fail.
macro_rules! put {
    ($out:expr, $($text:tt)*) => { { let _ = writeln!($out, $($text)*); } };
}

fn summary(out: &mut String, report: &Report) {
    put!(out, "## ipctrace: {}\n", if report.findings.is_empty() { "no findings".into() } else { counted(report) });
    if report.findings.is_empty() {
        put!(out, "Watched {}.\n", prose(&watched(report)));
    } else {
        put!(out, "In {} of {}.\n", seconds(report.window.duration_s), prose(&target(report)));
        for (n, f) in report.findings.iter().enumerate() {
            let doubt = match f.confidence {
                Confidence::Certain => String::new(),
                Confidence::Likely | Confidence::Uncertain => format!(" ({})", confidence(f.confidence)),
            };
            put!(out, "{}. **{}** {}: {}{doubt}", n + 1, severity(f.severity), code(&f.code), prose(&f.title));
        }
        put!(out, "");
    }
    if report.loss.events > 0 {
        put!(out, "**Lost** {}; findings that rest on them are marked uncertain.\n", prose(&lost(report)));
    }
}

fn detail(out: &mut String, n: usize, f: &Finding) {
    let about = f.object.as_ref().map(|o| format!(", {}", code(&object(o)))).unwrap_or_default();
    put!(out, "### {n}. {}{about}\n", code(&f.code));
    for (role, group) in by_role(&f.processes) {
        for p in group.iter().take(LIST_MAX) {
            put!(out, "- **{}** {}", prose(role), code(&process(p)));
        }
        if group.len() > LIST_MAX {
            put!(out, "- **{}** and {} more", prose(role), group.len() - LIST_MAX);
        }
    }
    for place in f.stacks.iter().filter_map(at) {
        put!(out, "- **at** {}", code(&place));
    }
    if let Some(l) = &f.limit {
        put!(out, "- **limit** {}", prose(&limit(l)));
    }
    put!(out, "- **confidence** {}, {}", confidence(f.confidence), origin(f.origin));
    if let Some(seen) = seen(f) {
        put!(out, "- **seen** {}", prose(&seen));
    }
    if !f.chain.is_empty() {
        put!(out, "\nBlocking chain:\n");
        f.chain.iter().enumerate().for_each(|(i, link)| put!(out, "{}. {}", i + 1, prose(link)));
    }
    if !f.remedy.is_empty() {
        put!(out, "\nFix:\n");
        for r in &f.remedy {
            put!(out, "- {}", prose(&r.what));
            if let Some(command) = &r.command {
                block(out, "  ", [escape(command)].into_iter());
            }
        }
    }
    let facts = evidence(f);
    if !facts.is_empty() {
        put!(out, "\n| evidence | value |\n|---|---|");
        facts.iter().for_each(|(name, value)| put!(out, "| {} | {} |", prose(name), prose(value)));
    }
    if f.stacks.is_empty() && f.origin == Origin::Baseline {
        put!(out, "\nNo stack: the object existed before tracing began.");
    }
    for stack in &f.stacks {
        put!(out, "\nStack of {} {}, innermost first:\n", prose(&stack.role), stack.pid);
        let frames = frames(stack);
        let frames = if frames.is_empty() { vec!["no frames".to_owned()] } else { frames };
        block(out, "", frames.iter().map(|f| escape(f)));
    }
    if !f.docs.is_empty() {
        put!(out, "\nMore: {}", code(&f.docs));
    }
    put!(out, "");
}

fn coverage(out: &mut String, report: &Report) {
    put!(out, "### Coverage\n");
    put!(out, "- **watched** {}", prose(&watched(report)));
    put!(out, "- **when** {} to {}", prose(&report.window.start), prose(&report.window.end));
    let place = format!("{}, Linux {} {}", report.host.name, report.kernel.release, report.host.arch);
    put!(out, "- **where** {}", code(&place));
    let sites = sites(report);
    if !sites.is_empty() {
        put!(out, "- **probes** {}", prose(&sites));
    }
    if let Some(text) = redacted(report) {
        put!(out, "- **names** {text}");
    }
    put!(out, "- **lost** {}", if report.loss.events > 0 { prose(&lost(report)) } else { "nothing".into() });
    if report.not_collected.is_empty() {
        put!(out, "- **not collected** nothing that was requested");
        return;
    }
    put!(out, "\nNot collected:\n");
    report.not_collected.iter().for_each(|sentence| put!(out, "- {}", prose(sentence)));
}

/// Writes a code block. Its fence is longer than any in `lines`, which must be escaped.
fn block<'a>(out: &mut String, indent: &str, lines: impl Iterator<Item = Cow<'a, str>>) {
    let lines: Vec<Cow<'a, str>> = lines.collect();
    let fence = "`".repeat(lines.iter().map(|l| longest_run(l)).max().unwrap_or(0).max(2) + 1);
    put!(out, "{indent}{fence}text");
    lines.iter().for_each(|line| put!(out, "{indent}{line}"));
    put!(out, "{indent}{fence}");
}

/// A code span, which contains no markup. Not for table cells, which `|` would end.
fn code(text: &str) -> String {
    let text = escape(text);
    let ticks = "`".repeat(longest_run(&text) + 1);
    // Markdown strips one space at each end of a span; it separates backticks of the text from the delimiters.
    let blank = if text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']) || text.is_empty() { " " } else { "" };
    format!("{ticks}{blank}{text}{blank}{ticks}")
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// A sentence that contains names, as plain text.
///
/// A backslash escapes ASCII punctuation. Sites also turn rendered text into mentions and issue references, but not in
/// code spans, so `@` and `#` become code spans.
fn prose(text: &str) -> String {
    const MARKUP: &str = "\\`*_{}[]<>|~$&!";
    const REFERENCE: [char; 2] = ['@', '#'];
    let text = escape(text);
    let mut out = String::with_capacity(text.len() + 16);
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let next = chars.peek().copied().unwrap_or(' ');
        if REFERENCE.contains(&c) {
            if !REFERENCE.contains(&before) {
                out.push('`');
            }
            out.push(c);
            if !REFERENCE.contains(&next) {
                out.push('`');
            }
        } else {
            // `://` and `www.` would become links, and a line must not begin like a list.
            let link = (c == ':' && next == '/') || (c == '.' && before.eq_ignore_ascii_case(&'w'));
            let list = (out.is_empty() && "-+".contains(c))
                || (".)".contains(c) && !out.is_empty() && out.bytes().all(|b| b.is_ascii_digit()));
            if MARKUP.contains(c) || link || list {
                out.push('\\');
            }
            out.push(c);
        }
        before = c;
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::escape::unsafe_to_show;
    use super::super::model::tests::{finding, report};
    use super::*;
    use tracer_analysis::finding::Severity;

    #[test]
    fn a_whole_report() {
        let got = render(&report(vec![finding("sem-leak", Severity::Critical)], &[("sem_op", 2)]));
        let want = "\
## ipctrace: 1 finding

In 12.3 s of all processes.

1. **CRITICAL** `sem-leak`: worker creates semaphore sets and never removes them

**Lost** 2 records (2 sem\\_op); findings that rest on them are marked uncertain.

### 1. `sem-leak`, `sem 32768, key 0x0056a4d5, namespace 4026531839`

- **creator** `4121 evil\\x1b[31m (/opt/worker), since 2014-03-30T10:33:38.000Z, dead`
- **at** `/src/m.c:12 in main`
- **limit** SEMMNI: 128 of 128 in use (100 %)
- **confidence** certain, seen happening
- **seen** 2014-03-30T10:33:38.000Z

Blocking chain:

1. 4130 blocked in semop(32768, 0) 8.2 s
2. last taken by 4121, which is dead

Fix:

- remove the sets that nobody uses
  ```text
  ipcrm -s 32768
  ```
- remove the set in every error path

| evidence | value |
|---|---|
| instances | 128 |
| oldest age | 2 days |
| ids | 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 8 more |

Stack of creator 4121, innermost first:

```text
worker+0x10
main m.c:12
...
```

More: `docs/findings/sem-leak.md`

### Coverage

- **watched** all processes for 12.3 s: all mechanisms; stalls of at least 100 ms
- **when** 2014-03-30T10:33:38.000Z to 2014-03-30T10:33:50.345Z
- **where** `host, Linux 6.18.0 x86_64`
- **probes** 1 site by tracepoint, not watched: fd\\_getfd
- **lost** 2 records (2 sem\\_op)

Not collected:

- writes through io\\_uring
- limits not read
";
        assert_eq!(got, want);
        let none = render(&report(vec![], &[]));
        assert!(none.starts_with("## ipctrace: no findings\n\nWatched all processes for 12.3 s"), "{none}");
    }

    #[test]
    fn names_are_inert() {
        for (text, want) in [
            ("plain, 100 % - a.b", "plain, 100 % - a.b"),
            ("@root and a@b.c", "`@`root and a`@`b.c"),
            ("@#12 x", "`@#`12 x"),
            ("<img src=x>", "\\<img src=x\\>"),
            ("[a](https://e.x/)", "\\[a\\](https\\://e.x/)"),
            ("www.e.x", "www\\.e.x"),
            ("a|b `c` *d* _e_ &lt; \\ $x$", "a\\|b \\`c\\` \\*d\\* \\_e\\_ \\&lt; \\\\ \\$x\\$"),
            ("- item", "\\- item"),
            ("12. item", "12\\. item"),
            ("two\nlines\u{202e}", "two\\\\x0alines\\\\u\\{202e\\}"),
        ] {
            assert_eq!(prose(text), want);
        }
        for (text, want) in [
            ("a", "`a`"),
            ("`", "`` ` ``"),
            ("a``b", "```a``b```"),
            ("a\n# b", "`a\\x0a# b`"),
            ("@x <b>|", "`@x <b>|`"),
        ] {
            assert_eq!(code(text), want);
        }
        let mut out = String::new();
        block(&mut out, "", ["```` x".into(), "y".into()].into_iter());
        assert_eq!(out, "`````text\n```` x\ny\n`````\n");
    }

    #[test]
    fn a_hostile_report_keeps_its_form() {
        let evil = "x\u{1b}[2J\n\n# h\n```\n| a |\n@admin <script>alert(1)</script> [l](javascript:x) ![i](http://e.x)";
        let mut f = finding("sem-leak", Severity::Critical);
        f.title = evil.into();
        f.chain = vec![evil.into(); 2];
        f.remedy.iter_mut().for_each(|r| (r.what, r.command) = (evil.into(), Some(evil.into())));
        f.evidence.insert("cause".into(), json!(evil));
        f.stacks.iter_mut().flat_map(|s| &mut s.frames).for_each(|s| s.symbol = Some(evil.into()));
        f.object.iter_mut().for_each(|o| o.name = Some(evil.into()));
        f.processes.iter_mut().for_each(|p| (p.role, p.comm) = (evil.into(), Some(evil.into())));
        let calm = render(&report(vec![finding("sem-leak", Severity::Critical)], &[]));
        let wild = render(&report(vec![f], &[]));
        assert!(!wild.chars().any(|c| c != '\n' && unsafe_to_show(c)), "{wild}");
        // One more row of evidence and the block of one more command, nothing else.
        assert_eq!(wild.lines().count(), calm.lines().count() + 1 + 3);
        let spans = |line: &str| line.replace("\\`", "").replace("\\<", "").split('`').step_by(2).collect::<String>();
        let outside = wild.lines().filter(|l| !l.contains("```")).map(spans).collect::<String>();
        assert!(!outside.contains("@admin") && !outside.contains("<script"), "{outside}");
    }
}
