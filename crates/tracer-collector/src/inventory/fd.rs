//! Descriptor tables: what a process has open, and which processes hold an object.
//!
//! It must not follow a link. The threads of a process share a table, which counts once; if the main thread exited, that
//! of the first living thread is read. Descriptors in flight in a socket are in no table.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::fs::{FileType, Mode};
use tracer_common::map::kind;

use super::entry::{Entry, bracketed, field, pids, vanished};
use super::{boot_ns, process};
use tracer_record::{FdTable, Holder, ObjKey};

/// At most this many descriptors of one process are listed (about 10 MB in a trace).
const FDS_MAX: usize = 262_144;

/// Finds the holders of pipes and FIFOs, sockets, eventfds and POSIX message queues, in one scan of all processes.
/// The result has one row per process, without the caller; the flag is false if a table or entry could not be read.
/// For other kinds of objects it is empty and not complete.
pub fn holders_of(objs: &[ObjKey]) -> HashMap<ObjKey, (Vec<Holder>, bool)> {
    let mut search = Search::default();
    let known = |k: u32| matches!(k, kind::PIPE | kind::SOCKET | kind::EVENTFD | kind::MQ);
    search.wanted = objs.iter().filter(|o| known(o.kind)).map(|o| (o.kind, o.id)).collect();
    search.eventfds = objs.iter().any(|o| o.kind == kind::EVENTFD);
    search.queues = objs.iter().any(|o| o.kind == kind::MQ);
    if !search.wanted.is_empty() {
        search.scan();
    }
    // A pipe that no link names may be a FIFO: its links show its path.
    let fifos: HashSet<u64> = search
        .wanted
        .iter()
        .filter(|(k, id)| *k == kind::PIPE && !search.found.contains_key(&(*k, *id)))
        .map(|(_, id)| *id)
        .collect();
    let fifo_complete = fifos.is_empty() || search.scan_fifos(&fifos);
    let mut out = HashMap::new();
    for obj in objs {
        let found = search.found.get(&(obj.kind, obj.id)).cloned().unwrap_or_default();
        let maybe_fifo = obj.kind == kind::PIPE && fifos.contains(&obj.id);
        let complete = known(obj.kind) && search.denied == 0 && (!maybe_fifo || fifo_complete);
        out.insert(*obj, (found, complete));
    }
    out
}

/// The descriptor table of a process; empty and not complete if the process exited.
pub fn fd_table(pid: u32) -> FdTable {
    let mut table = FdTable { ts_ns: boot_ns(), tgid: pid, ..FdTable::default() };
    let Ok(entry) = Entry::open(pid) else { return table };
    let Some(stat) = process::stat(&entry, &mut Vec::new()) else { return table };
    table.start_ns = stat.start_ns;
    table.limit = entry.text("limits").ok().and_then(|l| process::soft_limit(&l, "Max open files"));
    let Ok(open) = Table::of(&entry) else { return table };
    table.complete = open.fds.len() <= FDS_MAX && entry.exists();
    for fd in open.fds.iter().copied().take(FDS_MAX) {
        match open.link(fd) {
            Ok(link) => table.fds.push((fd, link)),
            Err(e) if vanished(&e) => {} // closed since the listing
            Err(_) => table.complete = false,
        }
    }
    table
}

/// The kind of object in a descriptor's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Pipe(u64),
    Socket(u64),
    Eventfd,
    /// A path: file, device, directory or FIFO.
    Path,
    Other,
}

impl Link {
    pub(super) fn parse(link: &str) -> Self {
        if let Some(ino) = bracketed(link, "pipe") {
            Self::Pipe(ino)
        } else if let Some(ino) = bracketed(link, "socket") {
            Self::Socket(ino)
        } else if link == "anon_inode:[eventfd]" {
            Self::Eventfd
        } else if link.starts_with('/') {
            Self::Path
        } else {
            Self::Other
        }
    }
}

/// The descriptor table of a process: that of its main thread, or of the first living one if that exited.
pub(super) struct Table {
    /// The thread's directory.
    thread: Entry,
    /// Its `fd`.
    links: Entry,
    pub(super) fds: Vec<u32>,
}

impl Table {
    pub(super) fn of(entry: &Entry) -> io::Result<Self> {
        let main = Self::of_thread(entry, ".");
        if main.as_ref().is_ok_and(|t| !t.fds.is_empty()) {
            return main;
        }
        for tid in entry.numbers("task")?.1 {
            if let Some(table) = Self::of_thread(entry, &format!("task/{tid}")).ok().filter(|t| !t.fds.is_empty()) {
                return Ok(table);
            }
        }
        main
    }

    fn of_thread(entry: &Entry, name: &str) -> io::Result<Self> {
        let thread = entry.below(name)?;
        let (links, fds) = thread.numbers("fd")?;
        Ok(Self { thread, links, fds })
    }

    pub(super) fn link(&self, fd: u32) -> io::Result<String> {
        self.links.link(&fd.to_string())
    }

    /// Whether the descriptor (reads, writes), by its link's permissions: a third of the cost of reading fdinfo.
    /// Source: fs/proc/fd.c, `tid_fd_update_inode`; a descriptor of O_PATH does neither.
    pub(super) fn access(&self, fd: u32) -> Option<(bool, bool)> {
        let mode = self.links.link_mode(&fd.to_string()).ok()?;
        Some((mode.contains(Mode::RUSR), mode.contains(Mode::WUSR)))
    }

    /// The inode number of a message queue behind a descriptor whose link may be one. It requests only files of a mount of
    /// the kernel's own, as those of mq_open, or of the queues' mount point: they need no network.
    fn queue(&self, entry: &Entry, fd: u32) -> Option<u64> {
        let info = self.info(fd).ok()?;
        let mounts = entry.long_text("mountinfo").ok()?;
        let id = field(&info, "mnt_id")?;
        let mount = mounts.lines().find(|l| l.split(' ').next() == Some(id));
        if mount.is_some_and(|line| !line.contains(" - mqueue ")) {
            return None;
        }
        Some(self.links.stat(&fd.to_string()).ok()?.stx_ino)
    }

    /// The descriptor's fdinfo.
    pub(super) fn info(&self, fd: u32) -> io::Result<String> {
        self.thread.text(&format!("fdinfo/{fd}"))
    }
}

#[derive(Default)]
struct Search {
    wanted: HashSet<(u32, u64)>,
    /// Whether eventfds are searched: only their fdinfo identifies them.
    eventfds: bool,
    /// Whether message queues are searched.
    queues: bool,
    found: HashMap<(u32, u64), Vec<Holder>>,
    /// Number of tables or entries of living processes that could not be read.
    denied: u64,
}

impl Search {
    fn scan(&mut self) {
        self.each_fd(|search, entry, pid, table, fd, link| {
            let key = match Link::parse(link) {
                Link::Pipe(ino) => (kind::PIPE, ino),
                Link::Socket(ino) => (kind::SOCKET, ino),
                Link::Eventfd if search.eventfds => match table.info(fd).map(|i| eventfd_id(&i)) {
                    Ok(Some(id)) => (kind::EVENTFD, id),
                    Ok(None) => return true,
                    Err(e) => {
                        search.denied += u64::from(!vanished(&e));
                        return true;
                    }
                },
                Link::Path if search.queues && may_be_queue(link) => match table.queue(entry, fd) {
                    Some(ino) => (kind::MQ, ino),
                    None => return true,
                },
                Link::Eventfd | Link::Path | Link::Other => return true,
            };
            if search.wanted.contains(&key) {
                search.add(key, entry, pid, fd, table.info(fd).ok().and_then(|i| access(&i)));
            }
            true
        });
    }

    /// Searches FIFOs by the inode number in fdinfo (5.14 and later).
    /// Returns false if that is ambiguous: on an older kernel, or if files of several paths have one inode number.
    fn scan_fifos(&mut self, inodes: &HashSet<u64>) -> bool {
        let mut unambiguous = true;
        let mut paths: HashMap<u64, String> = HashMap::new();
        self.each_fd(|search, entry, pid, table, fd, link| {
            if Link::parse(link) != Link::Path || never_fifo(link) {
                return true;
            }
            let Ok(info) = table.info(fd) else { return true };
            let Some(ino) = field(&info, "ino").and_then(|i| i.parse::<u64>().ok()) else {
                unambiguous = false;
                return false;
            };
            // A stream has no position: this is a file of another file system with the same inode number.
            if inodes.contains(&ino) && field(&info, "pos") == Some("0") {
                unambiguous &= paths.entry(ino).or_insert_with(|| link.to_owned()) == link;
                search.add((kind::PIPE, ino), entry, pid, fd, access(&info));
            }
            true
        });
        unambiguous
    }

    /// Calls `see` for each descriptor of all other processes, until it returns false.
    fn each_fd(&mut self, mut see: impl FnMut(&mut Self, &Entry, u32, &Table, u32, &str) -> bool) {
        for pid in pids().into_iter().filter(|p| *p != std::process::id()) {
            let Ok(entry) = Entry::open(pid) else { continue };
            let table = match Table::of(&entry) {
                Ok(table) => table,
                Err(e) => {
                    self.denied += u64::from(!vanished(&e));
                    continue;
                }
            };
            for fd in table.fds.iter().copied() {
                match table.link(fd) {
                    Ok(link) if !see(self, &entry, pid, &table, fd, &link) => return,
                    Ok(_) => {}
                    Err(e) if vanished(&e) => {}
                    Err(_) => {
                        // Permission is per process: the other descriptors would be refused, too.
                        self.denied += 1;
                        break;
                    }
                }
            }
        }
    }

    fn add(&mut self, key: (u32, u64), entry: &Entry, pid: u32, fd: u32, access: Option<(bool, bool)>) {
        let rows = self.found.entry(key).or_default();
        if let Some(row) = rows.iter_mut().find(|r| r.tgid == pid) {
            let either = |a: Option<bool>, b: Option<bool>| {
                if a == Some(true) || b == Some(true) { Some(true) } else { a.and(b) }
            };
            row.reads = either(row.reads, access.map(|a| a.0));
            row.writes = either(row.writes, access.map(|a| a.1));
            return;
        }
        let Some(stat) = process::stat(entry, &mut Vec::new()) else { return };
        rows.push(Holder {
            tgid: pid,
            start_ns: stat.start_ns,
            comm: stat.comm,
            fd,
            reads: access.map(|a| a.0),
            writes: access.map(|a| a.1),
        });
    }
}

/// Whether a link may be a message queue's: `/name` by mq_open, or a path below its file system's mount point.
fn may_be_queue(link: &str) -> bool {
    link.starts_with("/dev/mqueue/") || link.strip_prefix('/').is_some_and(|name| !name.contains('/'))
}

/// The FIFO or message queue behind a descriptor with a path, in which a thread sleeps; `None` if it is neither.
/// The request does not synchronise, so that it needs no network (statx(2), AT_STATX_DONT_SYNC).
pub(super) fn named_object(entry: &Entry, fd: u32) -> Option<ObjKey> {
    let link = entry.link(&format!("fd/{fd}")).ok()?;
    let stat = entry.stat(&format!("fd/{fd}")).ok()?;
    let is_fifo = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Fifo;
    if is_fifo {
        return Some(ObjKey { kind: kind::PIPE, ns: 0, id: stat.stx_ino });
    }
    let ino = may_be_queue(&link).then(|| Table::of(entry).ok()?.queue(entry, fd)).flatten()?;
    Some(ObjKey { kind: kind::MQ, ns: stat.stx_dev_major << 20 | stat.stx_dev_minor, id: ino })
}

/// Devices that many processes hold, and that are no FIFOs.
fn never_fifo(link: &str) -> bool {
    link == "/dev/null" || link.starts_with("/dev/pts/") || link.starts_with("/memfd:")
}

pub(super) fn eventfd_id(info: &str) -> Option<u64> {
    field(info, "eventfd-id")?.parse().ok()
}

/// (reads, writes) of an fdinfo: `flags` is octal and holds the access mode in its lowest two bits.
pub(super) fn access(info: &str) -> Option<(bool, bool)> {
    let flags = i32::from_str_radix(field(info, "flags")?, 8).ok()?;
    let mode = flags & libc::O_ACCMODE;
    let path_only = flags & libc::O_PATH != 0;
    Some((
        !path_only && (mode == libc::O_RDONLY || mode == libc::O_RDWR),
        !path_only && (mode == libc::O_WRONLY || mode == libc::O_RDWR),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn pipe_key(id: u64) -> ObjKey {
        ObjKey { kind: kind::PIPE, ns: 0, id }
    }

    fn holders(obj: ObjKey) -> (Vec<Holder>, bool) {
        holders_of(&[obj]).remove(&obj).expect("an answer for each object")
    }

    fn inode_of(fd: i32) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).expect("link");
        bracketed(link.to_str().expect("utf-8"), "pipe").expect("pipe")
    }

    /// A child that waits on its standard input until it is dropped.
    struct Held(Child);

    impl Held {
        fn new(command: &mut Command) -> Self {
            Self(command.stdin(Stdio::piped()).spawn().expect("spawn"))
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    /// Whether some process's descriptors are refused to us: then no answer can be complete.
    fn some_are_opaque() -> bool {
        let refused = |pid: u32| {
            Entry::open(pid).and_then(|e| e.link("fd/0")).is_err_and(|e| !vanished(&e))
                || Entry::open(pid).and_then(|e| e.numbers("fd")).is_err_and(|e| !vanished(&e))
        };
        pids().into_iter().any(refused)
    }

    #[test]
    fn links() {
        for (link, want) in [
            ("pipe:[12]", Link::Pipe(12)),
            ("socket:[9]", Link::Socket(9)),
            ("anon_inode:[eventfd]", Link::Eventfd),
            ("anon_inode:[eventpoll]", Link::Other),
            ("/tmp/pipe:[12]", Link::Path),
            ("/tmp/a (deleted)", Link::Path),
            ("net:[4026531840]", Link::Other),
            ("", Link::Other),
        ] {
            assert_eq!(Link::parse(link), want, "{link}");
        }
    }

    #[test]
    fn access_modes() {
        for (info, want) in [
            ("pos:\t0\nflags:\t0100000\n", Some((true, false))),
            ("flags:\t01\n", Some((false, true))),
            ("flags:\t02004002\n", Some((true, true))),
            ("flags:\t010000000\n", Some((false, false))),
            ("pos:\t0\n", None),
        ] {
            assert_eq!(access(info), want, "{info}");
        }
    }

    #[test]
    fn both_ends_of_a_pipe_but_not_ourselves() {
        let child = Held::new(Command::new("cat").stdout(Stdio::piped()));
        let ino = inode_of(child.0.stdout.as_ref().expect("stdout").as_raw_fd());
        let (found, complete) = holders(pipe_key(ino));
        assert_eq!(complete, !some_are_opaque());
        // Other tests may fork meanwhile and hold a copy until they exec.
        let row = found.iter().find(|h| h.tgid == child.0.id()).expect("the child");
        assert_eq!((row.fd, row.reads, row.writes), (1, Some(false), Some(true)));
        assert!(found.iter().all(|h| h.tgid != std::process::id()));
    }

    #[test]
    fn several_objects_in_one_scan() {
        // SAFETY: eventfd takes numbers only.
        let raw = unsafe { libc::eventfd(0, 0) };
        assert!(raw >= 0);
        // SAFETY: created above, and owned only here.
        let event = unsafe { std::os::fd::OwnedFd::from_raw_fd(raw) };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{raw}")).expect("fdinfo");
        let id = field(&info, "eventfd-id").expect("id").parse().expect("number");
        // stderr of the child is a copy of the eventfd.
        let child = Held::new(Command::new("cat").stdout(Stdio::piped()).stderr(Stdio::from(event)));
        let ino = inode_of(child.0.stdout.as_ref().expect("stdout").as_raw_fd());
        let eventfd = ObjKey { kind: kind::EVENTFD, ns: 0, id };
        let file = ObjKey { kind: kind::FILE, ns: 1, id: 2 };
        let all = holders_of(&[pipe_key(ino), eventfd, file]);
        let fd_in = |obj| all.get(&obj).and_then(|(h, _)| h.iter().find(|h| h.tgid == child.0.id())).map(|h| h.fd);
        assert_eq!(fd_in(pipe_key(ino)), Some(1));
        assert_eq!(fd_in(eventfd), Some(2));
        assert_eq!(all.get(&file), Some(&(vec![], false)));
    }

    #[test]
    fn fifos_by_inode_number() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("mkfifo");
        let fifo = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let ino = rustix::fs::fstat(&fifo).expect("stat").st_ino;
        let child = Held::new(Command::new("cat").stdout(Stdio::from(fifo)));
        let (found, complete) = holders(pipe_key(ino));
        let row = found.iter().find(|h| h.tgid == child.0.id()).expect("the child");
        assert_eq!((row.fd, row.reads, row.writes), (1, Some(true), Some(true)));
        assert!(complete || some_are_opaque());
    }

    #[test]
    fn message_queues_by_inode_number() {
        let name = std::ffi::CString::new(format!("/ipctrace-test-{}", std::process::id())).expect("name");
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        // SAFETY: a string that ends with a zero byte, a mode, and the default attributes.
        let raw = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null_mut::<libc::mq_attr>()) };
        if raw < 0 {
            return tracer_skip::skip!("no POSIX message queues: {}", std::io::Error::last_os_error());
        }
        // SAFETY: opened above, and owned only here.
        let queue = unsafe { std::os::fd::OwnedFd::from_raw_fd(raw) };
        // SAFETY: a string that ends with a zero byte.
        unsafe { libc::mq_unlink(name.as_ptr()) };
        let ino = rustix::fs::fstat(&queue).expect("stat").st_ino;
        let child = Held::new(Command::new("cat").stdout(Stdio::from(queue)));
        let (found, _) = holders(ObjKey { kind: kind::MQ, ns: 1, id: ino });
        let row = found.iter().find(|h| h.tgid == child.0.id()).expect("the child");
        assert_eq!((row.fd, row.reads, row.writes), (1, Some(false), Some(true)));
    }

    #[test]
    fn own_table() {
        let file = std::fs::File::open("/proc/self/stat").expect("open");
        let table = fd_table(std::process::id());
        let fd = u32::try_from(file.as_raw_fd()).expect("fd");
        let link = table.fds.iter().find(|(n, _)| *n == fd).map(|(_, l)| l.clone());
        assert_eq!(link, Some(format!("/proc/{}/stat", std::process::id())));
        assert!(table.complete && table.limit.is_some() && table.start_ns > 0);
        let gone = fd_table(u32::MAX);
        assert!(!gone.complete && gone.fds.is_empty());
    }
}
