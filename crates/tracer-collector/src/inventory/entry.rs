//! One directory of /proc/PID, held open so that all its files belong to the same process.
//!
//! A path handle to /proc/PID stays with its process: after its exit reads fail with ESRCH, even if the pid is in use
//! again (fs/proc/base.c, `get_proc_task`).

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Statx, StatxFlags};

/// Longest file of /proc that is read; maps of a huge process are the largest.
const FILE_MAX: usize = 64 << 20;

/// The host's init may be protected even from root; its descriptors and mappings are left out then.
pub(super) const INIT: u32 = 1;

/// /proc/PID of one process, or a directory in it.
pub struct Entry {
    dir: OwnedFd,
}

impl Entry {
    /// # Errors
    /// ENOENT if there is no such process.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())? })
    }

    /// A directory below this one (`task/TID`).
    pub(super) fn below(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { dir: rustix::fs::openat(&self.dir, name, flags, Mode::empty())? })
    }

    /// Replaces `buf` by the contents of a file below this directory that the kernel writes in one piece
    /// (stat, status, limits, fdinfo...): there a short read is the end.
    pub(super) fn read(&self, name: &str, buf: &mut Vec<u8>) -> io::Result<()> {
        self.read_until(name, buf, |room, got| got < room)
    }

    /// The contents of a file as text; invalid UTF-8 is replaced.
    pub(crate) fn text(&self, name: &str) -> io::Result<String> {
        let mut buf = Vec::new();
        self.read(name, &mut buf)?;
        Ok(String::from_utf8_lossy(&buf).into_owned())
    }

    /// As [`Self::text`], for a file of many records (maps), which the kernel writes in pieces.
    pub(crate) fn long_text(&self, name: &str) -> io::Result<String> {
        let mut buf = Vec::new();
        self.read_until(name, &mut buf, |_, got| got == 0)?;
        Ok(String::from_utf8_lossy(&buf).into_owned())
    }

    /// Reads until `end`, given the room of a read and the bytes that it returned, is true.
    fn read_until(&self, name: &str, buf: &mut Vec<u8>, end: impl Fn(usize, usize) -> bool) -> io::Result<()> {
        buf.clear();
        let file = rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        while buf.len() < FILE_MAX {
            let len = buf.len();
            buf.resize(len + 4096.max(len), 0);
            let room = buf.len() - len;
            let got = rustix::io::read(&file, buf.get_mut(len..).unwrap_or_default());
            buf.truncate(len + got.unwrap_or(0));
            match got {
                Ok(got) if end(room, got) => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Reads memory of the process at `addr`, without stopping the process.
    pub(crate) fn memory(&self, addr: u64, buf: &mut [u8]) -> io::Result<()> {
        let file = rustix::fs::openat(&self.dir, "mem", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let got = rustix::io::pread(&file, &mut *buf, addr)?;
        if got < buf.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The text of a link; opens nothing.
    pub(crate) fn link(&self, name: &str) -> io::Result<String> {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::with_capacity(128))?;
        Ok(target.to_string_lossy().into_owned())
    }

    /// The mode of the link itself, not of its target.
    pub(super) fn link_mode(&self, name: &str) -> io::Result<Mode> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Mode::from_raw_mode(stat.st_mode))
    }

    /// Status of a link's target. The caller knows that its file system needs no network.
    pub(super) fn stat(&self, name: &str) -> io::Result<Statx> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        Ok(rustix::fs::statx(&self.dir, name, flags, StatxFlags::INO | StatxFlags::TYPE)?)
    }

    /// A directory whose entries' names are numbers (`fd`, `task`): its handle, and the numbers in ascending order.
    pub(super) fn numbers(&self, name: &str) -> io::Result<(Self, Vec<u32>)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = Dir::new(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?)?;
        let mut out = Vec::new();
        while let Some(entry) = dir.read() {
            out.extend(parse_number(OsStr::from_bytes(entry?.file_name().to_bytes())));
        }
        out.sort_unstable();
        Ok((self.below(name)?, out))
    }

    /// A path handle to a link's target (`map_files/...`), without a request to its file system.
    pub(crate) fn path_handle(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// A path handle to a directory that a link leads to (`root`).
    pub(crate) fn directory(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?)
    }

    /// Opens a namespace of the process (`ns/ipc`).
    pub(super) fn namespace(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Whether the process still exists, at least as a zombie.
    pub(super) fn exists(&self) -> bool {
        rustix::fs::statat(&self.dir, "stat", AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

/// All process ids of /proc, ascending.
pub(super) fn pids() -> Vec<u32> {
    let mut out: Vec<u32> =
        std::fs::read_dir("/proc").into_iter().flatten().filter_map(|e| parse_number(&e.ok()?.file_name())).collect();
    out.sort_unstable();
    out
}

/// Whether an error means that the process, or the entry, no longer exists.
pub(crate) fn vanished(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// The number in `ipc:[4026531839]`, `pipe:[8812]`.
pub(super) fn bracketed(link: &str, kind: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// The value of `key:` in a file of `key:\tvalue` lines.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

fn parse_number(name: &OsStr) -> Option<u32> {
    let name = name.to_str()?;
    name.bytes().all(|b| b.is_ascii_digit()).then(|| name.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_brackets() {
        for (link, kind, want) in [
            ("pipe:[8812]", "pipe", Some(8812)),
            ("pipe:[]", "pipe", None),
            ("pipe:[1] (deleted)", "pipe", None),
            ("/tmp/pipe:[1]", "pipe", None),
            ("socket:[7]", "pipe", None),
            ("ipc:[4026531839]", "ipc", Some(4_026_531_839)),
        ] {
            assert_eq!(bracketed(link, kind), want, "{link}");
        }
    }

    #[test]
    fn a_handle_never_reads_a_reused_pid() {
        let mut child = std::process::Command::new("true").spawn().expect("spawn");
        let entry = Entry::open(child.id()).expect("open");
        child.wait().expect("wait");
        assert!(!entry.exists());
        assert!(vanished(&entry.text("stat").expect_err("gone")));
    }

    #[test]
    fn fields_of_a_status_file() {
        let text = "pos:\t0\nflags:\t0100001\nino:\t77\n";
        assert_eq!(field(text, "flags"), Some("0100001"));
        assert_eq!(field(text, "lags"), None);
    }
}
