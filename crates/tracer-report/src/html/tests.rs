//! Tests of the page's text; `tracer-user/tests/page.rs` opens it in a browser.

use serde_json::json;

use super::super::chart::{durations, flame, timeline, trend};
use super::super::escape::unsafe_to_show;
use super::super::model::tests::{finding, report};
use super::*;
use tracer_analysis::finding::Finding;

fn hostile() -> (Report, Charts) {
    let evil =
        "</script><script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover=\"x\u{1b}[2J\u{202e}".to_owned();
    let mut f: Finding = finding("pipe-stall", Severity::Critical);
    f.title.clone_from(&evil);
    f.chain = vec![evil.clone()];
    f.remedy.iter_mut().for_each(|r| r.command = Some(evil.clone()));
    f.evidence.insert("cause".into(), json!(evil));
    f.stacks.iter_mut().flat_map(|s| &mut s.frames).for_each(|s| s.symbol = Some(evil.clone()));
    f.object.iter_mut().for_each(|o| o.name = Some(evil.clone()));
    f.processes.iter_mut().for_each(|p| (p.role, p.comm) = ("writer".into(), Some(evil.clone())));
    f.limit.iter_mut().for_each(|l| l.name.clone_from(&evil));
    f.docs.clone_from(&evil);
    f.code = format!("{evil}-stall");
    let mut report = report(vec![f], &[("sem_op", 1)]);
    report.not_collected.push(evil.clone());
    report.host.name.clone_from(&evil);
    report.target.words.clone_from(&evil);
    let charts = Charts {
        timeline: timeline::Timeline {
            duration_ms: 1.0,
            lanes: vec![timeline::Shown { name: evil.clone(), ..timeline::Shown::default() }],
            left_out: 1,
        },
        trends: vec![trend::Trend { name: evil.clone(), max: None, points: vec![(0.0, 1)] }],
        waits: super::super::chart::waits::Graph {
            nodes: vec![super::super::chart::waits::Node {
                label: evil.clone(),
                is_process: true,
                dead: true,
                deadlocked: true,
                finding: 1,
            }],
            ..Default::default()
        },
        stacks: Some(flame::Node { name: evil.clone(), ..flame::Node::default() }),
        durations: vec![durations::Histogram { object: evil, count: 0, total_ns: 0, ongoing: 0, classes: vec![] }],
    };
    (report, charts)
}

/// The page without its own style and script.
fn without_own(page: &str) -> String {
    assert_eq!((page.matches(SCRIPT).count(), page.matches(STYLE).count()), (1, 1));
    page.replace(SCRIPT, "").replace(STYLE, "")
}

#[test]
fn names_are_inert_everywhere() {
    let (report, charts) = hostile();
    let page = without_own(&render(&report, &charts).expect("page"));
    assert!(!page.contains("<img") && !page.contains("<script>alert"), "{page}");
    assert!(!page.replace("\\\" onmouseover", "").contains("\" onmouseover"), "{page}");
    assert_eq!(page.matches("<script").count(), 2, "the data and the script");
    assert!(!page.chars().any(|c| c != '\n' && unsafe_to_show(c)), "{page}");
}

#[test]
fn nothing_is_loaded_and_nothing_inline_is_allowed() {
    let (report, charts) = hostile();
    let page = without_own(&render(&report, &charts).expect("page"));
    assert!(page.contains("default-src 'none'") && !page.contains("unsafe-"));
    for word in [" style=", " onclick", " src=\"", "http://", "https://", "@import", "<link", "<iframe"] {
        assert!(!page.contains(word), "{word}");
    }
    for own in [SCRIPT, STYLE] {
        assert!(
            !own.contains("://") || own.matches("://").count() == own.matches("http://www.w3.org/2000/svg").count()
        );
        assert!(!own.contains("innerHTML") && !own.contains("eval(") && !own.contains("</s"));
    }
}

#[test]
fn a_report_without_findings_or_charts_is_a_page_too() {
    let page = render(&report(vec![], &[]), &Charts::default()).expect("page");
    assert!(page.contains("No findings: watched all processes for 12.3 s"), "{page}");
    for part in ["id=\"timeline\"", "id=\"waits\"", "id=\"stacks\"", "id=\"durations\"", "id=\"limits\""] {
        assert!(!page.contains(part), "{part}");
    }
}
