//! Finds descriptors of files that another process opened.
//!
//! A file keeps the credentials of its opener (`file.f_cred`), and no two processes share credentials: each fork and exec
//! creates new ones (`copy_creds`, `prepare_exec_creds`, kernel/cred.c). A file with the credentials of another living
//! process was therefore opened there, and arrived by fork, SCM_RIGHTS or pidfd_getfd. A file inherited by fork has the
//! same number in both processes, and is left out.
//! If the opener exited or called exec since, its file looks like one that the process opened itself before an exec or a
//! setuid.

use std::collections::{BTreeMap, HashMap};
use std::io;

use tracer_common::row::FileRow;

use super::entry::Entry;
use super::fd::Table;
use tracer_record::{ObjKey, ProcessRow, ReceivedFdsRow};

/// At most this many descriptors are read.
const FILES_MAX: usize = 4_000_000;
/// A process with fewer received descriptors has no rows.
const LEAST: usize = 8;
/// At most this many rows of one process, those with the most descriptors first; and the number of them with a link.
const ROWS_MAX: usize = 64;
const LINKS_MAX: usize = 8;
/// At most this many generations are followed from child to parent.
const GENERATIONS_MAX: usize = 64;

/// Collects the rows of all open files, for the baseline.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    /// Which process holds which file at which number.
    open: Vec<(u64, u32, u32)>,
    foreign: Vec<Foreign>,
    /// Processes by their present credentials.
    openers: HashMap<u64, (u32, u64)>,
    pub(super) left_out: u64,
}

#[derive(Debug)]
struct Foreign {
    file: u64,
    cred: u64,
    tgid: u32,
    start_ns: u64,
    fd: u32,
    obj: ObjKey,
}

impl Gatherer {
    /// Takes one row; `wanted`: its process is in the scope.
    pub(super) fn add(&mut self, row: &FileRow, wanted: bool) {
        if self.open.len() >= FILES_MAX {
            self.left_out += 1;
            return;
        }
        self.open.push((row.file, row.fd, row.tgid));
        self.openers.insert(row.own_cred, (row.tgid, row.start_ns));
        if wanted && row.cred != row.own_cred {
            let FileRow { file, cred, tgid, start_ns, fd, obj, .. } = *row;
            self.foreign.push(Foreign { file, cred, tgid, start_ns, fd, obj: obj.into() });
        }
    }

    /// One row for each process, opener and object; links are not yet read.
    pub(super) fn rows(mut self, processes: &[ProcessRow]) -> Vec<ReceivedFdsRow> {
        self.open.sort_unstable();
        let parents: HashMap<u32, u32> = processes.iter().map(|p| (p.tgid, p.ppid)).collect();
        let mut by_process: HashMap<u32, BTreeMap<(u32, ObjKey), ReceivedFdsRow>> = HashMap::new();
        for f in &self.foreign {
            let Some((opener, opener_start_ns)) = self.openers.get(&f.cred).copied() else { continue };
            let from_ancestor = is_ancestor(&parents, opener, f.tgid);
            if opener == f.tgid || self.inherited(&parents, f, (opener, opener_start_ns), from_ancestor) {
                continue;
            }
            let row = by_process.entry(f.tgid).or_default().entry((opener, f.obj)).or_insert_with(|| ReceivedFdsRow {
                tgid: f.tgid,
                start_ns: f.start_ns,
                opener,
                opener_start_ns,
                from_ancestor,
                obj: f.obj,
                fds: 0,
                fd: f.fd,
                link: None,
            });
            row.fds += 1;
            row.fd = row.fd.min(f.fd);
        }
        let mut out = Vec::new();
        for rows in by_process.into_values() {
            let mut rows: Vec<ReceivedFdsRow> = rows.into_values().collect();
            if rows.iter().map(|r| r.fds as usize).sum::<usize>() >= LEAST {
                rows.sort_by_key(|r| (std::cmp::Reverse(r.fds), r.opener, r.fd));
                rows.truncate(ROWS_MAX);
                out.extend(rows);
            }
        }
        out.sort_by_key(|r| (r.tgid, std::cmp::Reverse(r.fds), r.opener, r.fd));
        out
    }

    /// Whether a parent or sibling holds the same file at the same number: then fork passed it on.
    fn inherited(&self, parents: &HashMap<u32, u32>, f: &Foreign, opener: (u32, u64), from_ancestor: bool) -> bool {
        let from = self.open.partition_point(|o| (o.0, o.1) < (f.file, f.fd));
        let same = self.open.get(from..).unwrap_or_default().iter();
        let mut holders = same.take_while(|o| (o.0, o.1) == (f.file, f.fd)).map(|o| o.2).filter(|pid| *pid != f.tgid);
        let parent = parents.get(&f.tgid).copied().filter(|p| *p > 1);
        holders.any(|pid| {
            let sibling = parent.is_some() && parents.get(&pid).copied() == parent;
            // A process whose parent exited may have been a child of any older opener.
            let maybe_parent = pid == opener.0 && (from_ancestor || parent.is_none() && opener.1 <= f.start_ns);
            sibling || maybe_parent || is_ancestor(parents, pid, f.tgid)
        })
    }
}

/// Whether `pid` is a parent, or a parent's parent, of `of`; pid 1 adopts orphans, and does not count.
fn is_ancestor(parents: &HashMap<u32, u32>, pid: u32, of: u32) -> bool {
    let up = |at: &u32| parents.get(at).copied().filter(|p| *p > 1);
    std::iter::successors(up(&of), up).take(GENERATIONS_MAX).any(|p| p == pid)
}

/// Reads the links of the first rows of each process.
pub(super) fn read_links(rows: &mut [ReceivedFdsRow]) {
    for rows in rows.chunk_by_mut(|a, b| a.tgid == b.tgid) {
        let Some(first) = rows.first() else { continue };
        let Ok(table) = Entry::open(first.tgid).and_then(|entry| Table::of(&entry)) else { continue };
        for row in rows.iter_mut().take(LINKS_MAX) {
            row.link = table.link(row.fd).ok();
        }
    }
}

/// A function that iterates over all open files and calls its argument with each row.
pub type Files<'a> = &'a mut dyn FnMut(&mut dyn FnMut(FileRow)) -> io::Result<()>;

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::map::{ObjRef, kind};

    const FILE: ObjRef = ObjRef { kind: kind::FILE, ns: 1, id: 9 };

    fn process(tgid: u32, ppid: u32) -> ProcessRow {
        ProcessRow { tgid, ppid, ..ProcessRow::default() }
    }

    /// (process, its start, number, file, credentials of the file); credentials of a process are its pid.
    fn rows(all: &[(u32, u64, u32, u64, u64)], processes: &[ProcessRow]) -> Vec<ReceivedFdsRow> {
        let mut g = Gatherer::default();
        for (tgid, start_ns, fd, file, cred) in all.iter().copied() {
            let own_cred = tgid.into();
            g.add(&FileRow { file, cred, own_cred, start_ns, obj: FILE, tgid, fd, ..FileRow::default() }, true);
        }
        g.rows(processes)
    }

    #[test]
    fn what_another_process_opened_and_fork_did_not_hand_on() {
        let family = [process(10, 1), process(20, 10), process(21, 10), process(30, 1)];
        // Each has one of its own, so that its credentials are known.
        let own = [(10, 5, 99, 1000, 10), (20, 7, 99, 1001, 20), (21, 8, 99, 1002, 21), (30, 6, 99, 1003, 30)];
        let nine = |of: &dyn Fn(u32) -> Vec<(u32, u64, u32, u64, u64)>| {
            let mut all = own.to_vec();
            all.extend((3..12).flat_map(of));
            rows(&all, &family)
                .into_iter()
                .map(|r| (r.tgid, r.opener, r.from_ancestor, r.fds, r.fd))
                .collect::<Vec<_>>()
        };
        let file = |fd: u32| u64::from(fd) + 100;
        assert_eq!(nine(&|fd| vec![(20, 7, fd, file(fd), 30)]), [(20, 30, false, 9, 3)], "received from a stranger");
        assert_eq!(nine(&|fd| vec![(20, 7, fd, file(fd), 10)]), [(20, 10, true, 9, 3)], "from the parent");
        assert_eq!(nine(&|fd| vec![(20, 7, fd, file(fd), 10), (10, 5, fd, file(fd), 10)]), [], "inherited");
        assert_eq!(nine(&|fd| vec![(20, 7, fd, file(fd), 10), (21, 8, fd, file(fd), 10)]), [], "by siblings");
        let other_number = |fd| vec![(20, 7, fd, file(fd), 10), (10, 5, fd + 50, file(fd), 10)];
        assert_eq!(nine(&other_number), [(20, 10, true, 9, 3)], "the sender keeps its own");
        assert_eq!(nine(&|fd| vec![(20, 7, fd, file(fd), 777)]), [], "of a process that is gone");
        assert_eq!(nine(&|fd| vec![(20, 7, fd, file(fd), 20)]), [], "its own");
        let both = |fd| vec![(30, 6, fd, file(fd), 10), (10, 5, fd, file(fd), 10)];
        assert_eq!(nine(&both), [], "of an adopted child of an older process, perhaps");
        let both = |fd| vec![(20, 7, fd, file(fd), 30), (30, 6, fd, file(fd), 30)];
        assert_eq!(nine(&both), [(20, 30, false, 9, 3)], "from a stranger with the same numbers");
    }

    #[test]
    fn a_few_are_no_rows() {
        let all: Vec<_> = (0..7).map(|fd| (20, 7, fd, u64::from(fd), 30)).chain([(30, 6, 1, 55, 30)]).collect();
        assert_eq!(rows(&all, &[process(20, 1), process(30, 1)]), []);
    }
}
