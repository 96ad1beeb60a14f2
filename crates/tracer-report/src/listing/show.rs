//! All facts about one object or one process: the model of `show`.

use std::collections::BTreeMap;

use super::cell::Cell;
use super::ftok::{Key, hint};
use super::model::{Model, User};
use super::subject::{Id, Subject};
use super::table::{Query, Row, Table};
use super::{Head, KINDS, Shows, kind};
use tracer_record::ProcessRow;
use tracer_record::listed::FileRef;

/// One object with related tables.
#[derive(Clone, Debug)]
pub struct Shown {
    pub subject: Subject,
    /// Names and values.
    pub facts: Vec<(&'static str, Cell)>,
    /// Related tables: users, semaphores; for a process the objects that it uses.
    pub tables: Vec<Table>,
}

/// Facts that only `show` reads.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Files that the living users have open or mapped, their working directories and programs.
    pub files: Vec<FileRef>,
    /// Package of each program, by pid. `None`: it belongs to no package; no entry: unknown.
    pub packages: BTreeMap<u32, Option<String>>,
}

/// All facts about `subject`; `None` if there is no such object.
pub fn show(model: &Model<'_>, subject: &Subject, around: &Surroundings) -> Option<Shown> {
    if subject.kind == "pid" {
        return process(model, subject, around);
    }
    let query = Query { everything: true, subject: Some(subject), ..Query::default() };
    let table = (kind(subject.kind)?.table)(model, &query);
    let row = table.rows.first()?;
    let mut facts: Vec<(&'static str, Cell)> =
        table.heads.iter().map(|h| h.name).zip(row.cells.iter().cloned()).collect();
    facts.retain(|(name, _)| !matches!(*name, "users" | "container" | "pod" | "unit" | "values" | "last-pids"));
    if let Some(Cell::Key(key)) = table.value(row, "key") {
        facts.extend(origin(*key, &around.files));
    }
    let mut tables = vec![users(model, &row.users, around)];
    tables.extend(semaphores(model, row));
    Some(Shown { subject: row.subject.clone(), facts, tables })
}

/// Files that the key may come from.
fn origin(key: i32, files: &[FileRef]) -> Vec<(&'static str, Cell)> {
    let Some(parts) = Key::of(key) else { return Vec::new() };
    let mut out = vec![("key-hint", Cell::Text(hint(parts)))];
    let mut paths: Vec<&str> =
        files.iter().filter(|f| parts.fits(f.dev_minor.into(), f.ino)).map(|f| f.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    out.push(("key-paths", Cell::List(paths.into_iter().map(Cell::text).collect())));
    out
}

fn heads(names: &[&'static str]) -> Vec<Head> {
    names.iter().map(|name| Head { name, help: "", shows: Shows::Always }).collect()
}

fn line(subject: Subject, cells: Vec<Cell>) -> Row {
    Row { subject, orphan: super::Orphan::No, users: Vec::new(), used_s: 0, cells }
}

/// The package of a process's program.
fn package(pid: u32, around: &Surroundings) -> Cell {
    match around.packages.get(&pid) {
        Some(Some(name)) => Cell::text(name.clone()),
        Some(None) => Cell::Nothing,
        None => Cell::Unknown,
    }
}

fn users(model: &Model<'_>, users: &[User], around: &Surroundings) -> Table {
    let rows = users.iter().map(|u| {
        let p = model.process(u);
        let text = |t: Option<String>| Cell::or_unknown(t, Cell::Text);
        let cells = vec![
            Cell::text(u.role),
            Cell::Number(u.pid.into()),
            Cell::Flag(u.alive()),
            text(p.map(|p| p.comm.clone())),
            p.map_or(Cell::Unknown, |p| model.owner(p.uid)),
            Cell::or_unknown(p, |p| Cell::Time(model.started_s(p))),
            Cell::or_unknown(p.and_then(|p| p.ns_pid), |n| Cell::Number(n.into())),
            text(p.and_then(Model::container_of)),
            text(p.and_then(Model::pod_of)),
            text(p.and_then(Model::unit_of)),
            if u.alive() { package(u.pid, around) } else { Cell::Unknown },
            text(p.and_then(|p| p.exe.clone())),
        ];
        line(Subject::new("pid", u.pid.into()), cells)
    });
    let names =
        ["role", "pid", "alive", "comm", "user", "start", "ns-pid", "container", "pod", "unit", "package", "exe"];
    Table { kind: "users", heads: heads(&names), rows: rows.collect(), collected: true }
}

fn semaphores(model: &Model<'_>, row: &Row) -> Option<Table> {
    let Id::Number(id) = row.subject.id else { return None };
    let set =
        model.facts.inventory.sem_sets.iter().find(|s| {
            row.subject.kind == "sem" && Some(s.ns) == row.subject.ns && u64::from(s.id.cast_unsigned()) == id
        })?;
    let rows = set.values.iter().zip(0_u64..).map(|(v, num)| {
        let user = row.users.iter().find(|u| u.pid == v.pid);
        let cells = vec![
            Cell::Number(num),
            Cell::Number(v.value.into()),
            Cell::Number(v.ncnt.into()),
            Cell::Number(v.zcnt.into()),
            Cell::or_unknown((v.pid != 0).then_some(v.pid), |p| Cell::Number(p.into())),
            Cell::or_unknown(user, |u| Cell::Text(model.describe(u))),
        ];
        line(row.subject.clone(), cells)
    });
    let rows = rows.collect();
    Some(Table {
        kind: "semaphores",
        heads: heads(&["num", "value", "ncnt", "zcnt", "last-pid", "last-op"]),
        rows,
        collected: true,
    })
}

fn process(model: &Model<'_>, subject: &Subject, around: &Surroundings) -> Option<Shown> {
    let Id::Number(pid) = subject.id else { return None };
    let p = model.facts.inventory.processes.iter().find(|p| u64::from(p.tgid) == pid)?;
    let pids = [p.tgid];
    let query = Query { pids: &pids, ..Query::default() };
    let tables = KINDS.iter().map(|k| (k.table)(model, &query)).filter(|t| !t.rows.is_empty()).collect();
    Some(Shown { subject: subject.clone(), facts: facts_of(model, p, around), tables })
}

fn facts_of(model: &Model<'_>, p: &ProcessRow, around: &Surroundings) -> Vec<(&'static str, Cell)> {
    let number = |n: Option<u32>| Cell::or_unknown(n, |n| Cell::Number(n.into()));
    let text = |t: Option<String>| Cell::or_unknown(t, Cell::Text);
    vec![
        ("pid", Cell::Number(p.tgid.into())),
        ("comm", Cell::text(p.comm.clone())),
        ("state", Cell::text(p.state.to_string())),
        ("parent", Cell::Number(p.ppid.into())),
        ("user", model.owner(p.uid)),
        ("start", Cell::Time(model.started_s(p))),
        ("exe", text(p.exe.clone())),
        ("package", package(p.tgid, around)),
        // Known only if the process is in another pid namespace.
        ("ns-pid", number(p.ns_pid)),
        ("ipc-ns", number(p.ipc_ns)),
        ("pid-ns", number(p.pid_ns)),
        ("container", text(Model::container_of(p))),
        ("pod", text(Model::pod_of(p))),
        ("unit", text(Model::unit_of(p))),
        ("cgroup", text(p.cgroup.clone())),
        ("syscall", Cell::or_unknown(p.syscall, Cell::Signed)),
        ("nofile", Cell::or_unknown(p.nofile_soft, Cell::Number)),
    ]
}
