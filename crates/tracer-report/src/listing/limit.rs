//! The limits on IPC objects, with their usage.

use std::borrow::Cow;

use super::cell::Cell;
use super::model::{Model, Orphan, User};
use super::subject::Subject;
use super::table::{Column, Kind, Line, Shows, column};

pub(super) struct Limits;

/// One limit.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    name: &'static str,
    what: &'static str,
    /// IPC namespace; `None` for limits of the host or of a process.
    ns: Option<u32>,
    pid: Option<u32>,
    used: Option<u64>,
    max: Option<u64>,
}

impl Kind for Limits {
    type Row = Limit;
    const NAME: &'static str = "limits";
    const ALIAS: &'static str = "limit";
    const HELP: &'static str = "limits and their usage";

    fn columns() -> Vec<Column<Limit>> {
        vec![
            column::<Limit>("limit", Shows::Always, "name", |_, l| Cell::text(l.row.name)),
            column::<Limit>(
                "ns",
                Shows::Foreign,
                "inode number of its IPC namespace; none for limits of the host or of a process",
                |_, l| Cell::or_none(l.row.ns, |n| Cell::Number(n.into())),
            ),
            column::<Limit>("pid", Shows::Foreign, "process that has this limit, with -p", |_, l| {
                Cell::or_none(l.row.pid, |p| Cell::Number(p.into()))
            }),
            column::<Limit>(
                "used",
                Shows::Always,
                "in use now; for a limit on one object, the largest object",
                |_, l| Cell::or_unknown(l.row.used, Cell::Number),
            ),
            column::<Limit>("max", Shows::Always, "maximum", |_, l| Cell::or_unknown(l.row.max, Cell::Number)),
            column::<Limit>("percent", Shows::Always, "used / max", |_, l| {
                let share = l.row.used.zip(l.row.max.filter(|m| *m > 0));
                Cell::or_unknown(share, |(used, max)| {
                    Cell::Number(u64::try_from(u128::from(used) * 100 / u128::from(max)).unwrap_or(u64::MAX))
                })
            }),
            column::<Limit>("what", Shows::Always, "what it limits", |_, l| Cell::text(l.row.what)),
        ]
    }

    fn lines<'a>(model: &Model<'a>) -> Vec<Line<'a, Limit>> {
        let rows = of_processes(model).into_iter().chain(of_namespaces(model)).chain(of_the_host(model));
        rows.map(|row| {
            let mut subject = Subject::named("limits", row.name);
            subject.ns = row.ns;
            let row = Cow::Owned(row);
            let users = bound(model, &row);
            Line { row, subject, users, orphan: Orphan::No, used_s: 0, uids: [0; 2] }
        })
        .collect()
    }
}

/// The requested processes to which a limit applies.
fn bound(model: &Model<'_>, limit: &Limit) -> Vec<User> {
    let asked = model.facts.asked.iter().map(|(pid, _)| model.user("bound", *pid, None));
    asked
        .filter(|u| limit.pid.is_none_or(|pid| u.pid == pid))
        .filter(|u| limit.ns.is_none() || model.process(u).and_then(|p| p.ipc_ns) == limit.ns)
        .collect()
}

fn of_processes(model: &Model<'_>) -> Vec<Limit> {
    let words = |name: &str| match name {
        "RLIMIT_NOFILE" => Some(("RLIMIT_NOFILE", "descriptors of the process")),
        "RLIMIT_SIGPENDING" => Some(("RLIMIT_SIGPENDING", "queued signals of its user")),
        "RLIMIT_NPROC" => Some(("RLIMIT_NPROC", "processes and threads of its user")),
        "pids.max" => Some(("pids.max", "processes and threads of its cgroup, or of a parent cgroup")),
        _ => None,
    };
    let all = model.facts.asked.iter().flat_map(|(pid, rows)| rows.iter().map(move |r| (*pid, r)));
    all.filter_map(|(pid, r)| {
        let (name, what) = words(&r.name)?;
        Some(Limit { name, what, ns: None, pid: Some(pid), used: Some(r.used), max: Some(r.max) })
    })
    .collect()
}

fn of_namespaces(model: &Model<'_>) -> Vec<Limit> {
    let inv = &model.facts.inventory;
    let mut out = Vec::new();
    for l in &inv.sem_limits {
        let largest = inv.sem_sets.iter().filter(|s| s.ns == l.ns).map(|s| u64::from(s.nsems)).max().unwrap_or(0);
        let row = |name, used, max, what| Limit { name, what, ns: Some(l.ns), pid: None, used, max: Some(max) };
        out.extend([
            row("SEMMNI", Some(l.used_sets), l.semmni, "semaphore sets"),
            row("SEMMNS", Some(l.used_sems), l.semmns, "semaphores in all sets"),
            row("SEMMSL", Some(largest), l.semmsl, "semaphores in one set"),
            row("SEMOPM", None, l.semopm, "operations in one semop call"),
        ]);
    }
    for l in &inv.shm_limits {
        let largest = inv.shm_segments.iter().filter(|s| s.ns == l.ns).map(|s| s.size_bytes).max().unwrap_or(0);
        let row = |name, used, max, what| Limit { name, what, ns: Some(l.ns), pid: None, used, max: Some(max) };
        out.extend([
            row("SHMMNI", Some(l.used_segments), l.shmmni, "shared memory segments"),
            row("SHMMAX", Some(largest), l.shmmax, "bytes of one segment"),
            row("SHMALL", Some(l.used_pages), l.shmall, "pages of all segments"),
        ]);
    }
    for l in &inv.msg_limits {
        let fullest = inv.msg_queues.iter().filter(|q| q.ns == l.ns).map(|q| q.bytes).max().unwrap_or(0);
        let row = |name, used, max, what| Limit { name, what, ns: Some(l.ns), pid: None, used, max: Some(max) };
        out.extend([
            row("MSGMNI", Some(l.used_queues), l.msgmni, "message queues"),
            row("MSGMAX", None, l.msgmax, "bytes of one message"),
            row("MSGMNB", Some(fullest), l.msgmnb, "bytes in one queue, unless the queue has its own limit"),
        ]);
    }
    out
}

fn of_the_host(model: &Model<'_>) -> Vec<Limit> {
    let s = &model.facts.inventory.system;
    let threads = model.facts.threads;
    let row =
        |name, used, max: u64, what| Limit { name, what, ns: None, pid: None, used, max: (max > 0).then_some(max) };
    let files = model.facts.open_files.as_ref();
    vec![
        row("pid_max", threads, s.pid_max, "processes and threads, by their pids"),
        row("threads-max", threads, s.threads_max, "threads"),
        row("file-max", files.map(|l| l.used), files.map_or(0, |l| l.max), "open files"),
        row("pipe-max-size", None, s.pipe_max_size, "bytes of one pipe, for users without privileges"),
        row(
            "pipe-user-pages-soft",
            None,
            s.pipe_user_pages_soft,
            "pipe pages of one user; beyond it new pipes are small",
        ),
    ]
}
