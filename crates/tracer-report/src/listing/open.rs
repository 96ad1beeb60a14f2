//! Pipes and eventfds: objects that exist while a process has them open.

use std::borrow::Cow;

use super::cell::Cell;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, users};
use tracer_record::Holder;
use tracer_record::listed::OpenObject;

pub(super) struct Pipe;

impl Kind for Pipe {
    type Row = OpenObject;
    const NAME: &'static str = "pipe";
    const ALIAS: &'static str = "pipes";
    const HELP: &'static str =
        "pipes (without FIFOs, which have a path: only a stat of foreign files would distinguish them)";

    fn columns() -> Vec<Column<OpenObject>> {
        let mut out = vec![
            column::<OpenObject>("inode", Shows::Always, "inode number, as in /proc/PID/fd", |_, l| {
                Cell::Number(l.row.id)
            }),
            column::<OpenObject>("writers", Shows::Always, "processes that have it open for writing", |_, l| {
                pids(&l.row, |h| h.writes)
            }),
            column::<OpenObject>("readers", Shows::Always, "processes that have it open for reading", |_, l| {
                pids(&l.row, |h| h.reads)
            }),
            column::<OpenObject>(
                "capacity",
                Shows::Always,
                "capacity in bytes; read by a BPF iterator, which needs root",
                |_, l| Cell::or_unknown(l.row.fill, |f| Cell::Number(f.capacity_bytes)),
            ),
            column::<OpenObject>("fill", Shows::Always, "bytes in it", |_, l| {
                Cell::or_unknown(l.row.fill, |f| Cell::Number(f.bytes))
            }),
            column::<OpenObject>(
                "slots",
                Shows::OnRequest,
                "slots in use; a pipe is full when all slots are in use",
                |_, l| Cell::or_unknown(l.row.fill, |f| Cell::text(format!("{}/{}", f.slots_used, f.slots))),
            ),
        ];
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, OpenObject>> {
        model.facts.open.pipes.iter().map(|row| line(model, "pipe", row)).collect()
    }
}

pub(super) struct Eventfd;

impl Kind for Eventfd {
    type Row = OpenObject;
    const NAME: &'static str = "eventfd";
    const ALIAS: &'static str = "eventfds";
    const HELP: &'static str = "eventfds";

    fn columns() -> Vec<Column<OpenObject>> {
        let mut out = vec![
            column::<OpenObject>("id", Shows::Always, "id, as in fdinfo (eventfd-id)", |_, l| Cell::Number(l.row.id)),
            column::<OpenObject>("counter", Shows::Always, "value", |_, l| {
                Cell::or_unknown(l.row.counter, Cell::Counter)
            }),
            column::<OpenObject>("holders", Shows::Always, "processes that have it open", |_, l| {
                Cell::List(l.row.holders.iter().map(|h| Cell::Number(h.tgid.into())).collect())
            }),
        ];
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, OpenObject>> {
        model.facts.open.eventfds.iter().map(|row| line(model, "eventfd", row)).collect()
    }
}

fn pids(row: &OpenObject, does: fn(&Holder) -> Option<bool>) -> Cell {
    Cell::List(row.holders.iter().filter(|h| does(h) == Some(true)).map(|h| Cell::Number(h.tgid.into())).collect())
}

fn line<'a>(model: &Model<'a>, kind: &'static str, row: &'a OpenObject) -> Line<'a, OpenObject> {
    let role = |h: &Holder| match (kind, h.reads, h.writes) {
        ("pipe", Some(true), Some(true)) => "reader-writer",
        ("pipe", Some(true), _) => "reader",
        ("pipe", _, Some(true)) => "writer",
        _ => "holder",
    };
    let users: Vec<User> = row.holders.iter().map(|h| model.user(role(h), h.tgid, Some(h.start_ns))).collect();
    let subject = Subject::new(kind, row.id);
    Line { row: Cow::Borrowed(row), subject, users, orphan: Orphan::No, used_s: 0, uids: [0; 2] }
}
