//! What is open in all descriptor tables: pipes, eventfds and unix sockets, each with its holders.
//!
//! FIFOs are left out: a link shows only their path, and to tell it from a file's takes a stat of a foreign file.

use std::collections::BTreeMap;

use super::entry::{Entry, INIT, field, pids, vanished};
use super::fd::{Link, Table, eventfd_id};
use super::process;
use super::socket::{self, Namespaces};
use tracer_record::Holder;
use tracer_record::listed::{OpenObject, OpenObjects, UnixSocket};

/// Inode of the first pid namespace, which sees all processes (`PROC_PID_INIT_INO` of include/linux/proc_ns.h).
const FIRST_PID_NS: &str = "pid:[4026531836]";

/// Reads the descriptor tables of these processes, or of all; our own among them.
/// With `sockets` of all, whatever `only` says: the other end of a socket may be anybody's.
pub fn open_objects(only: &[u32], sockets: bool) -> OpenObjects {
    let mut out = OpenObjects::default();
    let only = if sockets { &[] } else { only };
    // The sockets first: only for unix sockets the descriptor is asked what is in flight.
    let namespaces = if sockets { socket::namespaces(&mut out.problems) } else { Namespaces::new() };
    let mut table_of_sockets = if sockets { socket::read(&namespaces, &mut out.problems) } else { None };
    let (mut pipes, mut eventfds) = (BTreeMap::new(), BTreeMap::new());
    let (mut denied, mut nameless) = (Vec::new(), 0_u64);
    let all = pids();
    for pid in all.iter().copied().filter(|p| only.is_empty() || only.contains(p)) {
        let Ok(entry) = Entry::open(pid) else { continue };
        let table = match Table::of(&entry) {
            Ok(table) => table,
            Err(e) => {
                if !vanished(&e) {
                    denied.push(pid);
                }
                continue;
            }
        };
        let mut who = None;
        for fd in table.fds.iter().copied() {
            let link = match table.link(fd) {
                Ok(link) => Link::parse(&link),
                Err(e) if vanished(&e) => continue,
                Err(_) => {
                    // Permission is by process: the others would be refused, too.
                    denied.push(pid);
                    break;
                }
            };
            let (objects, id, counter) = match link {
                Link::Pipe(ino) => (&mut pipes, ino, None),
                Link::Eventfd => {
                    let info = table.info(fd).unwrap_or_default();
                    match eventfd_id(&info) {
                        Some(id) => (&mut eventfds, id, eventfd_count(&info)),
                        None => {
                            nameless += 1;
                            continue;
                        }
                    }
                }
                Link::Socket(ino) => {
                    let Some(socket) = table_of_sockets.as_mut().and_then(|t| t.get_mut(&ino)) else { continue };
                    if who.is_none() {
                        who = process::stat(&entry, &mut Vec::new());
                    }
                    let Some(stat) = &who else { break };
                    // It is the socket's number, whoever's descriptor is asked.
                    if socket.fds_in_flight.is_none() {
                        socket.fds_in_flight = table.info(fd).ok().and_then(|i| fds_in_flight(&i));
                    }
                    add(&mut socket.holders, pid, stat, fd, None);
                    continue;
                }
                Link::Path | Link::Other => continue,
            };
            if who.is_none() {
                who = process::stat(&entry, &mut Vec::new());
            }
            let Some(stat) = &who else { break };
            // An eventfd is always open for both (fs/eventfd.c, `do_eventfd`).
            let access = if counter.is_some() { Some((true, true)) } else { table.access(fd) };
            let object = objects.entry(id).or_insert_with(|| OpenObject { id, ..OpenObject::default() });
            object.counter = counter.or(object.counter);
            add(&mut object.holders, pid, stat, fd, access);
        }
    }
    if let Some(first) = denied.first() {
        out.problems.push(format!(
            "descriptors of {} processes not read (first: pid {first}): needs CAP_SYS_PTRACE over them",
            denied.len()
        ));
    }
    if nameless > 0 {
        out.problems.push(format!("{nameless} descriptors of eventfds show no id in fdinfo and are not listed"));
    }
    // Where the first process is not seen, others are hidden, too (proc(5), hidepid).
    out.complete =
        only.is_empty() && denied.iter().all(|pid| *pid == INIT) && sees_all_processes() && all.contains(&INIT);
    out.sockets = table_of_sockets.map(|t| settled(t, &namespaces));
    out.pipes = pipes.into_values().collect();
    out.eventfds = eventfds.into_values().collect();
    out
}

/// Without the sockets that nobody holds because they went while the tables were read.
fn settled(mut sockets: BTreeMap<u64, UnixSocket>, namespaces: &Namespaces) -> Vec<UnixSocket> {
    let lonely = socket::of_sockets(namespaces, sockets.values().filter(|s| s.holders.is_empty()));
    if !lonely.is_empty() {
        // What cannot be read again was told before.
        let again = socket::read(&lonely, &mut Vec::new()).unwrap_or_default();
        sockets.retain(|ino, s| !s.holders.is_empty() || again.contains_key(ino));
    }
    sockets.into_values().collect()
}

fn sees_all_processes() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|l| l.as_os_str() == FIRST_PID_NS)
}

/// One row a process: what its descriptors allow together.
fn add(holders: &mut Vec<Holder>, pid: u32, stat: &process::Stat, fd: u32, access: Option<(bool, bool)>) {
    let (reads, writes) = (access.map(|a| a.0), access.map(|a| a.1));
    // Processes come one after the other: a row of this one can only be the last, however many share the object.
    if let Some(row) = holders.last_mut().filter(|h| h.tgid == pid) {
        let either = |a: Option<bool>, b: Option<bool>| {
            if a == Some(true) || b == Some(true) { Some(true) } else { a.and(b) }
        };
        row.reads = either(row.reads, reads);
        row.writes = either(row.writes, writes);
        return;
    }
    // Most objects have one holder; a vector makes room for four.
    if holders.is_empty() {
        holders.reserve_exact(1);
    }
    holders.push(Holder { tgid: pid, start_ns: stat.start_ns, comm: stat.comm.clone(), fd, reads, writes });
}

/// Descriptors in a unix socket's queue; 5.6 and later (net/unix/af_unix.c, `unix_show_fdinfo`).
fn fds_in_flight(info: &str) -> Option<u64> {
    field(info, "scm_fds")?.parse().ok()
}

/// Descriptors in flight in the socket that is this descriptor of a process.
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
        let found = open_objects(&[me], false);
        let link = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).expect("link");
        let pipe = found.pipes.iter().find(|p| format!("pipe:[{}]", p.id) == link.to_string_lossy()).expect("pipe");
        let ends: Vec<_> = pipe.holders.iter().map(|h| (h.tgid, h.reads, h.writes)).collect();
        assert_eq!(ends, [(me, Some(true), Some(true))]);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", event.as_raw_fd())).expect("fdinfo");
        let id = eventfd_id(&info).expect("eventfd-id");
        assert_eq!(found.eventfds.iter().find(|e| e.id == id).and_then(|e| e.counter), Some(7));
        drop(writer);
        let ends: Vec<_> = open_objects(&[me], false).pipes.into_iter().filter(|p| p.id == pipe.id).collect();
        assert_eq!(
            ends[0].holders.iter().map(|h| (h.reads, h.writes)).collect::<Vec<_>>(),
            [(Some(true), Some(false))]
        );
        assert!(open_objects(&[u32::MAX], false).pipes.is_empty());
    }

    #[test]
    fn counters_are_hexadecimal() {
        assert_eq!(eventfd_count("eventfd-count: fffffffffffffffe\neventfd-id: 3\n"), Some(u64::MAX - 1));
        assert_eq!(eventfd_count("eventfd-count:                10\n"), Some(16));
        assert_eq!(eventfd_count(""), None);
    }
}
