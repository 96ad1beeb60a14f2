//! Removes one object, after a check that it is still the one that was shown.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A kind of System V object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysv {
    Sem,
    Shm,
    Msg,
}

/// Identifies an object as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An id is a slot and a sequence number, which repeats; so key, creator and times are compared, too.
    Sysv { kind: Sysv, id: i32, state: State },
    /// A name in a file system.
    File { path: PathBuf, dev: u64, ino: u64 },
    /// A POSIX message queue whose file system is not mounted, by its name with the leading slash.
    Queue { name: String, dev: u64, ino: u64 },
}

/// The state of a System V object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub key: i32,
    pub cuid: u32,
    /// Seconds since 1970.
    pub ctime: u64,
    /// Times of the last semop, and 0; of the last attach and detach; or of the last send and receive.
    pub used: [u64; 2],
    /// Number of attachments of a segment.
    pub nattch: u64,
}

/// Why an object was not removed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it no longer exists")]
    Gone,
    #[error("it was changed since it was shown, or its id belongs to another object now")]
    Another,
    #[error("it was used since it was shown; check it again, or use --force")]
    Used,
    #[error("not permitted: {0}; run as its owner, or with CAP_SYS_ADMIN")]
    NotPermitted(io::Error),
    #[error("{0}")]
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        match e.raw_os_error() {
            // EINVAL: no such id; EIDRM: removed, or its slot has another one (ipc/util.c, `ipc_obtain_object_check`).
            Some(libc::EINVAL | libc::EIDRM | libc::ENOENT) => Self::Gone,
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted(e),
            _ => Self::Failed(e),
        }
    }
}

/// Removes an object of the calling thread's IPC namespace; with `force` also if it was used meanwhile.
///
/// # Errors
/// The object is not the same any more, or the kernel refuses.
pub fn remove(object: &Identity, force: bool) -> Result<(), Refusal> {
    match object {
        Identity::Sysv { kind, id, state } => {
            let now = stat(*kind, *id)?;
            same(state, &now, force)?;
            // SAFETY: IPC_RMID takes no pointer; the buffer of shmctl and msgctl may be null.
            let r = unsafe {
                match kind {
                    Sysv::Sem => libc::semctl(*id, 0, libc::IPC_RMID),
                    Sysv::Shm => libc::shmctl(*id, libc::IPC_RMID, std::ptr::null_mut()),
                    Sysv::Msg => libc::msgctl(*id, libc::IPC_RMID, std::ptr::null_mut()),
                }
            };
            if r < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
        }
        Identity::File { path, dev, ino } => {
            let meta = std::fs::symlink_metadata(path)?;
            if (meta.dev(), meta.ino()) != (*dev, *ino) {
                return Err(Refusal::Another);
            }
            Ok(std::fs::remove_file(path)?)
        }
        Identity::Queue { name, dev, ino } => {
            let name = CString::new(name.as_str()).map_err(io::Error::from)?;
            let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
            // SAFETY: a string that ends with a zero byte; without O_CREAT nothing else is read.
            let fd = unsafe { libc::mq_open(name.as_ptr(), flags) };
            if fd < 0 {
                return Err(io::Error::last_os_error().into());
            }
            // SAFETY: opened above, and owned only here.
            let queue = unsafe { OwnedFd::from_raw_fd(fd) };
            let meta = rustix::fs::fstat(&queue).map_err(io::Error::from)?;
            if (meta.st_dev, meta.st_ino) != (*dev, *ino) {
                return Err(Refusal::Another);
            }
            // SAFETY: a string that ends with a zero byte.
            if unsafe { libc::mq_unlink(name.as_ptr()) } < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
        }
    }
}

fn same(shown: &State, now: &State, force: bool) -> Result<(), Refusal> {
    if (shown.key, shown.cuid) != (now.key, now.cuid) || now.ctime < shown.ctime {
        return Err(Refusal::Another);
    }
    // A later ctime means IPC_SET, SETVAL, or another object in the slot, which cannot be distinguished.
    if now.ctime > shown.ctime {
        return Err(Refusal::Another);
    }
    if !force && (shown.used != now.used || now.nattch > shown.nattch) {
        return Err(Refusal::Used);
    }
    Ok(())
}

fn stat(kind: Sysv, id: i32) -> io::Result<State> {
    let seconds = |t: i64| u64::try_from(t).unwrap_or(0);
    let done = |r: libc::c_int| if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    match kind {
        Sysv::Sem => {
            // SAFETY: an all-zero `semid_ds` is valid: it holds integers only.
            let mut ds: libc::semid_ds = unsafe { std::mem::zeroed() };
            // SAFETY: IPC_STAT writes one `semid_ds` to the given address.
            done(unsafe { libc::semctl(id, 0, libc::IPC_STAT, &raw mut ds) })?;
            let used = [seconds(ds.sem_otime), 0];
            Ok(State { key: ds.sem_perm.__key, cuid: ds.sem_perm.cuid, ctime: seconds(ds.sem_ctime), used, nattch: 0 })
        }
        Sysv::Shm => {
            // SAFETY: an all-zero `shmid_ds` is valid: it holds integers only.
            let mut ds: libc::shmid_ds = unsafe { std::mem::zeroed() };
            // SAFETY: IPC_STAT writes one `shmid_ds` to the given address.
            done(unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut ds) })?;
            let used = [seconds(ds.shm_atime), seconds(ds.shm_dtime)];
            let (perm, ctime) = (ds.shm_perm, seconds(ds.shm_ctime));
            Ok(State { key: perm.__key, cuid: perm.cuid, ctime, used, nattch: ds.shm_nattch })
        }
        Sysv::Msg => {
            // SAFETY: an all-zero `msqid_ds` is valid: it holds integers only.
            let mut ds: libc::msqid_ds = unsafe { std::mem::zeroed() };
            // SAFETY: IPC_STAT writes one `msqid_ds` to the given address.
            done(unsafe { libc::msgctl(id, libc::IPC_STAT, &raw mut ds) })?;
            let used = [seconds(ds.msg_stime), seconds(ds.msg_rtime)];
            let (perm, ctime) = (ds.msg_perm, seconds(ds.msg_ctime));
            Ok(State { key: perm.__key, cuid: perm.cuid, ctime, used, nattch: 0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_unused_object_goes() {
        let shown = State { key: 5, cuid: 1, ctime: 100, used: [90, 0], nattch: 0 };
        for (what, now, force, want) in [
            ("same", shown, false, None),
            ("another key", State { key: 6, ..shown }, true, Some("another object")),
            ("another creator", State { cuid: 2, ..shown }, true, Some("another object")),
            ("a later one", State { ctime: 101, ..shown }, true, Some("another object")),
            ("used", State { used: [120, 0], ..shown }, false, Some("was used")),
            ("used, forced", State { used: [120, 0], ..shown }, true, None),
            ("attached", State { nattch: 1, ..shown }, false, Some("was used")),
        ] {
            let got = same(&shown, &now, force).err().map(|e| e.to_string());
            assert!(
                match want {
                    Some(text) => got.as_ref().is_some_and(|g| g.contains(text)),
                    None => got.is_none(),
                },
                "{what}: {got:?}"
            );
        }
    }

    #[test]
    fn a_set_a_segment_and_a_queue() {
        // SAFETY: the get calls take numbers only.
        let ids = unsafe {
            [
                (Sysv::Sem, libc::semget(libc::IPC_PRIVATE, 1, 0o600 | libc::IPC_CREAT)),
                (Sysv::Shm, libc::shmget(libc::IPC_PRIVATE, 1, 0o600 | libc::IPC_CREAT)),
                (Sysv::Msg, libc::msgget(libc::IPC_PRIVATE, 0o600 | libc::IPC_CREAT)),
            ]
        };
        for (kind, id) in ids {
            assert!(id >= 0);
            let state = stat(kind, id).expect("stat");
            let wrong = Identity::Sysv { kind, id, state: State { ctime: state.ctime - 1, ..state } };
            assert!(matches!(remove(&wrong, true), Err(Refusal::Another)), "{kind:?}");
            let right = Identity::Sysv { kind, id, state };
            remove(&right, false).expect("remove");
            assert!(matches!(remove(&right, false), Err(Refusal::Gone)), "{kind:?}");
        }
    }

    #[test]
    fn a_file_that_was_replaced_stays() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("sem.x");
        std::fs::write(&path, "a").expect("write");
        let meta = std::fs::symlink_metadata(&path).expect("stat");
        let other = Identity::File { path: path.clone(), dev: meta.dev(), ino: meta.ino() + 1 };
        assert!(matches!(remove(&other, true), Err(Refusal::Another)));
        let same = Identity::File { path: path.clone(), dev: meta.dev(), ino: meta.ino() };
        remove(&same, false).expect("remove");
        assert!(matches!(remove(&same, false), Err(Refusal::Gone)) && !path.exists());
    }
}
