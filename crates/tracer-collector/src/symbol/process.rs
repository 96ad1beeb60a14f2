//! The mappings of a process, with handles on the mapped files from the moment at which a stack of it arrived.
//!
//! A mapped file is opened through /proc/PID/map_files, which leads to the mapped file itself, whatever its path names
//! now, in any mount namespace. Without the capability for that (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE) it is opened by
//! its path below /proc/PID/root, if device and inode there, or the build-id, are those of the mapping.
//! A path handle (O_PATH) holds the file first, without a request to its file system. It is opened for reading only if
//! it is a regular file of a file system that the kernel itself serves, or that only root can mount.
//! It must not read from FUSE: the server may never answer, and a thread that waits for it cannot be killed
//! (fs/fuse/dev.c, `request_wait_answer`). A dead NFS server costs only the names: waits for it can be killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::elf::{Elf, Source, build_id};
use crate::inventory::{self, Entry, Module};
use tracer_record::Frame;

/// At most this many path handles are held for waiting stacks; further files are opened when they are read.
const HELD_MAX: usize = 400;
/// At most this many files of one process are held for unwinding.
const HELD_EACH: usize = 24;
static HELD: AtomicUsize = AtomicUsize::new(0);

/// A held file.
struct Held {
    module: usize,
    fd: OwnedFd,
    _room: Room,
}

/// One descriptor of the budget of all processes: there may be more processes than descriptors.
struct Room;

impl Room {
    fn take() -> Option<Self> {
        let taken = HELD.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < HELD_MAX).then_some(n + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A process as it was when a stack of it arrived.
pub struct Process {
    pub(super) tgid: u32,
    entry: Option<Entry>,
    /// By address.
    pub modules: Vec<Module>,
    held: Vec<Held>,
    mounts: OnceLock<Mounts>,
    root: Option<OwnedFd>,
    /// Of the process's entry and its root.
    rooms: Vec<Room>,
    /// The process exited while its files were being held.
    ended: bool,
}

/// Distinguishes two states of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileKey {
    dev: u64,
    ino: u64,
    len: u64,
    mtime_ns: i64,
}

impl Process {
    /// Reads the mappings of a process; without modules if it does not exist.
    pub fn read(tgid: u32) -> Self {
        let entry = Entry::open(tgid).ok();
        let modules = entry.as_ref().map(inventory::modules_of).unwrap_or_default();
        let rooms = Vec::from_iter(Room::take());
        let entry = entry.filter(|_| !rooms.is_empty());
        Self { tgid, entry, modules, held: Vec::new(), mounts: OnceLock::new(), root: None, rooms, ended: false }
    }

    /// The process id.
    pub fn tgid(&self) -> u32 {
        self.tgid
    }

    /// Whether nothing could be read, or the process exited before all files were held.
    pub fn is_gone(&self) -> bool {
        self.modules.is_empty() || self.ended
    }

    /// Holds the file of a module, so that it can be read after the process exited.
    pub fn hold(&mut self, module: usize) {
        if self.held.iter().any(|h| h.module == module) {
            return;
        }
        self.hold_root();
        let (Some(entry), Some(m)) = (&self.entry, self.modules.get(module)) else { return };
        if !m.path.starts_with('/') {
            return;
        }
        let Some(room) = Room::take() else { return };
        match mapped(entry, m) {
            Ok(fd) => self.held.push(Held { module, fd, _room: room }),
            Err(e) => self.ended |= inventory::vanished(&e),
        }
    }

    /// Holds the root and the mount table, which disappear with the process.
    fn hold_root(&mut self) {
        let (None, Some(entry)) = (&self.root, &self.entry) else { return };
        let Some(room) = Room::take() else { return };
        self.rooms.push(room);
        let own = std::fs::read_link("/proc/self/ns/mnt").ok();
        let link = entry.link("ns/mnt");
        self.ended |= link.as_ref().is_err_and(inventory::vanished);
        let same = link.is_ok_and(|it| own.is_some_and(|own| own.as_os_str() == it.as_str()));
        self.root = entry.directory("root").ok();
        // Most processes share this process's mounts, which can be read later.
        if !same {
            self.mounts();
        }
    }

    /// Holds the files of the first modules, the program and its libraries, which unwinding may need.
    pub fn hold_all(&mut self) {
        for module in 0..self.modules.len().min(HELD_EACH) {
            self.hold(module);
        }
    }

    /// The frame at an address, with the file mapped there.
    pub fn frame(&self, addr: u64) -> Frame {
        let place = self.locate(addr).and_then(|(at, offset)| Some((self.modules.get(at)?.path.clone(), offset)));
        let (module, offset) = place.unzip();
        Frame { addr, module, offset }
    }

    /// The index of the module that contains an address, and the address's offset in its file.
    pub fn locate(&self, addr: u64) -> Option<(usize, u64)> {
        let after = self.modules.partition_point(|m| m.start <= addr);
        let at = after.checked_sub(1)?;
        let module = self.modules.get(at).filter(|m| addr < m.end)?;
        Some((at, (addr - module.start).checked_add(module.offset)?))
    }

    /// Opens the file of a module for reading.
    ///
    /// # Errors
    /// `Unsupported` if files of this file system are not read; otherwise why it cannot be opened.
    pub(super) fn open(&self, module: usize) -> io::Result<(File, FileKey)> {
        let m = self.modules.get(module).ok_or(io::ErrorKind::NotFound)?;
        if !m.path.starts_with('/') || !self.mounts().are_read(m.device) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let held = self.held.iter().find(|h| h.module == module).map(|h| &h.fd);
        let file = match (held, &self.entry) {
            (Some(fd), _) => readable(fd)?,
            (None, Some(entry)) => match mapped(entry, m) {
                Ok(fd) => readable(&fd)?,
                Err(e) => self.by_path(m).ok_or(e)?,
            },
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let stat = file.metadata()?;
        let mtime_ns = stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec());
        Ok((file, FileKey { dev: stat.dev(), ino: stat.ino(), len: stat.len(), mtime_ns }))
    }

    /// The file at a module's path, if it is the mapped one.
    fn by_path(&self, m: &Module) -> Option<File> {
        let file = self.below_root(m.path.strip_prefix('/')?).ok()?;
        let stat = file.metadata().ok()?;
        let device = (rustix::fs::major(stat.dev()), rustix::fs::minor(stat.dev()));
        if device == m.device && stat.ino() == m.inode {
            return Some(file);
        }
        // Some file systems show other numbers for a mapping; compare the build-ids then.
        let found = Elf::open(Source::file(file.try_clone().ok()?).ok()?).ok()?.build_id?;
        (self.build_id_in_memory(m)? == found).then_some(file)
    }

    /// The build-id in the memory of a process, at the first mapping of the same file.
    fn build_id_in_memory(&self, m: &Module) -> Option<Vec<u8>> {
        let entry = self.entry.as_ref()?;
        let first = entry.long_text("maps").ok()?;
        let start = first.lines().filter(|l| l.ends_with(m.path.as_str())).find_map(|l| {
            let (range, rest) = l.split_once(' ')?;
            let offset = rest.split(' ').nth(1)?;
            (u64::from_str_radix(offset, 16) == Ok(0))
                .then(|| u64::from_str_radix(range.split_once('-')?.0, 16).ok())?
        })?;
        let mut page = vec![0; 4096];
        entry.memory(start, &mut page).ok()?;
        // Linkers put the note into the first page: search its name, which precedes the value.
        let at = page.windows(4).position(|w| w == b"GNU\0")?.checked_sub(12)?;
        (at..page.len()).step_by(4).find_map(|at| build_id(page.get(at..)?))
    }

    /// Opens a regular file by a path of the process's mount namespace; links cannot lead outside its root.
    pub(super) fn below_root(&self, path: &str) -> io::Result<File> {
        readable(&self.handle_below_root(path, OFlags::empty())?)
    }

    /// As [`Self::below_root`], but a path handle; `flags` is empty or O_NOFOLLOW.
    pub(super) fn handle_below_root(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let own;
        let root = match (&self.root, &self.entry) {
            (Some(root), _) => root,
            (None, Some(entry)) => {
                own = entry.directory("root")?;
                &own
            }
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?)
    }

    /// The effective user, and the pid in the process's own pid namespace.
    pub(super) fn user(&self) -> Option<(u32, u32)> {
        let status = self.entry.as_ref()?.text("status").ok()?;
        let field = |key| inventory::field(&status, key);
        let uid = field("Uid")?.split_whitespace().nth(1)?.parse().ok()?;
        let pid = field("NStgid").and_then(|pids| pids.split_whitespace().last()?.parse().ok()).unwrap_or(self.tgid);
        Some((uid, pid))
    }

    /// The mounts of the process and of this one.
    pub(super) fn mounts(&self) -> &Mounts {
        self.mounts.get_or_init(|| {
            let own = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let of_it = self.entry.as_ref().and_then(|e| e.long_text("mountinfo").ok());
            let of_it = of_it.unwrap_or_else(|| own.clone());
            Mounts { of_it, own }
        })
    }
}

fn mapped(entry: &Entry, m: &Module) -> io::Result<OwnedFd> {
    entry.path_handle(&format!("map_files/{:x}-{:x}", m.start, m.end))
}

/// Opens the file behind a path handle for reading, if it is a regular file.
pub(super) fn readable(fd: &OwnedFd) -> io::Result<File> {
    let stat = rustix::fs::fstat(fd)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty())?;
    Ok(file.into())
}

/// File systems of a network or a hypervisor, which only root can mount.
const REMOTE: [&str; 9] = ["9p", "afs", "ceph", "cifs", "lustre", "nfs", "nfs4", "smb3", "virtiofs"];

/// Whether files of a file system of this type are read.
fn is_read(kind: &str) -> bool {
    inventory::is_local(kind) || REMOTE.contains(&kind)
}

/// The mounts of two processes, which decide whether a device is read.
pub(super) struct Mounts {
    of_it: String,
    own: String,
}

impl Mounts {
    /// Whether files of the device (major, minor) are read.
    pub(super) fn are_read(&self, device: (u32, u32)) -> bool {
        let kind = [&self.of_it, &self.own].into_iter().find_map(|text| inventory::file_system_of(text, device));
        kind.is_some_and(is_read)
    }

    /// As [`Self::is_read`], for a path of the process's mount namespace.
    pub(super) fn is_read_path(&self, path: &str) -> bool {
        inventory::file_system(&self.of_it, path).is_some_and(is_read)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_read_as_it_is_mapped() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("sleeper");
        std::fs::copy("/bin/sleep", &path)?;
        let len = std::fs::metadata(&path)?.len();
        let mut child = Command::new(&path).arg("60").stdout(Stdio::null()).spawn()?;
        std::fs::remove_file(&path)?;
        std::fs::write(&path, "another")?;
        // spawn waits until exec closes its descriptors, and that maps the program a moment later.
        let (mut process, at) = loop {
            let process = Process::read(child.id());
            if let Some(at) = process.modules.iter().position(|m| m.path.contains("sleeper")) {
                break (process, at);
            }
        };
        process.hold(at);
        child.kill()?;
        child.wait()?;
        let opened = process.open(at).ok().map(|(file, _)| file);
        // map_files needs a right that a test run may lack; then there is nothing, and never the wrong file.
        if rustix::process::geteuid().is_root() {
            assert_eq!(opened.expect("held").metadata()?.len(), len);
        } else {
            assert!(opened.is_none_or(|f| f.metadata().is_ok_and(|m| m.len() == len)));
        }
        Ok(())
    }

    #[test]
    fn file_systems() {
        let own = "20 1 254:0 / / rw - ext4 /dev/vda rw\n30 20 0:40 / /net rw - nfs4 host:/ rw\n";
        let of_it = "41 20 0:50 / /app rw - fuse.evil none rw\n42 20 0:51 / /tmp rw - tmpfs none rw\n";
        let mounts = Mounts { of_it: of_it.into(), own: own.into() };
        for (device, want) in [((254, 0), true), ((0, 40), true), ((0, 50), false), ((0, 51), true), ((9, 9), false)] {
            assert_eq!(mounts.are_read(device), want, "{device:?}");
        }
        assert!(mounts.is_read_path("/tmp/x.debug") && !mounts.is_read_path("/app/x.debug"));
    }

    #[test]
    fn what_ends_before_its_files_are_held_is_gone() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("spawn");
        let mut process = loop {
            let process = Process::read(child.id());
            if !process.is_gone() {
                break process;
            }
        };
        child.kill().expect("kill");
        child.wait().expect("wait");
        process.hold_all();
        assert!(process.is_gone() && !process.modules.is_empty());
    }

    #[test]
    fn what_is_gone_has_nothing() {
        let mut child = Command::new("true").spawn().expect("spawn");
        child.wait().expect("wait");
        let mut process = Process::read(child.id());
        process.hold(0);
        assert!(process.is_gone() && process.locate(1).is_none() && process.below_root("etc/passwd").is_err());
    }

    #[test]
    fn links_lead_nowhere_outside_the_root() -> io::Result<()> {
        let process = Process::read(std::process::id());
        assert!(process.below_root("proc/self/exe").is_err(), "a magic link");
        assert!(process.below_root("dev/null").is_err(), "a device");
        assert!(process.handle_below_root("proc/self", OFlags::NOFOLLOW).is_ok());
        Ok(())
    }
}
