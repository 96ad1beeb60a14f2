//! POSIX message queues, semaphores and shared memory: names in kernel file systems.

use std::borrow::Cow;

use super::cell::Cell;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column, leftover, users};
use tracer_record::{PosixKind, PosixObject};

/// The three kinds differ in their names only.
macro_rules! kinds {
    ($($name:ident $kind:ident $word:literal $alias:literal $help:literal;)*) => { $(
        pub(super) struct $name;

        impl Kind for $name {
            type Row = PosixObject;
            const NAME: &'static str = $word;
            const ALIAS: &'static str = $alias;
            const HELP: &'static str = $help;

            fn columns() -> Vec<Column<PosixObject>> {
                columns(PosixKind::$kind)
            }

            fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, PosixObject>> {
                lines(model, PosixKind::$kind, $word)
            }

            fn collected(model: &Model<'_>) -> bool {
                !model.facts.posix_unlisted.contains(&PosixKind::$kind)
            }
        }
    )* };
}

kinds! {
    Mq Mq "mq" "mqs" "POSIX message queues (if their file system is mounted, or with CAP_SYS_ADMIN)";
    PosixSem Sem "posix-sem" "posix-sems" "POSIX named semaphores";
    PosixShm Shm "posix-shm" "posix-shms" "POSIX shared memory objects";
}

fn columns(kind: PosixKind) -> Vec<Column<PosixObject>> {
    let mut out = vec![column::<PosixObject>("name", Shows::Always, "name", |_, l| Cell::text(l.row.name.clone()))];
    if kind == PosixKind::Mq {
        out.extend(queue());
    } else {
        out.push(column::<PosixObject>("size", Shows::Always, "bytes", |_, l| Cell::Number(l.row.size_bytes)));
    }
    out.extend([
        column::<PosixObject>("owner", Shows::Always, "name of the owner", |m, l| m.owner(l.row.uid)),
        column::<PosixObject>("uid", Shows::OnRequest, "user id of the owner", |_, l| Cell::Number(l.row.uid.into())),
        column::<PosixObject>("gid", Shows::OnRequest, "group id", |_, l| Cell::Number(l.row.gid.into())),
        column::<PosixObject>("perms", Shows::Always, "permission bits, octal", |_, l| Cell::Mode(l.row.mode)),
        column::<PosixObject>(
            "mtime",
            Shows::OnRequest,
            "last change of the file; writes through a mapping do not count",
            |_, l| Cell::Time(l.row.mtime),
        ),
        column::<PosixObject>("open", Shows::OnRequest, "processes that have it open", |_, l| pids(&l.row, |h| h.open)),
        column::<PosixObject>("mapped", Shows::OnRequest, "processes that have it mapped", |_, l| {
            pids(&l.row, |h| h.mapped)
        }),
        column::<PosixObject>("path", Shows::OnRequest, "path in the file system", |_, l| {
            if l.row.path.is_empty() { Cell::Nothing } else { Cell::text(l.row.path.clone()) }
        }),
    ]);
    out.extend(leftover());
    out.extend(users());
    out
}

/// Columns that only queues have.
fn queue() -> Vec<Column<PosixObject>> {
    /// One of the three attributes of mq_getattr.
    fn attribute(row: &PosixObject, which: usize) -> Cell {
        let numbers = row.queue.and_then(|q| q.attributes);
        Cell::or_unknown(numbers.and_then(|n| n.get(which).copied()), Cell::Number)
    }
    vec![
        column::<PosixObject>("qsize", Shows::Always, "bytes in the queue", |_, l| {
            Cell::or_unknown(l.row.queue, |q| Cell::Number(q.bytes))
        }),
        column::<PosixObject>("messages", Shows::Always, "messages in the queue", |_, l| attribute(&l.row, 0)),
        column::<PosixObject>("max", Shows::Always, "maximum number of messages", |_, l| attribute(&l.row, 1)),
        column::<PosixObject>("max-size", Shows::OnRequest, "maximum bytes of one message", |_, l| {
            attribute(&l.row, 2)
        }),
        column::<PosixObject>("notify", Shows::OnRequest, "process that registered with mq_notify", |_, l| {
            let pid = l.row.queue.map(|q| q.notify_pid);
            Cell::or_unknown(pid, |p| if p == 0 { Cell::Nothing } else { Cell::Number(p.into()) })
        }),
    ]
}

fn pids(row: &PosixObject, does: fn(&tracer_record::PosixHolder) -> bool) -> Cell {
    Cell::List(row.holders.iter().filter(|h| does(h)).map(|h| Cell::Number(h.tgid.into())).collect())
}

fn lines<'a>(model: &Model<'a>, kind: PosixKind, word: &'static str) -> Vec<Line<'a, PosixObject>> {
    let rows = model.facts.posix.iter().filter(|o| o.kind == kind);
    rows.map(|row| {
        let role = |mapped| if mapped { "mapped" } else { "open" };
        let users: Vec<User> =
            row.holders.iter().map(|h| model.user(role(h.mapped), h.tgid, Some(h.start_ns))).collect();
        let orphan = match users.as_slice() {
            [_, ..] => Orphan::No,
            [] if row.complete => Orphan::Likely,
            [] => Orphan::Maybe,
        };
        let subject = Subject::named(word, &row.name);
        Line { row: Cow::Borrowed(row), subject, users, orphan, used_s: row.mtime, uids: [row.uid; 2] }
    })
    .collect()
}
