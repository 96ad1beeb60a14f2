//! POSIX message queues, semaphores and shared memory objects, and the processes that have them open or mapped.
//!
//! They are files of mqueue and of the tmpfs at /dev/shm. It must not read from any other file system.
//! Holders are found by device and inode number in maps, and by name in descriptors.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::entry::{Entry, INIT, field, pids, vanished};
use super::fd::Table;
use super::file::{minor_of, parse_map, unescaped};
use super::{number, process};
use tracer_record::{PosixHolder, PosixInventory, PosixKind, PosixObject, PosixQueue};

/// Where the C library creates semaphores and shared memory.
const SHM_DIR: &str = "/dev/shm";
/// At most this many names of one directory are listed.
const NAMES_MAX: usize = 16_384;
/// A status line of a queue: `QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260`.
const STATUS_MAX: usize = 256;

/// All objects of this mount namespace with the processes that have them open or mapped; and what could not be read.
pub fn posix_objects() -> (PosixInventory, Vec<String>) {
    let (mut found, mut problems) = posix_names();
    find_holders(&mut found.objects, &mut problems);
    if found.objects.iter().any(|o| o.holders.is_empty()) {
        still_there(&mut found.objects, &posix_names().0.objects);
    }
    (found, problems)
}

/// Leaves out objects without holders that no longer exist: the last holder may have removed one during the search.
fn still_there(objects: &mut Vec<PosixObject>, now: &[PosixObject]) {
    let names: HashSet<(u32, u64, &str)> = now.iter().map(|o| (o.device, o.ino, o.name.as_str())).collect();
    objects.retain(|o| !o.holders.is_empty() || names.contains(&(o.device, o.ino, o.name.as_str())));
}

/// As [`posix_objects`], without the users, whose search takes long if there are many processes.
pub fn posix_names() -> (PosixInventory, Vec<String>) {
    let mut problems = Vec::new();
    let mut out = PosixInventory { queues_max: number("/proc/sys/fs/mqueue/queues_max"), ..PosixInventory::default() };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount_point(&mounts, |kind, _| kind == "mqueue") {
        Some(dir) => list(Path::new(&dir), &mut out.objects, &mut problems, true),
        None => match unmounted_queues() {
            Ok(root) => {
                let dir = format!("/proc/self/fd/{}", root.as_raw_fd());
                list(Path::new(&dir), &mut out.objects, &mut problems, true);
                out.objects.iter_mut().for_each(|o| o.path.clear());
            }
            Err(e) => {
                out.unlisted.push(PosixKind::Mq);
                problems.push(format!(
                    "POSIX message queues not listed: their file system is not mounted (mount -t mqueue none \
                     /dev/mqueue), and cannot be read otherwise: {e}"
                ));
            }
        },
    }
    if let Some(shm) = shm_mount(&mounts) {
        list(Path::new(SHM_DIR), &mut out.objects, &mut problems, false);
        let block = shm.f_frsize;
        out.shm_max_bytes = shm.f_blocks.saturating_mul(block);
        out.shm_used_bytes = shm.f_blocks.saturating_sub(shm.f_bfree).saturating_mul(block);
    } else {
        out.unlisted.extend([PosixKind::Sem, PosixKind::Shm]);
        problems.push(format!("POSIX semaphores and shared memory not listed: {SHM_DIR} is no tmpfs here"));
    }
    out.objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    (out, problems)
}

/// Device of the file system with semaphores and shared memory, in the kernel's encoding (`MKDEV` of
/// include/linux/kdev_t.h); 0 if there is none.
pub fn shm_device() -> u32 {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let there = shm_mount(&mounts).and_then(|_| std::fs::metadata(SHM_DIR).ok());
    there.map_or(0, |meta| kernel_device(meta.dev()))
}

/// A device number of stat(2) in the kernel's encoding.
fn kernel_device(dev: u64) -> u32 {
    rustix::fs::major(dev) << 20 | rustix::fs::minor(dev)
}

/// The result of statvfs(3) for the tmpfs at /dev/shm, if there is one.
fn shm_mount(mounts: &str) -> Option<rustix::fs::StatVfs> {
    mount_point(mounts, |kind, point| matches!(kind, "tmpfs" | "ramfs") && point == SHM_DIR)?;
    rustix::fs::statvfs(SHM_DIR).ok()
}

/// The root of the queues' file system of this IPC namespace, in a detached mount that ends with its handle.
/// Linux 5.2 and later; needs `CAP_SYS_ADMIN`.
fn unmounted_queues() -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
    let system = fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&system)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn list(dir: &Path, out: &mut Vec<PosixObject>, problems: &mut Vec<String>, queues: bool) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) => {
            problems.push(format!("{} not read: {e}", dir.display()));
            return;
        }
    };
    let mut left_out = 0_u64;
    let before = out.len();
    for entry in entries.flatten() {
        if out.len() - before >= NAMES_MAX {
            left_out += 1;
            continue;
        }
        let path = entry.path();
        // The status of the entry itself, not of a link's target.
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if !meta.is_file() {
            continue;
        }
        let file = entry.file_name().to_string_lossy().into_owned();
        let (kind, name) = match file.strip_prefix("sem.") {
            _ if queues => (PosixKind::Mq, file.as_str()),
            Some(name) => (PosixKind::Sem, name),
            None => (PosixKind::Shm, file.as_str()),
        };
        out.push(PosixObject {
            kind,
            name: format!("/{name}"),
            path: path.to_string_lossy().into_owned(),
            dev: meta.dev(),
            device: kernel_device(meta.dev()),
            ino: meta.ino(),
            size_bytes: meta.size(),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode() & 0o7777,
            mtime: u64::try_from(meta.mtime()).unwrap_or(0),
            ctime: u64::try_from(meta.ctime()).unwrap_or(0),
            queue: if queues { queue(&path) } else { None },
            holders: Vec::new(),
            complete: false,
        });
    }
    if left_out > 0 {
        problems.push(format!("{left_out} names of {} not read: too many", dir.display()));
    }
}

/// The contents of a queue. Reading its file removes no message (ipc/mqueue.c, `mqueue_read_file`).
fn queue(path: &Path) -> Option<PosixQueue> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).ok()?;
    let mut buf = [0; STATUS_MAX];
    let len = rustix::io::read(&file, &mut buf).ok()?;
    let status = std::str::from_utf8(buf.get(..len)?).ok()?;
    Some(PosixQueue { attributes: attributes(file.as_fd()), ..parse_queue(status)? })
}

/// Number of messages, its maximum, and the largest message in bytes.
fn attributes(queue: BorrowedFd<'_>) -> Option<[u64; 3]> {
    let mut found = std::mem::MaybeUninit::<libc::mq_attr>::zeroed();
    // SAFETY: a descriptor that lives as long as the call, and room for one mq_attr.
    if unsafe { libc::mq_getattr(queue.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: zeroed is a valid mq_attr, and the call wrote one.
    let found = unsafe { found.assume_init() };
    let [now, most, bytes] = [found.mq_curmsgs, found.mq_maxmsg, found.mq_msgsize].map(u64::try_from);
    Some([now.ok()?, most.ok()?, bytes.ok()?])
}

fn parse_queue(status: &str) -> Option<PosixQueue> {
    let word = |name| status.split_ascii_whitespace().find_map(|w| w.strip_prefix(name));
    let notify_pid = word("NOTIFY_PID:").and_then(|p| p.parse().ok()).unwrap_or(0);
    Some(PosixQueue { bytes: word("QSIZE:")?.parse().ok()?, notify_pid, attributes: None })
}

/// Searches all processes for the users of the objects, if there are any.
fn find_holders(objects: &mut [PosixObject], problems: &mut Vec<String>) {
    if objects.is_empty() {
        return;
    }
    objects.iter_mut().for_each(|o| o.complete = true);
    let minor = |dev: u64| rustix::fs::minor(dev);
    let by_file: HashMap<(u32, u64), usize> =
        objects.iter().enumerate().map(|(at, o)| ((minor(o.dev), o.ino), at)).collect();
    // The link of mq_open's descriptors is the queue's name, others are the path in the holder's mount namespace.
    let mut by_link: HashMap<String, usize> = HashMap::new();
    for (at, o) in objects.iter().enumerate() {
        by_link.insert(o.path.clone(), at);
        if o.kind == PosixKind::Mq {
            by_link.insert(o.name.clone(), at);
        }
    }
    let mut denied = Vec::new();
    let all = pids();
    if !all.contains(&INIT) {
        // With hidepid some users may not even be listed; the inventory reports that.
        objects.iter_mut().for_each(|o| o.complete = false);
    }
    for pid in all {
        let Ok(entry) = Entry::open(pid) else { continue };
        let uses = match uses_of(&entry, objects, &by_file, &by_link) {
            Ok(uses) if uses.is_empty() => continue,
            Ok(uses) => uses,
            Err(e) => {
                if !vanished(&e) && pid != INIT {
                    denied.push(pid);
                }
                continue;
            }
        };
        let Some(stat) = process::stat(&entry, &mut Vec::new()) else { continue };
        for (at, (open, mapped)) in uses {
            if let Some(object) = objects.get_mut(at) {
                object.holders.push(PosixHolder { tgid: pid, start_ns: stat.start_ns, open, mapped });
            }
        }
    }
    if let Some(first) = denied.first() {
        objects.iter_mut().for_each(|o| o.complete = false);
        problems.push(format!(
            "users of POSIX objects among {} processes not read (first: pid {first}): needs CAP_SYS_PTRACE over them",
            denied.len()
        ));
    }
}

/// Which of the objects, by index, a process has (open, mapped).
fn uses_of(
    entry: &Entry,
    objects: &[PosixObject],
    by_file: &HashMap<(u32, u64), usize>,
    by_link: &HashMap<String, usize>,
) -> io::Result<HashMap<usize, (bool, bool)>> {
    let mut uses: HashMap<usize, (bool, bool)> = HashMap::new();
    for m in entry.long_text("maps")?.lines().filter_map(parse_map) {
        if let Some(at) = by_file.get(&(m.minor, m.ino)) {
            uses.entry(*at).or_default().1 = true;
        }
    }
    let Ok(table) = Table::of(entry) else { return Ok(uses) };
    for fd in &table.fds {
        if let Some(at) = table.link(*fd).ok().and_then(|l| by_link.get(&l).copied())
            && objects.get(at).is_some_and(|o| is_it(o, entry, &table, *fd))
        {
            uses.entry(at).or_default().0 = true;
        }
    }
    Ok(uses)
}

/// Whether a descriptor whose link is the object's name may be the object itself, and not one of the same name in
/// another namespace, or a file at the root.
fn is_it(object: &PosixObject, entry: &Entry, table: &Table, fd: u32) -> bool {
    let Ok(info) = table.info(fd) else { return true };
    // Linux 5.14 and later.
    let same_inode = field(&info, "ino").and_then(|i| i.parse::<u64>().ok()).is_none_or(|ino| ino == object.ino);
    // Descriptors of queues have an internal mount of the kernel, which is in no mount table.
    let minor = || {
        let mounts = entry.long_text("mountinfo").ok()?;
        minor_of(&mounts, field(&info, "mnt_id")?)
    };
    same_inode && minor().is_none_or(|m| m == rustix::fs::minor(object.dev))
}

/// The mount point of the first mount that fits (file system, point).
/// Source of the fields: proc(5), /proc/PID/mountinfo.
fn mount_point(mountinfo: &str, fits: impl Fn(&str, &str) -> bool) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        let kind = after.split(' ').next()?;
        fits(kind, point).then(|| unescaped(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "23 28 0:21 / /proc rw,nosuid - proc proc rw\n\
                          31 28 0:27 / /dev/shm rw shared:4 - tmpfs tmpfs rw\n\
                          33 28 0:18 / /dev/mqueue rw - mqueue mqueue rw\n\
                          broken line\n";

    #[test]
    fn mounts() {
        assert_eq!(mount_point(MOUNTS, |k, _| k == "mqueue").as_deref(), Some("/dev/mqueue"));
        assert_eq!(mount_point(MOUNTS, |k, p| k == "tmpfs" && p == SHM_DIR).as_deref(), Some("/dev/shm"));
        assert_eq!(mount_point(MOUNTS, |k, _| k == "nfs"), None);
    }

    #[test]
    fn status_of_a_queue() {
        let queue = parse_queue("QSIZE:129        NOTIFY:2     SIGNO:0     NOTIFY_PID:8260  \n").expect("queue");
        assert_eq!(queue, PosixQueue { bytes: 129, notify_pid: 8260, attributes: None });
        assert_eq!(parse_queue("QSIZE:x"), None);
        assert_eq!(parse_queue(""), None);
    }

    #[test]
    fn what_was_removed_meanwhile_is_no_object() {
        let object = |name: &str, ino, holders: &[u32]| PosixObject {
            kind: PosixKind::Shm,
            name: name.to_owned(),
            path: format!("{SHM_DIR}{name}"),
            dev: 27,
            device: 27,
            ino,
            size_bytes: 0,
            uid: 0,
            gid: 0,
            mode: 0o600,
            mtime: 0,
            ctime: 0,
            queue: None,
            holders: holders
                .iter()
                .map(|tgid| PosixHolder { tgid: *tgid, start_ns: 0, open: true, mapped: false })
                .collect(),
            complete: true,
        };
        let mut found =
            vec![object("/stays", 1, &[]), object("/gone", 2, &[]), object("/new", 3, &[]), object("/held", 4, &[7])];
        still_there(&mut found, &[object("/stays", 1, &[]), object("/new", 5, &[])]);
        let left: Vec<&str> = found.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(left, ["/stays", "/held"]);
    }

    #[test]
    fn a_mapped_object_has_this_process_as_its_holder() {
        let name = format!("/ipctrace-test-{}", std::process::id());
        let path = format!("{SHM_DIR}{name}");
        let Ok(file) = std::fs::File::create_new(&path) else {
            return tracer_skip::skip!("cannot create {path}");
        };
        let found = posix_objects().0.objects;
        std::fs::remove_file(&path).expect("remove");
        // Not every build machine has a tmpfs there.
        if let Some(object) = found.iter().find(|o| o.path == path) {
            assert_eq!((object.kind, object.name.as_str()), (PosixKind::Shm, name.as_str()));
            assert!(object.holders.iter().any(|h| h.tgid == std::process::id() && h.open && !h.mapped));
        }
        drop(file);
    }
}
