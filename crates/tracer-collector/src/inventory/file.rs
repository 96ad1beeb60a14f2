//! The files of a process: open, mapped, its working directory and its program.
//!
//! Open and mapped files are read from /proc alone. The status of working directory and program is read through their
//! links, but it must not be read on a file system that needs a network or another process: that could hang.

use super::entry::{Entry, field};
use super::fd::Table;
use tracer_record::listed::FileRef;

/// File systems that need no network and no other process.
const LOCAL: [&str; 15] = [
    "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "squashfs", "tmpfs",
    "vfat", "xfs", "zfs",
];

/// The files that a process has open or mapped, its working directory and its program.
pub fn files_of(pid: u32) -> Vec<FileRef> {
    let Ok(entry) = Entry::open(pid) else { return Vec::new() };
    let mut out: Vec<FileRef> = Vec::new();
    for m in entry.long_text("maps").unwrap_or_default().lines().filter_map(parse_map) {
        if out.last().is_none_or(|l| l.ino != m.ino) {
            out.push(FileRef { path: m.path.to_owned(), dev_minor: m.minor, ino: m.ino });
        }
    }
    let mounts = entry.long_text("mountinfo").unwrap_or_default();
    out.extend(["cwd", "exe"].iter().filter_map(|name| local(&entry, name, &mounts)));
    let Ok(table) = Table::of(&entry) else { return out };
    for fd in &table.fds {
        let (Ok(path), Ok(info)) = (table.link(*fd), table.info(*fd)) else { continue };
        // The inode number exists since Linux 5.14.
        let ino = field(&info, "ino").and_then(|i| i.parse().ok());
        let minor = field(&info, "mnt_id").and_then(|id| minor_of(&mounts, id));
        if let (true, Some(ino), Some(dev_minor)) = (path.starts_with('/'), ino, minor) {
            out.push(FileRef { path, dev_minor, ino });
        }
    }
    out
}

/// The target of a process's link, if its file system is local.
fn local(entry: &Entry, name: &str, mounts: &str) -> Option<FileRef> {
    // Paths of mounts start at the process's root, those of links at the root of its mount namespace.
    if entry.link("root").ok()? != "/" {
        return None;
    }
    let link = entry.link(name).ok()?;
    // A removed file keeps its inode; a mark may follow its path.
    let path = link.strip_suffix(" (deleted)").unwrap_or(&link);
    if !is_local(file_system(mounts, path)?) {
        return None;
    }
    let found = entry.stat(name).ok()?;
    Some(FileRef { path: link, dev_minor: found.stx_dev_minor, ino: found.stx_ino })
}

/// Whether file systems of this type need no network and no other process.
pub(crate) fn is_local(kind: &str) -> bool {
    LOCAL.contains(&kind)
}

/// The type of the file system of a device (major, minor).
pub(crate) fn file_system_of(mountinfo: &str, device: (u32, u32)) -> Option<&str> {
    let number = format!("{}:{}", device.0, device.1);
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        (before.split(' ').nth(2) == Some(number.as_str())).then(|| after.split(' ').next())?
    })
}

/// The type of the file system on which a path is.
/// Source of the fields: proc(5), /proc/PID/mountinfo.
pub(crate) fn file_system<'a>(mountinfo: &'a str, path: &str) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (before.split(' ').nth(4), after.split(' ').next()) else { continue };
        let point = unescaped(point);
        let below =
            point == "/" || path.strip_prefix(point.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        // Of several mounts at one point the last one is visible.
        if below && best.is_none_or(|(len, _)| len <= point.len()) {
            best = Some((point.len(), kind));
        }
    }
    best.map(|(_, kind)| kind)
}

/// A mapped file.
pub(super) struct Map<'a> {
    /// First address, and the first one after the mapping.
    start: u64,
    end: u64,
    /// Writes go to the file, visible to all processes that map it.
    pub(super) shared: bool,
    /// Offset of its first byte in the file.
    offset: u64,
    pub(super) minor: u32,
    pub(super) ino: u64,
    pub(super) path: &'a str,
}

impl Map<'_> {
    pub(super) fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Offset in the file of an address in the mapping.
    pub(super) fn offset_of(&self, address: u64) -> u64 {
        self.offset.wrapping_add(address.wrapping_sub(self.start))
    }
}

/// `start-end perms offset major:minor inode path` of a mapped file.
pub(super) fn parse_map(line: &str) -> Option<Map<'_>> {
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let (perms, offset) = (words.next()?, words.next()?);
    let (device, ino) = (words.next()?, words.next()?);
    Some(Map {
        start: hex(start)?,
        end: hex(end)?,
        shared: perms.ends_with('s'),
        offset: hex(offset)?,
        minor: u32::from_str_radix(device.split_once(':')?.1, 16).ok()?,
        ino: ino.parse().ok().filter(|i| *i != 0)?,
        path: words.next()?.trim_start(),
    })
}

/// Space, tab, newline and backslash are written as three octal digits (fs/proc_namespace.c, `show_mountinfo`).
pub(super) fn unescaped(point: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(point.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// The minor device number of the mount with this id.
pub(super) fn minor_of(mountinfo: &str, id: &str) -> Option<u32> {
    let line = mountinfo.lines().find(|l| l.split(' ').next() == Some(id))?;
    line.split(' ').nth(2)?.split_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MOUNTS: &str = "20 1 254:0 / / rw - ext4 /dev/vda rw\n\
                          23 20 0:21 / /proc rw,nosuid - proc proc rw\n\
                          31 20 0:27 / /srv/my\\040share rw shared:4 - nfs4 host:/ rw\n\
                          40 20 0:30 / /mnt rw - nfs host:/ rw\n\
                          41 20 0:31 / /mnt rw - tmpfs none rw\n\
                          broken line\n";

    #[test]
    fn mounts() {
        assert_eq!((minor_of(MOUNTS, "31"), minor_of(MOUNTS, "3")), (Some(27), None));
        assert_eq!(unescaped("/a\\040b\\134040\\012"), "/a b\\040\n");
        for (path, want) in [
            ("/", Some("ext4")),
            ("/srv", Some("ext4")),
            ("/srv/my share", Some("nfs4")),
            ("/srv/my share/a", Some("nfs4")),
            ("/srv/my shared", Some("ext4")),
            ("/mnt/a", Some("tmpfs")),
        ] {
            assert_eq!(file_system(MOUNTS, path), want, "{path}");
        }
        assert_eq!(file_system("", "/"), None);
    }

    #[test]
    fn lines_of_maps() {
        let line = "7f00-7f80 rw-s 00001000 00:1b 42                         /dev/shm/sem.a b";
        let m = parse_map(line).expect("map");
        assert_eq!((m.minor, m.ino, m.path, m.shared), (0x1b, 42, "/dev/shm/sem.a b", true));
        assert_eq!((m.holds(0x7eff), m.holds(0x7f00), m.holds(0x7f80)), (false, true, false));
        assert_eq!(m.offset_of(0x7f7f), 0x107f);
        for bad in ["", "7f00-7f01 rw-p 00000000 00:00 0 ", "a b c d e f", "7f00-7f01 rw-p 0 0"] {
            assert!(parse_map(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn working_directory_and_program_are_among_the_files() {
        let dir = tempfile::tempdir().expect("dir");
        let mut child = std::process::Command::new("cat")
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn");
        let program = std::fs::read_link(format!("/proc/{}/exe", child.id())).expect("exe");
        let found = files_of(child.id());
        drop(child.stdin.take());
        child.wait().expect("wait");
        let entry = Entry::open(std::process::id()).expect("entry");
        let mounts = entry.long_text("mountinfo").expect("mounts");
        for path in [dir.path(), program.as_path()] {
            let kind = file_system(&mounts, path.to_str().expect("UTF-8"));
            if kind.is_none_or(|k| !LOCAL.contains(&k)) {
                tracer_skip::skip!("{} is on {kind:?}", path.display());
                continue;
            }
            let meta = std::fs::metadata(path).expect("metadata");
            let want = (Some(path), rustix::fs::minor(meta.dev()), meta.ino());
            assert!(
                found.iter().any(|f| (Some(std::path::Path::new(&f.path)), f.dev_minor, f.ino) == want),
                "{want:?} in {found:?}"
            );
        }
    }
}
