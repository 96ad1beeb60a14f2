//! SysV shared memory segments, the processes that have them mapped, and the limits, of each IPC namespace.
//!
//! It must not attach a segment: it calls shmctl with SHM_INFO and IPC_INFO only, which take no id.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::columns::Columns;
use super::entry::{Entry, vanished};
use super::namespace::ipc_of;
use tracer_record::{Inventory, ShmLimitRow, ShmSegment};

/// At most this many processes have their mappings read.
const PROCESSES_MAX: usize = 4096;
/// `SHM_INFO` of include/uapi/linux/shm.h.
const SHM_INFO: libc::c_int = 14;
/// `SHM_DEST` and `SHM_LOCKED` of the mode (include/linux/shm.h).
const DEST: u32 = 0o1000;
const LOCKED: u32 = 0o2000;

/// `struct shminfo64` of include/uapi/asm-generic/shmbuf.h.
#[repr(C)]
#[derive(Default)]
struct Limits {
    shmmax: libc::c_ulong,
    shmmin: libc::c_ulong,
    shmmni: libc::c_ulong,
    shmseg: libc::c_ulong,
    shmall: libc::c_ulong,
    unused: [libc::c_ulong; 4],
}

/// `struct shm_info` of include/uapi/linux/shm.h.
#[repr(C)]
#[derive(Default)]
struct Use {
    used_ids: libc::c_int,
    /// Pages: of all segments, in memory, in swap.
    tot: libc::c_ulong,
    rss: libc::c_ulong,
    swp: libc::c_ulong,
    swap_attempts: libc::c_ulong,
    swap_successes: libc::c_ulong,
}

/// key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime ...; perms is octal
/// (ipc/shm.c, `sysvipc_shm_proc_show`).
pub(super) fn parse_segment(line: &str, ns: u32) -> Option<ShmSegment> {
    let mut columns = Columns::of(line);
    let key = columns.next()?;
    let id = columns.next()?;
    let perms = columns.next_octal()?;
    let size_bytes = columns.next()?;
    // A process that is not visible here may appear as 0.
    let (cpid, lpid) = (columns.next()?, columns.next()?);
    let nattch = columns.next()?;
    let (uid, gid) = (columns.next()?, columns.next()?);
    let (cuid, cgid) = (columns.next()?, columns.next()?);
    let (atime, dtime, ctime) = (columns.next()?, columns.next()?, columns.next()?);
    Some(ShmSegment {
        ns,
        id,
        key,
        size_bytes,
        nattch,
        cpid,
        lpid,
        uid,
        gid,
        cuid,
        cgid,
        mode: perms & 0o777,
        dest: perms & DEST != 0,
        locked: perms & LOCKED != 0,
        atime,
        dtime,
        ctime,
        attached: Vec::new(),
    })
}

/// The limits of the namespace and their use, by IPC_INFO and SHM_INFO.
pub(super) fn limits(ns: u32) -> io::Result<ShmLimitRow> {
    let (mut limits, mut used) = (Limits::default(), Use::default());
    // SAFETY: IPC_INFO writes one `struct shminfo64` to the given address.
    let r = unsafe { libc::shmctl(0, libc::IPC_INFO, (&raw mut limits).cast()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SHM_INFO writes one `struct shm_info` to the given address.
    let r = unsafe { libc::shmctl(0, SHM_INFO, (&raw mut used).cast()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ShmLimitRow {
        ns,
        shmmni: limits.shmmni,
        shmmax: limits.shmmax,
        shmall: limits.shmall,
        used_segments: u64::try_from(used.used_ids).unwrap_or(0),
        used_pages: used.tot,
        resident_pages: used.rss,
        swapped_pages: used.swp,
    })
}

/// A segment as the mappings of a process show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mapped {
    id: i32,
    /// The key at its creation; the segment's own key becomes 0 when it is removed.
    key: i32,
}

/// Finds the processes that have the segments mapped, until all attachments are found.
pub(super) fn find_attached(inv: &mut Inventory) {
    // By namespace, then by id, the index of the row. All namespaces share one device, so ids alone are ambiguous.
    let mut wanted: BTreeMap<u32, BTreeMap<i32, usize>> = BTreeMap::new();
    let mut last_users = BTreeSet::new();
    let mut missing = 0_u64;
    for (at, row) in inv.shm_segments.iter().enumerate().filter(|(_, r)| r.nattch > 0) {
        wanted.entry(row.ns).or_default().insert(row.id, at);
        last_users.extend([row.cpid, row.lpid]);
        missing = missing.saturating_add(row.nattch);
    }
    if wanted.is_empty() {
        return;
    }
    let members = |p: &&tracer_record::ProcessRow| p.ipc_ns.is_some_and(|ns| wanted.contains_key(&ns));
    let others = inv.processes.iter().filter(members).map(|p| p.tgid).filter(|p| !last_users.contains(p));
    let first = last_users.iter().copied().filter(|p| *p != 0);
    let (mut denied, mut left_out) = (0_u64, 0_u64);
    let mut found = Vec::new();
    for (n, pid) in first.chain(others).enumerate() {
        if missing == 0 {
            break;
        }
        if n >= PROCESSES_MAX {
            left_out += 1;
            continue;
        }
        let Ok(entry) = Entry::open(pid) else { continue };
        let Some(ids) = ipc_of(&entry, "ns/ipc").and_then(|ns| wanted.get(&ns)) else { continue };
        let text = match entry.long_text("maps") {
            Ok(text) => text,
            Err(e) => {
                denied += u64::from(!vanished(&e));
                continue;
            }
        };
        for mapped in text.lines().filter_map(parse_mapping) {
            let row = ids.get(&mapped.id).and_then(|at| Some((*at, inv.shm_segments.get(*at)?)));
            if let Some((at, _)) = row.filter(|(_, r)| r.key == mapped.key || r.dest) {
                missing = missing.saturating_sub(1);
                found.push((at, pid));
            }
        }
    }
    add_attached(&mut inv.shm_segments, &found);
    if denied > 0 {
        inv.problems.push(format!(
            "users of shared memory: mappings of {denied} processes not read: needs CAP_SYS_PTRACE over them"
        ));
    }
    if left_out > 0 {
        inv.problems
            .push(format!("users of shared memory: mappings of {left_out} processes not read: too many processes"));
    }
}

/// Adds processes to the rows of the segments, each given as (index of the row, pid), once.
fn add_attached(segments: &mut [ShmSegment], found: &[(usize, u32)]) {
    for (at, pid) in found {
        if let Some(row) = segments.get_mut(*at)
            && row.attached.last() != Some(pid)
            && !row.attached.contains(pid)
        {
            row.attached.push(*pid);
        }
    }
}

/// A mapping of a segment: the file is `/SYSV<key> (deleted)`, its inode number the segment's id
/// (ipc/shm.c, `newseg`), its device one of the kernel's own (major 0).
fn parse_mapping(line: &str) -> Option<Mapped> {
    let mut words = line.splitn(6, ' ');
    let (device, inode) = (words.nth(3)?, words.next()?);
    let key = words.next()?.trim_start().strip_prefix("/SYSV")?.strip_suffix(" (deleted)")?;
    if !device.starts_with("00:") || key.len() != 8 {
        return None;
    }
    Some(Mapped { id: inode.parse().ok()?, key: u32::from_str_radix(key, 16).ok()?.cast_signed() })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::inventory::{Scope, read};

    /// A segment that is removed when dropped.
    pub(crate) struct Segment(pub(crate) i32);

    impl Segment {
        pub(crate) fn new(bytes: usize) -> Self {
            // SAFETY: shmget takes numbers only.
            let id = unsafe { libc::shmget(libc::IPC_PRIVATE, bytes, 0o600 | libc::IPC_CREAT) };
            assert!(id >= 0, "shmget: {}", io::Error::last_os_error());
            Self(id)
        }

        fn remove(&self) {
            // SAFETY: IPC_RMID ignores the address.
            unsafe { libc::shmctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }

    impl Drop for Segment {
        fn drop(&mut self) {
            self.remove();
        }
    }

    #[test]
    fn lines_of_the_table() {
        let line = "   1234567          5  3640                 4096    41    42      2  1001  1002  1003  1004 11 12 13 4096 0";
        let want = ShmSegment {
            ns: 9,
            id: 5,
            key: 1_234_567,
            size_bytes: 4096,
            nattch: 2,
            cpid: 41,
            lpid: 42,
            uid: 1001,
            gid: 1002,
            cuid: 1003,
            cgid: 1004,
            mode: 0o640,
            dest: true,
            locked: true,
            atime: 11,
            dtime: 12,
            ctime: 13,
            attached: vec![],
        };
        assert_eq!(parse_segment(line, 9), Some(want));
        for bad in ["", "1 2 3", "key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime", "1 2 9"] {
            assert_eq!(parse_segment(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn lines_of_mappings() {
        let line = |device, inode, path| format!("7f00-7f10 rw-s 00000000 {device} {inode}                    {path}");
        let private = Mapped { id: 65_538, key: 0 };
        assert_eq!(parse_mapping(&line("00:01", "65538", "/SYSV00000000 (deleted)")), Some(private));
        let keyed = Mapped { id: 0, key: -2 };
        assert_eq!(parse_mapping(&line("00:01", "0", "/SYSVfffffffe (deleted)")), Some(keyed));
        for other in [
            line("fe:00", "1", "/SYSV00000000 (deleted)"),
            line("00:01", "1", "/tmp/SYSV00000000 (deleted)"),
            line("00:01", "1", "/SYSV00000000"),
            line("00:01", "1", "/SYSV0 (deleted)"),
            line("00:01", "1", "/SYSV0000000g (deleted)"),
            "7f00-7f10 rw-s 00000000 00:00 0".to_owned(),
            String::new(),
        ] {
            assert_eq!(parse_mapping(&other), None, "{other}");
        }
    }

    #[test]
    fn a_segment_with_its_attachments() {
        let me = std::process::id();
        let segment = Segment::new(12_345);
        let row = |id: i32| {
            let inv = read(&Scope::Pids(vec![me]));
            let limits = inv.shm_limits.first().copied().expect("limits");
            assert!(limits.shmmni > 0 && limits.shmmax > 0 && limits.shmall > 0);
            assert!(limits.used_segments >= 1 && limits.used_pages >= 4);
            inv.shm_segments.into_iter().find(|s| s.id == id).expect("own segment")
        };
        let before = row(segment.0);
        assert_eq!((before.size_bytes, before.cpid, before.lpid, before.nattch), (12_345, me, 0, 0));
        assert_eq!((before.mode, before.dest, before.atime, before.attached.len()), (0o600, false, 0, 0));
        // SAFETY: the kernel picks the address.
        let address = unsafe { libc::shmat(segment.0, std::ptr::null(), 0) };
        assert_ne!(address.addr(), usize::MAX, "shmat: {}", io::Error::last_os_error());
        segment.remove();
        let during = row(segment.0);
        // SAFETY: the address that shmat returned; nothing uses it.
        unsafe { libc::shmdt(address) };
        assert_eq!((during.nattch, during.lpid, during.dest, during.attached), (1, me, true, vec![me]));
        assert!(during.atime >= before.ctime && before.ctime > 0);
    }
}
