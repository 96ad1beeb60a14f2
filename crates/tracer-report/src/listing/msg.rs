//! System V message queues.

use std::borrow::Cow;

use super::cell::Cell;
use super::ipc::identity;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, leftover, reach, users};
use tracer_record::MsgQueue;

pub(super) struct Msg;

impl Kind for Msg {
    type Row = MsgQueue;
    const NAME: &'static str = "msg";
    const ALIAS: &'static str = "msgs";
    const HELP: &'static str = "System V message queues";

    fn columns() -> Vec<Column<MsgQueue>> {
        let mut out = identity();
        out.extend([
            column::<MsgQueue>("bytes", Shows::Always, "bytes in the queue", |_, l| Cell::Number(l.row.bytes)),
            column::<MsgQueue>("messages", Shows::Always, "messages in the queue", |_, l| Cell::Number(l.row.messages)),
            column::<MsgQueue>("qbytes", Shows::Always, "maximum bytes in the queue", |_, l| {
                Cell::Number(l.row.qbytes)
            }),
            column::<MsgQueue>("lspid", Shows::Always, "last process that sent", |_, l| {
                Cell::pid(l.row.lspid, l.row.stime != 0)
            }),
            column::<MsgQueue>("lrpid", Shows::Always, "last process that received", |_, l| {
                Cell::pid(l.row.lrpid, l.row.rtime != 0)
            }),
            column::<MsgQueue>("stime", Shows::OnRequest, "last send", |_, l| Cell::Time(l.row.stime)),
            column::<MsgQueue>("rtime", Shows::OnRequest, "last receive", |_, l| Cell::Time(l.row.rtime)),
            column::<MsgQueue>("ctime", Shows::Always, "creation or last change", |_, l| Cell::Time(l.row.ctime)),
        ]);
        out.extend(leftover());
        out.push(reach());
        out.extend(users());
        out
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, MsgQueue>> {
        model.facts.inventory.msg_queues.iter().map(|row| line(model, row)).collect()
    }
}

fn line<'a>(model: &Model<'a>, row: &'a MsgQueue) -> Line<'a, MsgQueue> {
    let used_s = row.stime.max(row.rtime).max(row.ctime);
    let mut users = Vec::new();
    if row.lspid != 0 {
        users.push(model.user_at("last-sender", row.lspid, row.stime));
    }
    if row.lrpid != 0 {
        users.push(model.user_at("last-receiver", row.lrpid, row.rtime));
    }
    users.extend(row.waiting.iter().map(|p| model.user("waiting", *p, None)));
    let orphan = orphan(model, row, &users, used_s);
    let subject = Subject::sysv("msg", row.ns, row.id);
    Line { row: Cow::Borrowed(row), subject, users, orphan, used_s, uids: [row.uid, row.cuid] }
}

/// The kernel does not record the creator of a queue, and waiters are known only from the system calls of processes.
fn orphan(model: &Model<'_>, row: &MsgQueue, users: &[User], used_s: u64) -> Orphan {
    match users {
        _ if users.iter().any(User::alive) => Orphan::No,
        [] if row.stime != 0 || row.rtime != 0 => Orphan::Unknown,
        // A process that could not be inspected may wait.
        _ if !row.waiting_complete => Orphan::Maybe,
        _ => model.abandoned(row.ns, [row.uid, row.cuid], used_s, !users.is_empty()),
    }
}
