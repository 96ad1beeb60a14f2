//! The SysV objects of each IPC namespace: enters it, and has sets, segments and queues read there.

use std::collections::BTreeMap;
use std::io;

use super::entry::Entry;
use super::namespace::{self, Kind};
use super::{msg, sem, shm};
use tracer_record::Inventory;

/// Reads the objects of these namespaces (with the processes that live there) into `inv`.
/// Without any namespace the caller's own is read.
pub(super) fn read(namespaces: &BTreeMap<u32, Vec<u32>>, inv: &mut Inventory) {
    let own = own_namespace();
    if namespaces.is_empty() {
        read_here(own.unwrap_or(0), inv);
    }
    for (ns, members) in namespaces {
        if Some(*ns) == own {
            read_here(*ns, inv);
        } else {
            match foreign(*ns, members) {
                Ok(Some(found)) => merge(inv, found),
                Ok(None) => {} // its last member is gone, and the namespace with it
                Err(e) => inv.problems.push(format!(
                    "semaphores, shared memory and message queues of IPC namespace {ns} not read: setns: {e}; needs CAP_SYS_ADMIN there"
                )),
            }
        }
    }
    shm::attached(inv);
    msg::waiting(inv);
}

/// Reads the namespace of the calling thread.
fn read_here(ns: u32, inv: &mut Inventory) {
    sem::read_here(ns, inv);
    shm::read_here(ns, inv);
    msg::read_here(ns, inv);
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

/// The IPC namespace of the calling thread.
pub fn own_namespace() -> Option<u32> {
    namespace::own(Kind::Ipc)
}

/// The IPC namespace of a process or thread.
pub(super) fn namespace_of(entry: &Entry, name: &str) -> Option<u32> {
    entry.link(name).ok().and_then(|l| Kind::Ipc.parse(&l))
}

/// Reads a namespace through the first of its members that still lives.
fn foreign(ns: u32, members: &[u32]) -> io::Result<Option<Inventory>> {
    within(ns, members, move || {
        let mut found = Inventory::default();
        read_here(ns, &mut found);
        found
    })
}

/// Calls `act` in an IPC namespace, which is entered through the first of these members of it that still lives;
/// `None` if none of them does.
///
/// # Errors
/// The namespace may not be entered.
pub fn within<T: Send + 'static>(
    ns: u32,
    members: &[u32],
    act: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    namespace::within(Kind::Ipc, ns, members, act)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without CAP_SYS_ADMIN no namespace can be made, and our own is read.
    #[test]
    fn another_namespace_is_read_by_a_thread_of_its_own() {
        let (told, tell) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let own = own_namespace();
        let member = std::thread::spawn(move || {
            // SAFETY: only the IPC namespace of this thread changes.
            let entered = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWIPC) };
            let made = entered.is_ok().then(|| (sem::tests::Set::new(1), shm::tests::Segment::new(4096)));
            let id = made.as_ref().map(|(set, segment)| (set.0, segment.0));
            told.send((entered.is_ok(), own_namespace(), id, rustix::thread::gettid().as_raw_nonzero().get() as u32))
                .ok();
            wait.recv().ok();
        });
        let (entered, ns, id, tid) = tell.recv().expect("member");
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
        assert_eq!(own_namespace(), own, "the caller stays where it was");
    }
}
