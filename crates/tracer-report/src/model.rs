//! The data of a report, which every writer shows. The field names are the JSON contract (schema 1). Pure.

use serde::{Deserialize, Serialize};

use tracer_analysis::finding::Finding;
use tracer_analysis::finding::time::{milliseconds, rfc3339};
use tracer_record::{PlanRow, Session};

/// Version of the JSON report's form.
pub const SCHEMA: u32 = 1;

/// Beginnings of the sentences in `not_collected` that report a trace without an end. Such a trace lacks all facts that
/// are only read at the end.
pub const UNFINISHED: &[&str] = &[UNREADABLE, CUT_OFF, NO_END];
pub const UNREADABLE: &str = "the trace cannot be read further";
pub const CUT_OFF: &str = "the trace is cut off";
pub const NO_END: &str = "the trace has no end";

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    pub tool: Tool,
    pub host: Host,
    pub kernel: Kernel,
    pub target: Target,
    pub plan: Vec<PlanRow>,
    pub window: Window,
    pub loss: Loss,
    /// What was not collected, one sentence each.
    pub not_collected: Vec<String>,
    /// Tokens replace names (`--redact`).
    #[serde(default)]
    pub redacted: bool,
    /// The most severe first.
    pub findings: Vec<Finding>,
}

/// The program that wrote the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
}

/// The machine that was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub arch: String,
    pub page_bytes: u64,
}

/// Its kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub release: String,
}

/// What was watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// As given by the user: `all`, or the pids.
    pub words: String,
    /// Empty for all.
    pub pids: Vec<u32>,
    /// Whether children of the target belong to it.
    pub follow: bool,
    /// Mechanisms, empty for all.
    pub mechanisms: Vec<String>,
    pub min_stall_ms: f64,
}

/// The time that the report covers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// RFC 3339, UTC.
    pub start: String,
    pub end: String,
    pub duration_s: f64,
}

/// Records that the kernel dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub events: u64,
    /// By site, without sites that lost nothing.
    pub sites: Vec<LossRow>,
}

/// Lost records of one site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossRow {
    pub site: String,
    pub events: u64,
}

/// Builds a report.
///
/// It covers the time from the session's start to `end_ns` of the boot clock. `problems` are sentences about what could
/// not be read; they follow the session's own `not_collected`, without duplicates.
pub fn build(
    session: &Session,
    end_ns: u64,
    lost: &[LossRow],
    problems: &[String],
    mut findings: Vec<Finding>,
) -> Report {
    findings.sort_by_key(|f| f.severity);
    let mut not_collected: Vec<String> = Vec::new();
    for sentence in session.not_collected.iter().chain(problems) {
        if !not_collected.contains(sentence) {
            not_collected.push(sentence.clone());
        }
    }
    Report {
        schema: SCHEMA,
        tool: Tool { name: "ipctrace".into(), version: session.tool_version.clone() },
        host: Host { name: session.host.clone(), arch: session.arch.clone(), page_bytes: session.page_bytes },
        kernel: Kernel { release: session.kernel.clone() },
        target: Target {
            words: session.target.clone(),
            pids: session.target_pids.clone(),
            follow: session.follow,
            mechanisms: session.only.clone(),
            min_stall_ms: milliseconds(session.min_stall_ns),
        },
        plan: session.plan.clone(),
        window: Window {
            start: rfc3339(session, session.start_ns),
            end: rfc3339(session, end_ns),
            duration_s: milliseconds(end_ns.saturating_sub(session.start_ns)) / 1e3,
        },
        loss: losses(lost),
        not_collected,
        redacted: session.redacted,
        findings,
    }
}

fn losses(lost: &[LossRow]) -> Loss {
    let sites: Vec<LossRow> = lost.iter().filter(|l| l.events > 0).cloned().collect();
    Loss { events: sites.iter().map(|s| s.events).fold(0, u64::saturating_add), sites }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Map, json};

    use super::*;
    use tracer_analysis::finding::*;

    pub(crate) fn session() -> Session {
        Session {
            tool_version: "0.1.0".into(),
            host: "host".into(),
            kernel: "6.18.0".into(),
            arch: "x86_64".into(),
            page_bytes: 4096,
            start_ns: 1_000_000_000,
            wall_ns: 1_396_175_618_000_000_000,
            min_stall_ns: 100_000_000,
            target: "all".into(),
            follow: true,
            not_collected: vec!["writes through io_uring".into()],
            plan: vec![
                PlanRow {
                    site: "sem_create".into(),
                    mechanism: "sem".into(),
                    backend: "tracepoint".into(),
                    reason: "fentry refused".into(),
                    functions: vec![],
                },
                PlanRow {
                    site: "fd_getfd".into(),
                    mechanism: "fdpass".into(),
                    backend: "none".into(),
                    reason: "no such call".into(),
                    functions: vec![],
                },
            ],
            ..Session::default()
        }
    }

    pub(crate) fn finding(code: &str, severity: Severity) -> Finding {
        let mut evidence = Map::new();
        evidence.insert("oldest_age_s".into(), json!(172_800));
        evidence.insert("instances".into(), json!(128));
        evidence.insert("rate_per_h".into(), json!(null));
        evidence.insert("ids".into(), json!((0..20).map(|i| i.to_string()).collect::<Vec<_>>()));
        Finding {
            code: code.into(),
            severity,
            confidence: Confidence::Certain,
            origin: Origin::Observed,
            title: "worker creates semaphore sets and never removes them".into(),
            object: Some(Object {
                kind: "sem".into(),
                id: "32768".into(),
                key: Some("0x0056a4d5".into()),
                name: None,
                ns: Some(4_026_531_839),
            }),
            processes: vec![Process {
                role: "creator".into(),
                pid: 4121,
                tid: Some(4121),
                comm: Some("evil\u{1b}[31m".into()),
                exe: Some("/opt/worker".into()),
                start: Some("2014-03-30T10:33:38.000Z".into()),
                alive: Some(false),
                ..Process::default()
            }],
            evidence,
            limit: Some(Limit { name: "SEMMNI".into(), used: Some(128), max: Some(128), eta_s: Some(0) }),
            stacks: vec![FindingStack {
                role: "creator".into(),
                pid: 4121,
                kind: "user".into(),
                site: Some("/src/m.c:12 in main".into()),
                exact: true,
                truncated: true,
                frames: vec![
                    StackFrame {
                        addr: "0x55d0".into(),
                        module: Some("/opt/worker+0x10".into()),
                        ..StackFrame::default()
                    },
                    StackFrame {
                        addr: "0x1".into(),
                        symbol: Some("main".into()),
                        file: Some("m.c".into()),
                        line: Some(12),
                        ..StackFrame::default()
                    },
                ],
            }],
            chain: vec!["4130 blocked in semop(32768, 0) 8.2 s".into(), "last taken by 4121, which is dead".into()],
            remedy: vec![
                Remedy { what: "remove the sets that nobody uses".into(), command: Some("ipcrm -s 32768".into()) },
                Remedy { what: "remove the set in every error path".into(), command: None },
            ],
            docs: "docs/findings/sem-leak.md".into(),
            first_seen: Some("2014-03-30T10:33:38.000Z".into()),
            last_seen: None,
        }
    }

    pub(crate) fn report(findings: Vec<Finding>, lost: &[(&str, u64)]) -> Report {
        let lost: Vec<LossRow> = lost.iter().map(|(site, n)| LossRow { site: (*site).into(), events: *n }).collect();
        build(&session(), 13_345_678_999, &lost, &["limits not read".into()], findings)
    }

    #[test]
    fn worst_first_and_the_rest_as_found() {
        let all = vec![
            finding("a", Severity::Info),
            finding("b", Severity::Critical),
            finding("c", Severity::Warning),
            finding("d", Severity::Critical),
        ];
        let codes: Vec<String> = report(all, &[]).findings.into_iter().map(|f| f.code).collect();
        assert_eq!(codes, ["b", "d", "c", "a"]);
    }

    #[test]
    fn window_and_loss() {
        let report = report(vec![], &[("sem_create", 2), ("sem_op", 0), ("?", 3)]);
        assert_eq!(report.window.start, "2014-03-30T10:33:38.000Z");
        assert_eq!(report.window.end, "2014-03-30T10:33:50.345Z");
        assert_eq!(report.window.duration_s, 12.345_678);
        let sites: Vec<_> = report.loss.sites.iter().map(|s| (s.site.as_str(), s.events)).collect();
        assert_eq!((report.loss.events, sites), (5, vec![("sem_create", 2), ("?", 3)]));
        assert_eq!(report.target.min_stall_ms, 100.0);
    }

    #[test]
    fn problems_are_listed_once() {
        let problems = ["writes through io_uring".to_owned(), "x".to_owned(), "x".to_owned()];
        let report = build(&session(), 0, &[], &problems, vec![]);
        assert_eq!(report.not_collected, ["writes through io_uring", "x"]);
    }
}
