//! The table in docs/capabilities.md matches the tables of the code: sites, detectors, kinds of `ls`, and the programs of
//! the BPF object.
//!
//! `UPDATE_DOCS=1 cargo test -p tracer-user --test capability` rewrites it.
#![expect(clippy::expect_used, reason = "all of this file is a test: what it cannot read fails it")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use tracer_analysis::detectors::{DETECTORS, find};
use tracer_analysis::finding::detector::Column;
use tracer_collector::kernel::OBJECT;
use tracer_collector::kernel::plan::{Backend, program, watches};
use tracer_common::site::{Fallback, Mechanism, SITES, Site, SiteInfo};
use tracer_report::listing;

const BEGIN: &str = "<!-- capabilities: generated, see tracer-user/tests/capability.rs -->\n";
const END: &str = "<!-- end of capabilities -->\n";
const BACKENDS: [Backend; 3] = [Backend::Fentry, Backend::Kprobe, Backend::Tracepoint];

/// Sites with gaps, by backend; `None`: the mechanism has nothing of this kind.
type Cell = [Option<BTreeSet<&'static str>>; 3];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Names of all programs in the BPF object.
fn programs() -> HashSet<String> {
    aya_obj::Object::parse(OBJECT).expect("a BPF object").programs.into_keys().collect()
}

/// Whether the backend has programs for every group of hooks; otherwise the site uses its fallback.
fn attaches(site: &SiteInfo, backend: Backend, programs: &HashSet<String>) -> bool {
    let groups = site.hooks.iter().filter(|g| backend == Backend::Fentry || g.iter().any(|h| !h.fentry_only));
    let mut groups = groups.peekable();
    groups.peek().is_some() && groups.all(|g| g.iter().any(|h| programs.contains(&program(h, backend))))
}

/// Whether this backend misses something at this site.
fn is_partial(site: &SiteInfo, backend: Backend, programs: &HashSet<String>) -> bool {
    let fallback = match site.fallback {
        Fallback::Tracepoint(..) => true,
        Fallback::Syscalls(_) | Fallback::AnySyscall => {
            backend == Backend::Tracepoint || !attaches(site, backend, programs)
        }
    };
    fallback && !site.unseen.is_empty()
}

fn infos(sites: &[Site]) -> Vec<&'static SiteInfo> {
    SITES.iter().filter(|s| sites.contains(&s.site)).collect()
}

fn cell(sites: &[&'static SiteInfo], programs: &HashSet<String>) -> Cell {
    BACKENDS.map(|b| Some(sites.iter().filter(|s| is_partial(s, b, programs)).map(|s| s.name).collect()))
}

fn of_findings(mechanism: Mechanism, wanted: Column, programs: &HashSet<String>) -> Cell {
    let codes = DETECTORS.iter().filter(|d| d.mechanism == Some(mechanism) && d.family.column() == wanted);
    let mut all: Cell = [None, None, None];
    for one in codes.map(|d| cell(&infos(d.sites), programs)) {
        for (sum, part) in all.iter_mut().zip(one) {
            sum.get_or_insert_default().extend(part.unwrap_or_default());
        }
    }
    all
}

fn of_events(mechanism: Mechanism, programs: &HashSet<String>) -> Cell {
    // `blocked` serves all mechanisms and counts in the column of stalls.
    let sites: Vec<&SiteInfo> =
        SITES.iter().filter(|s| watches(s.mechanism, mechanism) && s.site != Site::Blocked).collect();
    if sites.is_empty() { [None, None, None] } else { cell(&sites, programs) }
}

/// `ls` needs no backend.
fn of_listing(mechanism: Mechanism) -> Cell {
    if listing::kind(mechanism.name()).is_some() { [(); 3].map(|()| Some(BTreeSet::new())) } else { [None, None, None] }
}

/// Text of a cell; adds the sites that need a footnote to `notes`.
fn words(cell: &Cell, notes: &mut BTreeSet<&'static str>) -> String {
    let mut alike: Vec<(Vec<&str>, String)> = Vec::new();
    for (backend, partial) in BACKENDS.iter().zip(cell) {
        let text = match partial {
            None => "–".to_owned(),
            Some(sites) if sites.is_empty() => "yes".to_owned(),
            Some(sites) => {
                notes.extend(sites);
                let marks: String = sites.iter().map(|s| format!("[^{s}]")).collect();
                format!("partly{marks}")
            }
        };
        match alike.iter_mut().find(|(_, other)| *other == text) {
            Some((backends, _)) => backends.push(backend.name()),
            None => alike.push((vec![backend.name()], text)),
        }
    }
    match alike.as_slice() {
        [(_, text)] => text.clone(),
        several => several.iter().map(|(b, text)| format!("{}: {text}", b.join(", "))).collect::<Vec<_>>().join("; "),
    }
}

fn generated() -> String {
    let programs = programs();
    let mut notes = BTreeSet::new();
    let heads = Column::ALL.map(Column::name);
    let mut out =
        format!("| mechanism | inventory | events | {} |\n|---|---|---|{}\n", heads.join(" | "), "---|".repeat(3));
    for mechanism in Mechanism::ALL {
        let findings = Column::ALL.iter().map(|column| of_findings(*mechanism, *column, &programs));
        let cells: Vec<String> = [of_listing(*mechanism), of_events(*mechanism, &programs)]
            .into_iter()
            .chain(findings)
            .map(|cell| words(&cell, &mut notes))
            .collect();
        out.push_str(&format!("| {} | {} |\n", mechanism.name(), cells.join(" | ")));
    }
    out.push('\n');
    for site in SITES.iter().filter(|s| notes.contains(s.name)) {
        out.push_str(&format!("[^{}]: `{}`: {}.\n", site.name, site.name, site.unseen));
    }
    let sleeping: Vec<String> = SITES
        .iter()
        .filter(|s| s.sleeps && attaches(s, Backend::Kprobe, &programs))
        .map(|s| format!("`{}`", s.name))
        .collect();
    out.push_str(&format!(
        "\nBefore 6.1 the kprobe backend falls back to tracepoint at these sites: {}.\n",
        sleeping.join(", ")
    ));
    out
}

#[test]
fn the_page_has_the_table_of_the_code() {
    let path = repository().join("docs/capabilities.md");
    let page = std::fs::read_to_string(&path).expect("docs/capabilities.md");
    let (before, rest) = page.split_once(BEGIN).expect("the line before the table in docs/capabilities.md");
    let (table, after) = rest.split_once(END).expect("the line after the table in docs/capabilities.md");
    let wanted = format!("\n{}\n", generated());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("write docs/capabilities.md");
    } else {
        assert!(
            table == wanted,
            "docs/capabilities.md does not match the tables of the code; rewrite it:\n\
             UPDATE_DOCS=1 cargo test -p tracer-user --test capability\n\n{wanted}"
        );
    }
}

#[test]
fn every_finding_has_a_column_and_its_sites() {
    let mut by_column: BTreeMap<Column, usize> = BTreeMap::new();
    for d in DETECTORS.iter().filter(|d| d.mechanism.is_some()) {
        *by_column.entry(d.family.column()).or_default() += 1;
    }
    assert_eq!(by_column.len(), Column::ALL.len(), "a column without a finding: {by_column:?}");
    let column = |code: &str| find(code).map(|d| d.family.column());
    assert_eq!((column("mq-full"), column("signal-queue-full")), (Some(Column::Stalls), Some(Column::Limits)));
}

#[test]
fn a_site_is_partial_where_its_backend_sees_less() {
    let programs = programs();
    let partial = |site: Site| BACKENDS.map(|b| is_partial(site.info(), b, &programs));
    assert_eq!(partial(Site::PipeWrite), [false, false, true]);
    // A kretprobe cannot tell the file: its site falls back, and what that leaves out holds.
    assert_eq!(partial(Site::FifoOpen), [false, true, true]);
    assert_eq!(partial(Site::Blocked), [true; 3]);
    assert_eq!(partial(Site::SemOp), [false; 3]);
}
