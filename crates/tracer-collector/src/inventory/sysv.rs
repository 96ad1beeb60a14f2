//! Reads the SysV objects of each IPC namespace: enters it, and reads limits and tables of all kinds there.

use std::collections::BTreeMap;
use std::io;

use super::namespace::{own_ipc, within_ipc};
use super::{msg, sem, shm};
use tracer_record::Inventory;

/// Reads the objects of these namespaces, each with the processes in it, into `inv`.
/// Without any namespace, reads that of the caller.
pub(super) fn read(namespaces: &BTreeMap<u32, Vec<u32>>, inv: &mut Inventory) {
    let own = own_ipc();
    if namespaces.is_empty() {
        read_here(own.unwrap_or(0), inv);
    }
    for (ns, members) in namespaces {
        if Some(*ns) == own {
            read_here(*ns, inv);
        } else {
            match foreign(*ns, members) {
                Ok(Some(found)) => merge(inv, found),
                Ok(None) => {} // its last member exited, and the namespace ended with it
                Err(e) => inv.problems.push(format!(
                    "semaphores, shared memory and message queues of IPC namespace {ns} not read: setns: {e}; needs CAP_SYS_ADMIN there"
                )),
            }
        }
    }
    shm::find_attached(inv);
    msg::find_waiting(inv);
}

/// Reads the namespace of the calling thread: of each kind the limits, the table, and what the table lacks.
fn read_here(ns: u32, inv: &mut Inventory) {
    let problems = &mut inv.problems;
    inv.sem_limits.extend(limits("semaphores", ns, sem::limits(ns), problems));
    let sets = table("/proc/sysvipc/sem", ns, sem::parse_set, problems);
    inv.sem_sets.extend(sem::with_values(sets, ns, problems));
    inv.shm_limits.extend(limits("shared memory", ns, shm::limits(ns), problems));
    inv.shm_segments.extend(table("/proc/sysvipc/shm", ns, shm::parse_segment, problems));
    inv.msg_limits.extend(limits("message queues", ns, msg::limits(ns), problems));
    let queues = table("/proc/sysvipc/msg", ns, msg::parse_queue, problems);
    inv.msg_queues.extend(msg::with_capacities(queues, ns, problems));
}

/// The limits of a kind; adds a problem if they could not be read.
fn limits<T>(what: &str, ns: u32, read: io::Result<T>, problems: &mut Vec<String>) -> Option<T> {
    if let Err(e) = &read {
        problems.push(format!("limits of {what} in IPC namespace {ns} not read: {e}"));
    }
    read.ok()
}

/// The rows of a file of /proc/sysvipc, without the heading; lines that do not parse are left out.
fn table<T>(path: &str, ns: u32, parse: fn(&str, u32) -> Option<T>, problems: &mut Vec<String>) -> Vec<T> {
    // The file shows the namespace of the thread that opens it (ipc/util.c, `sysvipc_proc_open`).
    match std::fs::read_to_string(path) {
        Ok(text) => text.lines().skip(1).filter_map(|line| parse(line, ns)).collect(),
        Err(e) => {
            problems.push(format!("{path} not read: {e}"));
            Vec::new()
        }
    }
}

fn merge(inv: &mut Inventory, found: Inventory) {
    inv.sem_sets.extend(found.sem_sets);
    inv.sem_limits.extend(found.sem_limits);
    inv.shm_segments.extend(found.shm_segments);
    inv.shm_limits.extend(found.shm_limits);
    inv.msg_queues.extend(found.msg_queues);
    inv.msg_limits.extend(found.msg_limits);
    inv.problems.extend(found.problems);
}

/// Reads a namespace through the first of its members that is alive; `None` if none is.
fn foreign(ns: u32, members: &[u32]) -> io::Result<Option<Inventory>> {
    within_ipc(ns, members, move || {
        let mut found = Inventory::default();
        read_here(ns, &mut found);
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without CAP_SYS_ADMIN no namespace can be created, and the own one is read.
    #[test]
    fn another_namespace_is_read_by_a_thread_of_its_own() {
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let own = own_ipc();
        let member = std::thread::spawn(move || {
            // SAFETY: only the IPC namespace of this thread changes.
            let entered = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWIPC) };
            let made = entered.is_ok().then(|| (sem::tests::Set::new(1), shm::tests::Segment::new(4096)));
            let id = made.as_ref().map(|(set, segment)| (set.0, segment.0));
            send.send((entered.is_ok(), own_ipc(), id, rustix::thread::gettid().as_raw_nonzero().get() as u32)).ok();
            wait.recv().ok();
        });
        let (entered, ns, id, tid) = receive.recv().expect("member");
        let mut inv = Inventory::default();
        let ns = ns.expect("namespace");
        read(&BTreeMap::from([(ns, vec![u32::MAX, tid])]), &mut inv);
        done.send(()).ok();
        member.join().expect("join");
        if entered {
            assert_ne!(Some(ns), own);
            assert_eq!(inv.problems, Vec::<String>::new());
            let sets: Vec<_> = inv.sem_sets.iter().map(|s| (s.ns, s.id)).collect();
            let segments: Vec<_> = inv.shm_segments.iter().map(|s| (s.ns, s.id)).collect();
            let (set, segment) = id.expect("ids");
            assert_eq!((sets, segments), (vec![(ns, set)], vec![(ns, segment)]));
            assert_eq!(inv.shm_limits.first().map(|l| (l.ns, l.used_segments)), Some((ns, 1)));
            assert_eq!(inv.msg_limits.first().map(|l| (l.ns, l.used_queues)), Some((ns, 0)));
            assert_eq!(inv.sem_limits.first().map(|l| (l.ns, l.used_sets)), Some((ns, 1)));
        }
        assert_eq!(own_ipc(), own, "the caller stays where it was");
    }
}
