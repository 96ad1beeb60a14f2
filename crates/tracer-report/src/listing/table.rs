//! Builds a table from the objects and columns of a kind.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::cell::Cell;
use super::model::{Model, Orphan, User};
use super::subject::Subject;

/// Whether a column is shown without `--columns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    Always,
    /// Only if a row has another value than our own (namespace), or any value (lists).
    Foreign,
    OnRequest,
}

/// The head of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The name in the header, in `--columns`, in `--sort` and in JSON.
    pub name: &'static str,
    pub help: &'static str,
    pub shows: Shows,
}

/// A column of rows of type `R`.
pub(super) struct Column<R: Clone> {
    pub(super) head: Head,
    pub(super) get: fn(&Model<'_>, &Line<'_, R>) -> Cell,
}

/// One object before its cells are computed.
pub(super) struct Line<'a, R: Clone> {
    pub(super) row: Cow<'a, R>,
    pub(super) subject: Subject,
    pub(super) users: Vec<User>,
    pub(super) orphan: Orphan,
    /// Last use or change, seconds since 1970; 0: unknown.
    pub(super) used_s: u64,
    /// User ids of owner and creator.
    pub(super) uids: [u32; 2],
}

/// A kind of object: its names, its columns, and its objects in the model.
pub(super) trait Kind {
    type Row: Clone;
    const NAME: &'static str;
    const ALIAS: &'static str;
    const HELP: &'static str;
    fn columns() -> Vec<Column<Self::Row>>;
    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, Self::Row>>;
    /// False if the objects could not be listed; the table is then unknown, not empty.
    fn collected(_model: &Model<'_>) -> bool {
        true
    }
}

/// Selects rows and columns of a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// These columns, in this order; names that this kind lacks are ignored.
    pub columns: Option<&'a [String]>,
    /// All columns, not only those that are shown always.
    pub everything: bool,
    /// A column, and whether the order is reversed.
    pub sort: Option<(&'a str, bool)>,
    /// Only objects that may be orphans.
    pub orphans: bool,
    /// Only objects that these processes use.
    pub pids: &'a [u32],
    /// Only System V objects of this IPC namespace; other kinds are not filtered.
    pub ns: Option<u32>,
    /// Only this object.
    pub subject: Option<&'a Subject>,
}

/// A finished table.
#[derive(Clone, Debug)]
pub struct Table {
    pub kind: &'static str,
    pub heads: Vec<Head>,
    pub rows: Vec<Row>,
    /// False if the objects could not be listed.
    pub collected: bool,
}

/// A finished row.
#[derive(Clone, Debug)]
pub struct Row {
    pub subject: Subject,
    pub orphan: Orphan,
    pub users: Vec<User>,
    /// Last use or change, seconds since 1970; 0: unknown.
    pub used_s: u64,
    pub cells: Vec<Cell>,
}

impl Table {
    /// The value of a column in a row.
    pub fn value<'a>(&self, row: &'a Row, name: &str) -> Option<&'a Cell> {
        let at = self.heads.iter().position(|h| h.name == name)?;
        row.cells.get(at)
    }
}

pub(super) fn heads<K: Kind>() -> Vec<Head> {
    K::columns().iter().map(|c| c.head).collect()
}

pub(super) fn table<K: Kind>(model: &Model<'_>, query: &Query<'_>) -> Table {
    let mut lines = K::lines(model);
    lines.retain(|l| matches(model, query, l));
    let columns = K::columns();
    if let Some((name, reversed)) = query.sort
        && let Some(column) = columns.iter().find(|c| c.head.name == name)
    {
        let mut keyed: Vec<_> = lines.into_iter().map(|l| ((column.get)(model, &l), l)).collect();
        keyed.sort_by(
            |(a, _), (b, _)| {
                if reversed && !a.is_absent() && !b.is_absent() { b.order(a) } else { a.order(b) }
            },
        );
        lines = keyed.into_iter().map(|(_, l)| l).collect();
    }
    let chosen: Vec<&Column<K::Row>> = match query.columns {
        Some(names) => names.iter().filter_map(|n| columns.iter().find(|c| c.head.name == n)).collect(),
        None => columns
            .iter()
            .filter(|c| match c.head.shows {
                _ if query.everything => true,
                Shows::Always => true,
                Shows::Foreign => lines.iter().any(|l| foreign(model, &(c.get)(model, l))),
                Shows::OnRequest => false,
            })
            .collect(),
    };
    let rows = lines
        .iter()
        .map(|l| Row {
            subject: l.subject.clone(),
            orphan: l.orphan,
            users: l.users.clone(),
            used_s: l.used_s,
            cells: chosen.iter().map(|c| (c.get)(model, l)).collect(),
        })
        .collect();
    Table { kind: K::NAME, heads: chosen.iter().map(|c| c.head).collect(), rows, collected: K::collected(model) }
}

fn matches<R: Clone>(model: &Model<'_>, query: &Query<'_>, line: &Line<'_, R>) -> bool {
    (!query.orphans || line.orphan >= Orphan::Maybe)
        && (query.pids.is_empty() || line.users.iter().any(|u| u.alive() && u.holds() && query.pids.contains(&u.pid)))
        && query.ns.is_none_or(|ns| line.subject.ns.is_none_or(|own| own == ns))
        && query.subject.is_none_or(|s| s.means(&line.subject, model.facts.own_ns))
}

/// Whether a value differs from our own namespace, or is a list with elements.
fn foreign(model: &Model<'_>, cell: &Cell) -> bool {
    match cell {
        Cell::Number(ns) => model.facts.own_ns.is_some_and(|own| u64::from(own) != *ns),
        Cell::List(all) => !all.is_empty(),
        Cell::Unknown | Cell::Nothing => false,
        Cell::Text(_)
        | Cell::Signed(_)
        | Cell::Counter(_)
        | Cell::Flag(_)
        | Cell::Mode(_)
        | Cell::Key(_)
        | Cell::Time(_)
        | Cell::Seconds(_) => true,
    }
}

/// Builds a column.
pub(super) fn column<R: Clone>(
    name: &'static str,
    shows: Shows,
    help: &'static str,
    get: fn(&Model<'_>, &Line<'_, R>) -> Cell,
) -> Column<R> {
    Column { head: Head { name, help, shows }, get }
}

/// The last columns of every kind of object.
pub(super) fn users<R: Clone>() -> Vec<Column<R>> {
    vec![
        column("users", Shows::Always, "processes that use or used it, living or dead", |m, l| {
            let mut seen = BTreeSet::new();
            Cell::List(l.users.iter().filter(|u| seen.insert(u.pid)).map(|u| Cell::Text(m.describe(u))).collect())
        }),
        column(
            "container",
            Shows::Foreign,
            "containers of its living users (12 digits or the name, from the cgroup path)",
            |m, l| distinct(l.users.iter().filter_map(|u| m.process(u)).filter_map(Model::container_of)),
        ),
        column("pod", Shows::Foreign, "pods of its living users (from the cgroup path)", |m, l| {
            distinct(l.users.iter().filter_map(|u| m.process(u)).filter_map(Model::pod_of))
        }),
        column("unit", Shows::Foreign, "systemd units of its living users (from the cgroup path)", |m, l| {
            distinct(l.users.iter().filter_map(|u| m.process(u)).filter_map(Model::unit_of))
        }),
    ]
}

/// The columns of objects that can become orphans.
pub(super) fn leftover<R: Clone>() -> Vec<Column<R>> {
    vec![
        column("idle", Shows::Always, "time since its last use or change", |m, l| m.since(l.used_s)),
        column(
            "orphan",
            Shows::Always,
            "likely: its users are dead, no process has it attached or open or waits at it, and it was idle for a minute or no running process could use it; maybe: a running process could use it, or some processes could not be inspected",
            |_, l| l.orphan.cell(),
        ),
    ]
}

/// The column that only System V objects have: the number of other processes that could use them.
pub(super) fn reach<R: Clone>() -> Column<R> {
    column(
        "could-use",
        Shows::OnRequest,
        "living processes of its owner or creator, in its namespace, that already ran when it was last used",
        |m, l| Cell::or_unknown(l.subject.ns, |ns| Cell::Number(m.could_use(ns, l.uids, l.used_s))),
    )
}

fn distinct(words: impl Iterator<Item = String>) -> Cell {
    Cell::List(words.collect::<BTreeSet<_>>().into_iter().map(Cell::Text).collect())
}
