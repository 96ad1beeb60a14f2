//! SysV semaphore sets with their values, and the limits, of each IPC namespace.
//!
//! Only reading commands of semctl are used (SEM_INFO, GETALL, GETPID, GETNCNT, GETZCNT): they change neither values
//! nor times (ipc/sem.c, `semctl_info`, `semctl_main`).

use std::io;

use super::entry::Entry;
use tracer_record::{Inventory, SemLimitRow, SemSetRow, SemValue};

/// Sets with more semaphores get no values.
const VALUES_PER_SET: u32 = 64;
/// Semaphores whose values are read in one namespace, at most.
const VALUES_PER_NAMESPACE: usize = 65_536;

/// Reads the namespace of the calling thread.
pub(super) fn read_here(ns: u32, out: &mut Inventory) {
    match limits(ns) {
        Ok(row) => out.sem_limits.push(row),
        Err(e) => out.problems.push(format!("limits of semaphores in IPC namespace {ns} not read: {e}")),
    }
    // The file shows the namespace of the thread that opens it (ipc/util.c, `sysvipc_proc_open`).
    let text = match std::fs::read_to_string("/proc/sysvipc/sem") {
        Ok(text) => text,
        Err(e) => {
            out.problems.push(format!("/proc/sysvipc/sem not read: {e}"));
            return;
        }
    };
    let (mut read, mut skipped, mut denied) = (0, 0_u64, 0_u64);
    for mut set in text.lines().skip(1).filter_map(|l| parse_set(l, ns)) {
        if set.nsems <= VALUES_PER_SET && read + set.nsems as usize <= VALUES_PER_NAMESPACE {
            read += set.nsems as usize;
            match values(set.id, set.nsems) {
                Ok(values) => set.values = values,
                Err(e) if e.raw_os_error() == Some(libc::EACCES) => denied += 1,
                Err(_) => continue, // removed since the file was read
            }
        } else {
            skipped += u64::from(set.nsems <= VALUES_PER_SET);
        }
        out.sem_sets.push(set);
    }
    if denied > 0 {
        out.problems.push(format!("values of {denied} semaphore sets not read: needs CAP_IPC_OWNER"));
    }
    if skipped > 0 {
        out.problems.push(format!(
            "values of {skipped} semaphore sets not read: more than {VALUES_PER_NAMESPACE} semaphores in IPC namespace {ns}"
        ));
    }
}

/// What a thread waits for at a semaphore: the first operation of its semop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemOp {
    pub num: u16,
    pub op: i16,
}

/// Reads the operation (`struct sembuf`, include/uapi/linux/sem.h) from the memory of a thread that sleeps in semop.
///
/// # Errors
/// The thread is gone, or its memory may not be read.
pub fn sem_op(tid: u32, addr: u64) -> io::Result<SemOp> {
    op_at(&Entry::open(tid)?, addr)
}

/// The same, of a thread or process that is open already.
pub(super) fn op_at(thread: &Entry, addr: u64) -> io::Result<SemOp> {
    let mut bytes = [0; 4];
    thread.memory(addr, &mut bytes)?;
    let [a, b, c, d] = bytes;
    Ok(SemOp { num: u16::from_ne_bytes([a, b]), op: i16::from_ne_bytes([c, d]) })
}

/// Who operated last on a semaphore of the namespace that `member` is in; `None` if nobody did, or it cannot be asked.
pub(super) fn last_operator(ns: u32, member: u32, id: i32, num: u16) -> Option<u32> {
    let last = super::sysv::within(ns, &[member], move || get(id, num.into(), libc::GETPID));
    last.ok()??.ok().filter(|pid| *pid != 0)
}

/// key semid perms nsems uid gid cuid cgid otime ctime; perms is octal (ipc/sem.c, `sysvipc_sem_proc_show`).
fn parse_set(line: &str, ns: u32) -> Option<SemSetRow> {
    let mut words = line.split_ascii_whitespace();
    let mut next = || words.next();
    let key = next()?.parse().ok()?;
    let id = next()?.parse().ok()?;
    let perms = u32::from_str_radix(next()?, 8).ok()?;
    let nsems = next()?.parse().ok()?;
    let uid = next()?.parse().ok()?;
    let gid = next()?.parse().ok()?;
    let cuid = next()?.parse().ok()?;
    let cgid = next()?.parse().ok()?;
    let otime = next()?.parse().ok()?;
    let ctime = next()?.parse().ok()?;
    Some(SemSetRow { ns, id, key, perms, nsems, uid, gid, cuid, cgid, otime, ctime, values: Vec::new() })
}

/// SEM_INFO: the limits of the namespace and how much of them is in use.
fn limits(ns: u32) -> io::Result<SemLimitRow> {
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
        // With SEM_INFO these two carry the use (ipc/sem.c, `semctl_info`).
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
    // SAFETY: the GET commands take no fourth argument and touch no memory of ours.
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
