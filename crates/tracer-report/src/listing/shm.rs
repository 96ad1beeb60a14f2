//! System V shared memory segments.

use std::borrow::Cow;

use super::cell::Cell;
use super::ipc::identity;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, leftover, reach, users};
use tracer_record::ShmSegment;

pub(super) struct Shm;

impl Kind for Shm {
    type Row = ShmSegment;
    const NAME: &'static str = "shm";
    const ALIAS: &'static str = "shms";
    const HELP: &'static str = "System V shared memory segments";

    fn columns() -> Vec<Column<ShmSegment>> {
        let mut out = identity();
        out.extend([
            column::<ShmSegment>("size", Shows::Always, "bytes", |_, l| Cell::Number(l.row.size_bytes)),
            column::<ShmSegment>("nattch", Shows::Always, "current attachments: mappings, not processes", |_, l| {
                Cell::Number(l.row.nattch)
            }),
            column::<ShmSegment>(
                "status",
                Shows::Always,
                "dest: removed, and freed at the last detachment; locked: locked in memory",
                |_, l| {
                    let words = [(l.row.dest, "dest"), (l.row.locked, "locked")];
                    Cell::List(words.iter().filter(|(is, _)| *is).map(|(_, w)| Cell::text(*w)).collect())
                },
            ),
            column::<ShmSegment>("cpid", Shows::Always, "process that created it", |_, l| Cell::pid(l.row.cpid, true)),
            column::<ShmSegment>("lpid", Shows::Always, "last process that attached or detached", |_, l| {
                Cell::pid(l.row.lpid, l.row.atime.max(l.row.dtime) != 0)
            }),
            column::<ShmSegment>("atime", Shows::OnRequest, "last attachment", |_, l| Cell::Time(l.row.atime)),
            column::<ShmSegment>("dtime", Shows::OnRequest, "last detachment", |_, l| Cell::Time(l.row.dtime)),
            column::<ShmSegment>("ctime", Shows::Always, "creation or last change", |_, l| Cell::Time(l.row.ctime)),
        ]);
        out.extend(leftover());
        out.push(reach());
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, ShmSegment>> {
        model.facts.inventory.shm_segments.iter().map(|row| line(model, row)).collect()
    }
}

fn line<'a>(model: &Model<'a>, row: &'a ShmSegment) -> Line<'a, ShmSegment> {
    let touched_s = row.atime.max(row.dtime);
    let used_s = touched_s.max(row.ctime);
    let mut users = Vec::new();
    if row.cpid != 0 {
        // IPC_SET advances ctime, so a reused pid may pass for the creator; the error is that an orphan is not reported.
        users.push(model.user_at("creator", row.cpid, row.ctime));
    }
    users.extend(row.attached.iter().map(|p| model.user("attached", *p, None)));
    if row.lpid != 0 {
        users.push(model.user_at("last-op", row.lpid, touched_s));
    }
    let orphan = orphan(model, row, &users, used_s);
    let subject = Subject::sysv("shm", row.ns, row.id);
    Line { row: Cow::Borrowed(row), subject, users, orphan, used_s, uids: [row.uid, row.cuid] }
}

fn orphan(model: &Model<'_>, row: &ShmSegment, users: &[User], used_s: u64) -> Orphan {
    match row.cpid {
        _ if row.nattch > 0 || row.dest || users.iter().any(User::alive) => Orphan::No,
        0 => Orphan::Unknown,
        _ => model.abandoned(row.ns, [row.uid, row.cuid], used_s, true),
    }
}
