//! `report` on a trace of 100,000 events full of hostile names, and its page in a real browser.
//!
//! Without Chromium the browser's part is skipped; the modules of the page have tests of their own.
#![allow(clippy::expect_used, clippy::panic)] // tests

mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use program::{ipctrace, text};
use tracer_common::event::{
    Body, Exit, Fork, Free, HEADER_LEN, Header, PipeCreate, SemCreate, SemRemove, Stall, UNKNOWN,
};
use tracer_common::map::{ObjRef, kind};
use tracer_record::{Inventory, ProcessRow, Record, Session};
use tracer_trace::Writer;

const EVENTS: u64 = 100_000;
const SECOND: u64 = 1_000_000_000;
const START: u64 = 100 * SECOND;
/// Time limit for drawing; two idle cores need a tenth of it.
const DRAWN: Duration = Duration::from_secs(20);

/// Names that would set the title if they were not escaped.
fn evil() -> Vec<String> {
    let mut all: Vec<String> = [
        "<script>document.title='owned'</script>",
        "\"><img src=x onerror=document.title='owned'>",
        "</script><script>document.title='owned'</script>",
        "'onmouseover='document.title=1' <svg onload=document.title='owned'>",
        "\u{1b}[2J\u{1b}]0;owned\u{7}\u{202e}\u{2028}\r\n",
        "javascript:document.title='owned' [x](javascript:1) @root #1",
    ]
    .map(str::to_owned)
    .into();
    all.push("<b>".repeat(85));
    all
}

fn bytes(header: &Header, body: &Body) -> Vec<u8> {
    let mut payload = Vec::new();
    let kind = body.encode(|part| payload.extend_from_slice(part));
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    out.extend_from_slice(&header.ts_ns.to_ne_bytes());
    out.extend_from_slice(&header.start_ns.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&header.site.to_ne_bytes());
    for word in [header.tgid, header.tid, header.uid] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(&header.stack.to_ne_bytes());
    out.extend_from_slice(&header.copy.to_ne_bytes());
    out.extend_from_slice(&header.comm);
    out.extend_from_slice(&payload);
    out
}

fn process(n: usize, name: &str) -> ProcessRow {
    ProcessRow {
        tgid: 1000 + u32::try_from(n).expect("few"),
        start_ns: SECOND,
        comm: name.to_owned(),
        exe: Some(format!("/srv/{name}")),
        state: 'S',
        ..ProcessRow::default()
    }
}

/// The record of step `n` of a session that has every kind of content of a page.
fn event(n: u64, ts_ns: u64, processes: u64) -> Record {
    let who = u32::try_from(1000 + n / 6 % processes).expect("few");
    let header = |tgid| Header { ts_ns, start_ns: SECOND, tgid, tid: tgid, stack: -1, ..Header::default() };
    let child = u32::try_from(100_000 + n / 6).expect("few");
    let id = i32::try_from(n / 6 % 5_000).expect("few");
    let pipe = 8_000 + n / 6 % 300;
    let (tgid, body) = match n % 6 {
        0 => (who, Body::PipeCreate(PipeCreate { ino: pipe, slots: 16, ..PipeCreate::default() })),
        1 => {
            let obj = ObjRef { kind: kind::PIPE, ns: 0, id: pipe };
            let since_ns = ts_ns.saturating_sub(SECOND / 2).max(START);
            let stall = Stall {
                obj,
                since_ns,
                until_ns: ts_ns,
                ret: 1,
                reader: who,
                reader_start_ns: SECOND,
                ..Stall::default()
            };
            let other = if who == 1000 { 1001 } else { 1000 };
            (other, Body::Stall(Stall { reader_running_ns: UNKNOWN, call: 1, ..stall }))
        }
        2 => (who, Body::SemCreate(SemCreate { id, nsems: 1, ns: 1, exact: 1, ..SemCreate::default() })),
        3 if !n.is_multiple_of(5) => (who, Body::SemRemove(SemRemove { id, ns: 1, ..SemRemove::default() })),
        3 | 4 => (who, Body::Fork(Fork { child, child_start_ns: ts_ns, ..Fork::default() })),
        _ if !n.is_multiple_of(7) => {
            (child, Body::Exit(Exit { parent: who, parent_start_ns: SECOND, ..Exit::default() }))
        }
        _ => (who, Body::Free(Free { tgid: child, start_ns: ts_ns, ..Free::default() })),
    };
    Record::Kernel(bytes(&header(tgid), &body))
}

/// Writes the trace, with its end if `ended`.
fn record(path: &Path, events: u64, ended: bool) -> Writer {
    let names = evil();
    let session = Session {
        tool_version: "0.1.0".into(),
        host: "<h1>host".into(),
        kernel: "6.18".into(),
        arch: "x86_64".into(),
        page_bytes: 4096,
        start_ns: START,
        wall_ns: 1_396_175_618_000_000_000,
        min_stall_ns: SECOND / 10,
        target: "all".into(),
        not_collected: names.clone(),
        ..Session::default()
    };
    let processes: Vec<ProcessRow> = names.iter().enumerate().map(|(n, name)| process(n, name)).collect();
    let all = processes.len() as u64;
    let mut writer = Writer::create(path, false).expect("trace");
    let inventory = |ts_ns| Inventory { ts_ns, processes: processes.clone(), ..Inventory::default() };
    writer.push(&Record::Session(session)).expect("session");
    writer.push(&Record::Baseline(inventory(START))).expect("baseline");
    // An hour.
    let at = |n: u64| START + n * 3_600 * SECOND / events.max(1);
    for n in 0..events {
        writer.push(&event(n, at(n), all)).expect("event");
        if n % 1_000 == 999 {
            writer.push(&Record::Tick { ts_ns: at(n) }).expect("tick");
        }
    }
    if ended {
        writer.push(&Record::Closing(inventory(at(events)))).expect("closing");
        writer.push(&Record::End { ts_ns: at(events) }).expect("end");
    }
    writer.flush().expect("flush");
    writer
}

fn chromium() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders).flat_map(|f| names.map(|n| f.join(n))).find(|p| p.is_file())
}

/// The document that a browser built from a page, and its log.
struct Seen {
    document: String,
    log: String,
    requests: String,
}

fn browse(browser: &Path, page: &Path, dir: &Path) -> Seen {
    let (document, log, net) = (dir.join("document"), dir.join("log"), dir.join("net.json"));
    let file = |path: &Path| std::fs::File::create(path).expect("file");
    let mut command = Command::new(browser);
    // Without a sandbox, which needs more privileges than a container has; the page is trusted.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND"]);
    command.args(["--enable-logging=stderr", "--v=0", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", dir.join("profile").display()));
    command.arg(format!("--log-net-log={}", net.display())).arg(format!("file://{}", page.display()));
    let mut child =
        command.stdin(Stdio::null()).stdout(file(&document)).stderr(file(&log)).spawn().expect("start the browser");
    let deadline = Instant::now() + Duration::from_secs(120);
    while child.try_wait().expect("wait").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the browser does not end: {}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    Seen { document: read(&document), log: read(&log), requests: read(&net) }
}

/// The value of the first attribute of this name.
fn attribute<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    document.split_once(&format!("{name}=\""))?.1.split('"').next()
}

#[test]
fn a_hundred_thousand_events_are_drawn_and_every_name_is_inert() {
    let dir = tempfile::tempdir().expect("dir");
    let (trace, page) = (dir.path().join("big.trace"), dir.path().join("page.html"));
    record(&trace, EVENTS, true).finish().expect("trace");
    let started = Instant::now();
    let words = [trace.to_str().expect("path"), "--format", "html", "-o", page.to_str().expect("path")];
    let out = ipctrace(&[&["report"], words.as_slice()].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let size = std::fs::metadata(&page).expect("page").len();
    eprintln!("{EVENTS} events: a page of {size} bytes in {:?}", started.elapsed());
    assert!(size < 8 << 20, "{size} bytes");

    let Some(browser) = chromium() else {
        return tracer_skip::skip!("Chromium is not installed: apt-get install chromium");
    };
    let seen = browse(&browser, &page, dir.path());
    let drawn = attribute(&seen.document, "data-drawn-ms").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let drawn = drawn.unwrap_or_else(|| panic!("the page's program did not end: {}", seen.log));
    eprintln!("drawn after {drawn:?}");
    assert!(drawn < DRAWN);
    let console: Vec<&str> = seen.log.lines().filter(|l| l.contains("CONSOLE")).collect();
    assert_eq!(console, [""; 0], "the console says something");
    // The browser's own requests, such as for updates, have no initiating page.
    let began = |l: &&str| l.contains("\"initiator\":") && !l.contains("\"initiator\":\"not an origin\"");
    let requests: Vec<&str> = seen.requests.lines().filter(began).collect();
    assert!(seen.requests.contains("\"events\""), "the browser wrote no log of its requests");
    assert_eq!(requests, [""; 0], "the page asks for something");
    // Elements that unescaped names would have created.
    assert!(!seen.document.contains("<title>owned"));
    assert_eq!(seen.document.matches("<script").count(), 2, "the data and the program");
    for element in ["<img", "<b>", "<iframe", "<svg onload"] {
        assert!(!seen.document.contains(element), "{element}");
    }
    let timeline = seen.document.split_once("id=\"timeline-view\"").map(|(_, rest)| rest).unwrap_or_default();
    assert!(timeline.contains("class=\"waits\"") && timeline.contains("class=\"lives\""), "no timeline");
}

#[test]
fn a_trace_is_reported_on_while_it_is_written() {
    let dir = tempfile::tempdir().expect("dir");
    let trace = dir.path().join("live.trace");
    let writer = record(&trace, 6_000, false);
    let path = trace.to_str().expect("path");
    for format in ["text", "json", "markdown", "html"] {
        let out = ipctrace(&["report", path, "--format", format]);
        assert!(out.status.success(), "{format}: {}", text(&out.stderr));
        let said = text(&out.stdout);
        assert!(said.contains("the trace has no end: it is still written"), "{format}");
        assert!(said.contains("pipe-stall"), "{format}");
    }
    // The next chunk is half written.
    let whole = std::fs::read(&trace).expect("trace");
    std::fs::write(&trace, [whole.as_slice(), &[0xff, 0x10, 0, 0, 1]].concat()).expect("write");
    let out = ipctrace(&["report", path, "--format", "html"]);
    assert!(out.status.success() && text(&out.stdout).contains("cut off at byte"), "{}", text(&out.stderr));
    drop(writer);
}

#[test]
fn reports_replace_reports_and_nothing_else() {
    let dir = tempfile::tempdir().expect("dir");
    let trace = dir.path().join("small.trace");
    record(&trace, 600, true).finish().expect("trace");
    let path = trace.to_str().expect("path");
    for format in ["text", "json", "jsonl", "markdown", "html"] {
        let file = dir.path().join(format);
        let to = file.to_str().expect("path");
        let printed = ipctrace(&["report", path, "--format", format]).stdout;
        for _ in 0..2 {
            assert!(ipctrace(&["report", path, "--format", format, "-o", to]).status.success(), "{format}");
            assert_eq!(std::fs::read(&file).expect("read"), printed, "{format}");
            std::fs::write(&file, [printed.as_slice(), b"of yesterday"].concat()).expect("write");
        }
    }
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).expect("link");
    let whole = std::fs::read(&trace).expect("trace");
    for (to, why) in [(link.to_str().expect("path"), "symbolic link"), (path, "is a trace")] {
        let out = ipctrace(&["report", path, "-o", to]);
        assert_eq!(out.status.code(), Some(1), "{to}");
        assert!(text(&out.stderr).contains(why), "{}", text(&out.stderr));
    }
    assert_eq!(std::fs::read(&trace).expect("trace"), whole);
    assert!(ipctrace(&["report", path, "-o", "/dev/null"]).status.success());
}

#[test]
fn the_schema_is_printed() {
    let out = ipctrace(&["report", "--schema"]);
    assert!(out.status.success() && text(&out.stdout).contains("urn:ipctrace:report:1"));
    assert_eq!(ipctrace(&["report"]).status.code(), Some(2), "without --schema a file is needed");
}
