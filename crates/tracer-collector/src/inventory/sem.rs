//! SysV semaphore sets with their values, and the limits, of each IPC namespace.
//!
//! It must not change a set: the commands of semctl that it uses (SEM_INFO, GETVAL, GETPID, GETNCNT, GETZCNT) change
//! neither values nor times (ipc/sem.c, `semctl_info`, `semctl_main`).

use std::io;

use super::columns::Columns;
use super::entry::Entry;
use super::namespace::within_ipc;
use tracer_record::{SemLimitRow, SemSetRow, SemValue};

/// The values of sets with more semaphores are not read.
const VALUES_PER_SET: u32 = 64;
/// At most this many semaphores of one namespace have their values read.
const VALUES_PER_NAMESPACE: usize = 65_536;

/// Reads the values of the sets, of a namespace that the calling thread is in; leaves out sets removed meanwhile.
pub(super) fn with_values(sets: Vec<SemSetRow>, ns: u32, problems: &mut Vec<String>) -> Vec<SemSetRow> {
    let mut out = Vec::with_capacity(sets.len());
    let (mut read, mut skipped, mut denied) = (0, 0_u64, 0_u64);
    for mut set in sets {
        if set.nsems <= VALUES_PER_SET && read + set.nsems as usize <= VALUES_PER_NAMESPACE {
            read += set.nsems as usize;
            match values(set.id, set.nsems) {
                Ok(values) => set.values = values,
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => denied += 1,
                Err(_) => continue, // removed since the table was read
            }
        } else {
            skipped += u64::from(set.nsems <= VALUES_PER_SET);
        }
        out.push(set);
    }
    if denied > 0 {
        problems.push(format!("values of {denied} semaphore sets not read: needs CAP_IPC_OWNER"));
    }
    if skipped > 0 {
        problems.push(format!(
            "values of {skipped} semaphore sets not read: more than {VALUES_PER_NAMESPACE} semaphores in IPC namespace {ns}"
        ));
    }
    out
}

/// The first operation of the semop in which a thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemOp {
    pub num: u16,
    pub op: i16,
}

/// Reads the operation (`struct sembuf`, include/uapi/linux/sem.h) from the memory of a thread that sleeps in semop.
///
/// # Errors
/// The thread has exited, or its memory may not be read.
pub fn sem_op(tid: u32, addr: u64) -> io::Result<SemOp> {
    op_at(&Entry::open(tid)?, addr)
}

/// As [`sem_op`], for an opened thread or process.
pub(super) fn op_at(thread: &Entry, addr: u64) -> io::Result<SemOp> {
    let mut bytes = [0; 4];
    thread.memory(addr, &mut bytes)?;
    let [a, b, c, d] = bytes;
    Ok(SemOp { num: u16::from_ne_bytes([a, b]), op: i16::from_ne_bytes([c, d]) })
}

/// The process that operated last on a semaphore, read in the namespace of `member`; `None` if there is none, or it
/// cannot be read.
pub(super) fn last_operator(ns: u32, member: u32, id: i32, num: u16) -> Option<u32> {
    let last = within_ipc(ns, &[member], move || get(id, num.into(), libc::GETPID));
    last.ok()??.ok().filter(|pid| *pid != 0)
}

/// key semid perms nsems uid gid cuid cgid otime ctime; perms is octal (ipc/sem.c, `sysvipc_sem_proc_show`).
pub(super) fn parse_set(line: &str, ns: u32) -> Option<SemSetRow> {
    let mut columns = Columns::of(line);
    let key = columns.next()?;
    let id = columns.next()?;
    let perms = columns.next_octal()?;
    let nsems = columns.next()?;
    let uid = columns.next()?;
    let gid = columns.next()?;
    let cuid = columns.next()?;
    let cgid = columns.next()?;
    let otime = columns.next()?;
    let ctime = columns.next()?;
    Some(SemSetRow { ns, id, key, perms, nsems, uid, gid, cuid, cgid, otime, ctime, values: Vec::new() })
}

/// The limits of the namespace and their use, by SEM_INFO.
pub(super) fn limits(ns: u32) -> io::Result<SemLimitRow> {
    // SAFETY: an all-zero `seminfo` is valid: it holds integers only.
    let mut info: libc::seminfo = unsafe { std::mem::zeroed() };
    // SAFETY: SEM_INFO writes one `seminfo` to the given address.
    let r = unsafe { libc::semctl(0, 0, libc::SEM_INFO, &raw mut info) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    let n = |v: i32| u64::try_from(v).unwrap_or(0);
    Ok(SemLimitRow {
        ns,
        semmsl: n(info.semmsl),
        semmns: n(info.semmns),
        semopm: n(info.semopm),
        semmni: n(info.semmni),
        // With SEM_INFO these two are the use (ipc/sem.c, `semctl_info`).
        used_sets: n(info.semusz),
        used_sems: n(info.semaem),
    })
}

fn values(id: i32, nsems: u32) -> io::Result<Vec<SemValue>> {
    (0..nsems)
        .map(|num| {
            Ok(SemValue {
                value: get(id, num, libc::GETVAL)?,
                pid: get(id, num, libc::GETPID)?,
                ncnt: get(id, num, libc::GETNCNT)?,
                zcnt: get(id, num, libc::GETZCNT)?,
            })
        })
        .collect()
}

fn get(id: i32, num: u32, command: libc::c_int) -> io::Result<u32> {
    let num = libc::c_int::try_from(num).unwrap_or(libc::c_int::MAX);
    // SAFETY: the GET commands take no fourth argument and write no memory.
    let r = unsafe { libc::semctl(id, num, command) };
    u32::try_from(r).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A set that is removed when dropped.
    pub(crate) struct Set(pub(crate) i32);

    impl Set {
        pub(crate) fn new(nsems: i32) -> Self {
            // SAFETY: semget takes numbers only.
            let id = unsafe { libc::semget(libc::IPC_PRIVATE, nsems, 0o600 | libc::IPC_CREAT) };
            assert!(id >= 0, "semget: {}", io::Error::last_os_error());
            Self(id)
        }
    }

    impl Drop for Set {
        fn drop(&mut self) {
            // SAFETY: IPC_RMID takes no fourth argument.
            unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) };
        }
    }

    #[test]
    fn lines_of_the_table() {
        let line = "       5678901      32768   660          1  1001    18  1001   100 1396175626 1396175618";
        let want = SemSetRow {
            ns: 9,
            id: 32768,
            key: 5_678_901,
            perms: 0o660,
            nsems: 1,
            uid: 1001,
            gid: 18,
            cuid: 1001,
            cgid: 100,
            otime: 1_396_175_626,
            ctime: 1_396_175_618,
            values: vec![],
        };
        assert_eq!(parse_set(line, 9), Some(want));
        assert_eq!(parse_set("-1 0 600 1 0 0 0 0 0 1", 1).map(|s| s.key), Some(-1));
        for bad in ["", "1 2 3", "key semid perms nsems uid gid cuid cgid otime ctime", "1 2 9 1 0 0 0 0 0 0"] {
            assert_eq!(parse_set(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn values_and_last_process() {
        let set = Set::new(2);
        let mut op = libc::sembuf { sem_num: 1, sem_op: 5, sem_flg: 0 };
        // SAFETY: one operation at a valid address.
        assert_eq!(unsafe { libc::semop(set.0, &raw mut op, 1) }, 0);
        let before = std::fs::read_to_string("/proc/sysvipc/sem").expect("table");
        let values = values(set.0, 2).expect("values");
        assert_eq!(values.first().map(|v| (v.value, v.pid)), Some((0, 0)));
        assert_eq!(values.get(1).map(|v| (v.value, v.pid)), Some((5, std::process::id())));
        let after = std::fs::read_to_string("/proc/sysvipc/sem").expect("table");
        let line = |t: &str| t.lines().find(|l| l.contains(&set.0.to_string())).map(str::to_owned);
        assert_eq!(line(&before), line(&after), "reading must not change a set");
    }

    #[test]
    fn a_removed_set_has_no_values() {
        let id = Set::new(1).0;
        assert!(values(id, 1).is_err());
    }
}
