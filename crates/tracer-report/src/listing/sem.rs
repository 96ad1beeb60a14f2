//! System V semaphore sets.

use std::borrow::Cow;

use super::cell::Cell;
use super::ipc::identity;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, leftover, reach, users};
use tracer_record::{SemSetRow, SemValue};

pub(super) struct Sem;

impl Kind for Sem {
    type Row = SemSetRow;
    const NAME: &'static str = "sem";
    const ALIAS: &'static str = "sems";
    const HELP: &'static str = "System V semaphore sets";

    fn columns() -> Vec<Column<SemSetRow>> {
        let mut out = identity();
        out.extend([
            column::<SemSetRow>("nsems", Shows::Always, "semaphores in the set", |_, l| {
                Cell::Number(l.row.nsems.into())
            }),
            column::<SemSetRow>("values", Shows::OnRequest, "values of the semaphores", |_, l| {
                each(&l.row, |v| v.value)
            }),
            column::<SemSetRow>("ncnt", Shows::Always, "threads that wait for a higher value", |_, l| {
                total(&l.row, |v| v.ncnt)
            }),
            column::<SemSetRow>("zcnt", Shows::Always, "threads that wait for 0", |_, l| total(&l.row, |v| v.zcnt)),
            column::<SemSetRow>(
                "last-pids",
                Shows::OnRequest,
                "last process that operated on each semaphore",
                |_, l| each(&l.row, |v| v.pid),
            ),
            column::<SemSetRow>("otime", Shows::OnRequest, "last semop", |_, l| Cell::Time(l.row.otime)),
            column::<SemSetRow>("ctime", Shows::Always, "creation or last change", |_, l| Cell::Time(l.row.ctime)),
        ]);
        out.extend(leftover());
        out.push(reach());
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, SemSetRow>> {
        model.facts.inventory.sem_sets.iter().map(|row| line(model, row)).collect()
    }
}

fn line<'a>(model: &Model<'a>, row: &'a SemSetRow) -> Line<'a, SemSetRow> {
    let used_s = row.otime.max(row.ctime);
    let mut users: Vec<User> = Vec::new();
    for v in row.values.iter().filter(|v| v.pid != 0) {
        if users.iter().all(|u| u.pid != v.pid) {
            users.push(model.user_at("last-op", v.pid, used_s));
        }
    }
    let orphan = orphan(model, row, &users, used_s);
    let subject = Subject::sysv("sem", row.ns, row.id);
    Line { row: Cow::Borrowed(row), subject, users, orphan, used_s, uids: [row.uid, row.cuid] }
}

/// The kernel does not record the creator of a set, so only last operations and waiters count.
fn orphan(model: &Model<'_>, row: &SemSetRow, users: &[User], used_s: u64) -> Orphan {
    let unread = row.values.is_empty() && row.nsems != 0;
    let waits = row.values.iter().any(|v| v.ncnt > 0 || v.zcnt > 0);
    match users {
        _ if unread => Orphan::Unknown,
        _ if waits || users.iter().any(User::alive) => Orphan::No,
        // An operation of a process that is not visible from here leaves a time but no pid.
        [] if row.otime != 0 => Orphan::Unknown,
        _ => model.abandoned(row.ns, [row.uid, row.cuid], used_s, !users.is_empty()),
    }
}

fn each(row: &SemSetRow, value: fn(&SemValue) -> u32) -> Cell {
    if row.values.is_empty() && row.nsems != 0 {
        return Cell::Unknown;
    }
    Cell::List(row.values.iter().map(|v| Cell::Number(value(v).into())).collect())
}

fn total(row: &SemSetRow, value: fn(&SemValue) -> u32) -> Cell {
    if row.values.is_empty() && row.nsems != 0 {
        return Cell::Unknown;
    }
    Cell::Number(row.values.iter().map(|v| u64::from(value(v))).sum())
}
