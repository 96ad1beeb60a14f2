//! Locates the futexes on which threads block: the file behind their memory, the processes that map it, and the owner of
//! the lock.

use std::collections::{BTreeMap, HashMap};

use super::entry::{Entry, INIT, field, pids, vanished};
use super::file::{Map, parse_map};
use super::process;
use tracer_record::{FutexOwner, FutexPlace, FutexRow, FutexUser, ObjKey};

/// At most this many processes are searched for an owner.
const USERS_SEARCHED: usize = 64;

/// A futex to locate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FutexRequest {
    /// Start of the blocked process, in nanoseconds of the boot clock.
    pub start_ns: u64,
    /// Tid of the owner as the futex word holds it; 0: none.
    pub owner_tid: u32,
}

/// The futex word of a process at this address, and the four words after it; `None` if they cannot be read.
pub fn futex_words(tgid: u32, address: u64) -> Option<[u32; 5]> {
    let mut bytes = [0; 20];
    Entry::open(tgid).ok()?.memory(address, &mut bytes).ok()?;
    let mut words = [0; 5];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Some(words)
}

/// Locates these futexes; leaves out those of processes that exited.
pub fn futexes(asked: &BTreeMap<ObjKey, FutexRequest>) -> Vec<FutexRow> {
    let mut rows: Vec<FutexRow> = asked.iter().filter_map(|(obj, asked)| place(*obj, asked)).collect();
    let mut by_file: HashMap<(u32, u64), Users> = HashMap::new();
    for p in rows.iter().filter_map(|r| r.place.as_ref()) {
        by_file.entry((p.dev_minor, p.ino)).or_default();
    }
    if !by_file.is_empty() {
        find_users(&mut by_file);
    }
    for row in &mut rows {
        let Some(place) = &mut row.place else { continue };
        let Some(users) = by_file.get(&(place.dev_minor, place.ino)) else { continue };
        place.users.clone_from(&users.all);
        place.complete = users.complete;
        if row.owner_tid != 0 {
            row.owner = owner(row.owner_tid, &users.all);
        }
    }
    rows
}

struct Users {
    all: Vec<FutexUser>,
    complete: bool,
}

impl Default for Users {
    fn default() -> Self {
        Self { all: Vec::new(), complete: true }
    }
}

fn place(obj: ObjKey, asked: &FutexRequest) -> Option<FutexRow> {
    let entry = Entry::open(obj.ns).ok()?;
    let stat = process::stat(&entry, &mut Vec::new())?;
    // /proc cuts the start to ticks of 10 ms.
    if asked.start_ns.abs_diff(stat.start_ns) > tracer_record::TICK_NS {
        return None;
    }
    let maps = entry.long_text("maps").ok()?;
    let place = maps.lines().filter_map(parse_map).find(|m| m.holds(obj.id)).filter(|m| m.shared).map(|m| FutexPlace {
        dev_minor: m.minor,
        ino: m.ino,
        offset: m.offset_of(obj.id),
        path: m.path.to_owned(),
        users: Vec::new(),
        complete: false,
    });
    Some(FutexRow { obj, start_ns: asked.start_ns, owner_tid: asked.owner_tid, place, owner: None })
}

/// Finds the processes that share mappings of these files.
fn find_users(by_file: &mut HashMap<(u32, u64), Users>) {
    let all = pids();
    // With hidepid some users may not even be listed.
    let mut complete = all.contains(&INIT);
    for pid in all {
        let Ok(entry) = Entry::open(pid) else { continue };
        let maps = match entry.long_text("maps") {
            Ok(maps) => maps,
            Err(e) => {
                complete &= vanished(&e) || pid == INIT;
                continue;
            }
        };
        let mut found: Vec<(u32, u64)> = Vec::new();
        let shared = |m: &Map<'_>| m.shared && by_file.contains_key(&(m.minor, m.ino));
        for m in maps.lines().filter_map(parse_map).filter(shared) {
            if !found.contains(&(m.minor, m.ino)) {
                found.push((m.minor, m.ino));
            }
        }
        if found.is_empty() {
            continue;
        }
        let Some(stat) = process::stat(&entry, &mut Vec::new()) else { continue };
        let threads = entry.numbers("task").map_or(0, |(_, tids)| tids.len());
        let user =
            FutexUser { tgid: pid, start_ns: stat.start_ns, threads: u32::try_from(threads).unwrap_or(u32::MAX) };
        for file in found {
            if let Some(users) = by_file.get_mut(&file) {
                users.all.push(user);
            }
        }
    }
    by_file.values_mut().for_each(|users| users.complete &= complete);
}

/// The living thread of these processes with this tid in its own pid namespace, where it wrote the futex word.
fn owner(tid: u32, users: &[FutexUser]) -> Option<FutexOwner> {
    for user in users.iter().take(USERS_SEARCHED) {
        let Ok(entry) = Entry::open(user.tgid) else { continue };
        let in_namespace = levels(&entry).is_some_and(|numbers| numbers.len() > 1);
        let Ok((tasks, tids)) = entry.numbers("task") else { continue };
        for candidate in tids.into_iter().filter(|candidate| in_namespace || *candidate == tid) {
            let Ok(task) = tasks.below(&candidate.to_string()) else { continue };
            if levels(&task).and_then(|numbers| numbers.last().copied()) != Some(tid) {
                continue;
            }
            let comm = task.text("comm").unwrap_or_default().trim_end_matches('\n').to_owned();
            return Some(FutexOwner { tid: candidate, tgid: user.tgid, start_ns: user.start_ns, comm });
        }
    }
    None
}

/// The ids of a thread or process, from this pid namespace to its own.
/// Source: proc(5), NSpid of /proc/PID/status (4.1).
fn levels(entry: &Entry) -> Option<Vec<u32>> {
    let status = entry.text("status").ok()?;
    let numbers: Vec<u32> = field(&status, "NSpid")?.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
    (!numbers.is_empty()).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::map::kind;

    #[test]
    fn memory_that_is_shared_and_memory_that_is_not() {
        let me = std::process::id();
        let start_ns = process::process(me).expect("row").start_ns;
        for (flags, shared) in [(libc::MAP_SHARED, true), (libc::MAP_PRIVATE, false)] {
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: new memory of our own, unmapped below and not used after.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), 8192, prot, flags | libc::MAP_ANONYMOUS, -1, 0) };
            assert_ne!(at, libc::MAP_FAILED);
            let words = at.cast::<u32>();
            // SAFETY: inside of the new memory.
            unsafe { words.add(1030).write(7) };
            let address = at as u64 + 4120;
            assert_eq!(futex_words(me, address), Some([7, 0, 0, 0, 0]));
            let obj = ObjKey { kind: kind::FUTEX, ns: me, id: address };
            let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            let rows = futexes(&BTreeMap::from([(obj, FutexRequest { start_ns, owner_tid: tid })]));
            let [row] = rows.as_slice() else { unreachable!("{rows:?}") };
            assert_eq!(row.place.is_some(), shared);
            if let Some(place) = &row.place {
                assert_eq!((place.offset, place.path.as_str()), (4120, "/dev/zero (deleted)"));
                assert!(place.users.iter().any(|u| u.tgid == me && u.threads >= 1), "{place:?}");
                assert_eq!(row.owner.as_ref().map(|o| (o.tid, o.tgid)), Some((tid, me)));
                let unowned = futexes(&BTreeMap::from([(obj, FutexRequest { start_ns, owner_tid: u32::MAX >> 2 })]));
                assert!(unowned.iter().all(|row| row.owner.is_none()));
            }
            // Another process with the same pid is left out.
            let other = FutexRequest { start_ns: start_ns + 1_000_000_000, owner_tid: 0 };
            assert!(futexes(&BTreeMap::from([(obj, other)])).is_empty());
            // SAFETY: mapped above, and not used any more.
            assert_eq!(unsafe { libc::munmap(at, 8192) }, 0);
            assert_eq!(futex_words(me, address), None);
        }
    }
}
