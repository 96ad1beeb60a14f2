//! Reads the pipes, eventfds and unix sockets in all descriptor tables, each with its holders.
//!
//! FIFOs are left out: a link shows only their path, and distinguishing it from a file's would need a stat of that file.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::ops::Deref;

use super::entry::{Entry, INIT, field, pids, vanished};
use super::fd::{Link, Table, eventfd_id};
use super::process;
use super::socket::{self, Namespaces};
use tracer_record::Holder;
use tracer_record::listed::{DescriptorSnapshot, OpenObject, UnixSocket};

/// Inode of the first pid namespace, which sees all processes (`PROC_PID_INIT_INO` of include/linux/proc_ns.h).
const FIRST_PID_NS: &str = "pid:[4026531836]";

/// Reads the descriptor tables of these processes, or of all processes if `only` is empty, including this one.
/// With `sockets` it reads all, because any process may hold the other end of a socket.
pub fn descriptor_snapshot(only: &[u32], sockets: bool) -> DescriptorSnapshot {
    let mut out = DescriptorSnapshot::default();
    let only = if sockets { &[] } else { only };
    // Sockets first: only descriptors of unix sockets are read for descriptors in flight.
    let namespaces = if sockets { socket::namespaces(&mut out.problems) } else { Namespaces::new() };
    let sockets = if sockets { socket::read(&namespaces, &mut out.problems) } else { None };
    let mut scan = Scan { sockets, ..Scan::default() };
    let all = pids();
    all.iter().copied().filter(|p| only.is_empty() || only.contains(p)).for_each(|pid| scan.add_process(pid));
    let Scan { pipes, eventfds, sockets, denied, nameless } = scan;
    if let Some(first) = denied.first() {
        out.problems.push(format!(
            "descriptors of {} processes not read (first: pid {first}): needs CAP_SYS_PTRACE over them",
            denied.len()
        ));
    }
    if nameless > 0 {
        out.problems.push(format!("{nameless} descriptors of eventfds show no id in fdinfo and are not listed"));
    }
    // If the first process is hidden, others are, too (proc(5), hidepid).
    out.complete =
        only.is_empty() && denied.iter().all(|pid| *pid == INIT) && sees_all_processes() && all.contains(&INIT);
    out.sockets = sockets.map(|t| without_closed(t, &namespaces));
    out.pipes = pipes.into_values().collect();
    out.eventfds = eventfds.into_values().collect();
    out
}

/// The objects found so far.
#[derive(Default)]
struct Scan {
    pipes: BTreeMap<u64, OpenObject>,
    eventfds: BTreeMap<u64, OpenObject>,
    /// `None`: not requested, or not readable.
    sockets: Option<BTreeMap<u64, UnixSocket>>,
    /// Processes whose descriptors may not be read.
    denied: Vec<u32>,
    /// Number of descriptors of eventfds without an id.
    nameless: u64,
}

impl Scan {
    fn add_process(&mut self, pid: u32) {
        let Ok(entry) = Entry::open(pid) else { return };
        let table = match Table::of(&entry) {
            Ok(table) => table,
            Err(e) => {
                if !vanished(&e) {
                    self.denied.push(pid);
                }
                return;
            }
        };
        let stat = LazyCell::new(|| process::stat(&entry, &mut Vec::new()));
        for fd in table.fds.iter().copied() {
            match table.link(fd) {
                Ok(link) => {
                    if self.add_descriptor(pid, &stat, &table, fd, Link::parse(&link)).is_none() {
                        break;
                    }
                }
                Err(e) if vanished(&e) => {}
                Err(_) => {
                    // Permission is per process: the other descriptors would be refused, too.
                    self.denied.push(pid);
                    break;
                }
            }
        }
    }

    /// Adds the object behind a descriptor, if it is of a listed kind; `None`: the process exited.
    fn add_descriptor(
        &mut self,
        pid: u32,
        stat: &impl Deref<Target = Option<process::Stat>>,
        table: &Table,
        fd: u32,
        link: Link,
    ) -> Option<()> {
        let (objects, id, counter) = match link {
            Link::Pipe(ino) => (&mut self.pipes, ino, None),
            Link::Eventfd => {
                let info = table.info(fd).unwrap_or_default();
                let Some(id) = eventfd_id(&info) else {
                    self.nameless += 1;
                    return Some(());
                };
                (&mut self.eventfds, id, eventfd_count(&info))
            }
            Link::Socket(ino) => {
                let Some(socket) = self.sockets.as_mut().and_then(|t| t.get_mut(&ino)) else { return Some(()) };
                let stat = stat.as_ref()?;
                // Any holder's descriptor shows the number of the socket.
                if socket.fds_in_flight.is_none() {
                    socket.fds_in_flight = table.info(fd).ok().and_then(|i| fds_in_flight(&i));
                }
                add(&mut socket.holders, pid, stat, fd, None);
                return Some(());
            }
            Link::Path | Link::Other => return Some(()),
        };
        let stat = stat.as_ref()?;
        // An eventfd is always open for both (fs/eventfd.c, `do_eventfd`).
        let access = if counter.is_some() { Some((true, true)) } else { table.access(fd) };
        let object = objects.entry(id).or_insert_with(|| OpenObject { id, ..OpenObject::default() });
        object.counter = counter.or(object.counter);
        add(&mut object.holders, pid, stat, fd, access);
        Some(())
    }
}

/// Removes sockets without holders that were closed while the tables were read.
fn without_closed(mut sockets: BTreeMap<u64, UnixSocket>, namespaces: &Namespaces) -> Vec<UnixSocket> {
    let lonely = socket::of_sockets(namespaces, sockets.values().filter(|s| s.holders.is_empty()));
    if !lonely.is_empty() {
        // Problems of reading were reported before.
        let again = socket::read(&lonely, &mut Vec::new()).unwrap_or_default();
        sockets.retain(|ino, s| !s.holders.is_empty() || again.contains_key(ino));
    }
    sockets.into_values().collect()
}

fn sees_all_processes() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|l| l.as_os_str() == FIRST_PID_NS)
}

/// Adds a descriptor to the holders, which have one row per process: what all its descriptors allow together.
fn add(holders: &mut Vec<Holder>, pid: u32, stat: &process::Stat, fd: u32, access: Option<(bool, bool)>) {
    let (reads, writes) = (access.map(|a| a.0), access.map(|a| a.1));
    // Processes are read one after the other, so a row of this one can only be the last.
    if let Some(row) = holders.last_mut().filter(|h| h.tgid == pid) {
        let either = |a: Option<bool>, b: Option<bool>| {
            if a == Some(true) || b == Some(true) { Some(true) } else { a.and(b) }
        };
        row.reads = either(row.reads, reads);
        row.writes = either(row.writes, writes);
        return;
    }
    // Most objects have one holder, but a vector first allocates four.
    if holders.is_empty() {
        holders.reserve_exact(1);
    }
    holders.push(Holder { tgid: pid, start_ns: stat.start_ns, comm: stat.comm.clone(), fd, reads, writes });
}

/// Number of descriptors in a unix socket's queue; Linux 5.6 and later (net/unix/af_unix.c, `unix_show_fdinfo`).
fn fds_in_flight(info: &str) -> Option<u64> {
    field(info, "scm_fds")?.parse().ok()
}

/// Number of descriptors in flight in the socket behind this descriptor of a process.
pub(super) fn fds_in_flight_at(pid: u32, fd: u32) -> Option<u64> {
    fds_in_flight(&Entry::open(pid).ok()?.text(&format!("fdinfo/{fd}")).ok()?)
}

/// `eventfd-count` is hexadecimal (fs/eventfd.c, `eventfd_show_fdinfo`).
fn eventfd_count(info: &str) -> Option<u64> {
    u64::from_str_radix(field(info, "eventfd-count")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn own_pipe_and_eventfd() {
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        let event = rustix::event::eventfd(7, rustix::event::EventfdFlags::empty()).expect("eventfd");
        let me = std::process::id();
        let found = descriptor_snapshot(&[me], false);
        let link = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).expect("link");
        let pipe = found.pipes.iter().find(|p| format!("pipe:[{}]", p.id) == link.to_string_lossy()).expect("pipe");
        let ends: Vec<_> = pipe.holders.iter().map(|h| (h.tgid, h.reads, h.writes)).collect();
        assert_eq!(ends, [(me, Some(true), Some(true))]);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd())).expect("fdinfo");
        let id = eventfd_id(&info).expect("eventfd-id");
        assert_eq!(found.eventfds.iter().find(|e| e.id == id).and_then(|e| e.counter), Some(7));
        drop(writer);
        let ends: Vec<_> = descriptor_snapshot(&[me], false).pipes.into_iter().filter(|p| p.id == pipe.id).collect();
        assert_eq!(
            ends[0].holders.iter().map(|h| (h.reads, h.writes)).collect::<Vec<_>>(),
            [(Some(true), Some(false))]
        );
        assert!(descriptor_snapshot(&[u32::MAX], false).pipes.is_empty());
    }

    #[test]
    fn counters_are_hexadecimal() {
        assert_eq!(eventfd_count("eventfd-count: fffffffffffffffe\neventfd-id: 3\n"), Some(u64::MAX - 1));
        assert_eq!(eventfd_count("eventfd-count:                10\n"), Some(16));
        assert_eq!(eventfd_count(""), None);
    }
}
