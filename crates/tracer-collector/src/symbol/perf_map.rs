//! The functions of code compiled at run time, which the process itself lists in `/tmp/perf-PID.map`.
//!
//! Each line is `START SIZE name`, both hexadecimal (tools/perf/Documentation/jit-interface.txt).
//! CPython with perf trampolines writes `py::FUNCTION:FILE`.
//! Every user may write to /tmp: the file must be a regular one of the process's own user, no link, and not too large.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use super::name::bounded;
use tracer_record::Place;

/// Longest map that is read, in bytes.
pub(super) const MAP_MAX: u64 = 32 << 20;
/// Most functions of a map. A line has at least six bytes, so that a hostile map takes little more memory than its size.
const ENTRIES_MAX: usize = 1 << 20;

/// A map, sorted by address.
#[derive(Debug, Default)]
pub(super) struct PerfMap {
    /// Start, end, and where the name is in `text`.
    entries: Vec<(u64, u64, u32, u32)>,
    text: String,
}

/// Distinguishes two states of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Version {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) len: u64,
    pub(super) mtime_ns: i64,
}

/// Why a map is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it belongs to user {found}, not to the process's user {wanted}")]
    Owner { found: u32, wanted: u32 },
    #[error("it is larger than {MAP_MAX} bytes")]
    TooLarge,
    #[error("cannot read it")]
    Unreadable,
}

/// Checks whether an opened map may be used for a process of user `uid`. An O_PATH descriptor suffices.
pub(super) fn checked(fd: &OwnedFd, uid: u32) -> Result<Version, Refusal> {
    let stat = rustix::fs::fstat(fd).map_err(|_| Refusal::Unreadable)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Refusal::NotRegular);
    }
    if stat.st_uid != uid {
        return Err(Refusal::Owner { found: stat.st_uid, wanted: uid });
    }
    let len = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if len > MAP_MAX {
        return Err(Refusal::TooLarge);
    }
    let mtime_ns = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec.cast_signed());
    Ok(Version { dev: stat.st_dev, ino: stat.st_ino, len, mtime_ns })
}

/// Reads a [`checked`] map, up to the bound if it grows meanwhile.
pub(super) fn read(file: &File) -> Option<PerfMap> {
    let mut bytes = Vec::new();
    file.take(MAP_MAX).read_to_end(&mut bytes).ok()?;
    file.metadata().ok().filter(|m| m.mode() & 0o170_000 == 0o100_000)?;
    Some(PerfMap::parse(String::from_utf8_lossy(&bytes).into_owned()))
}

impl PerfMap {
    pub(super) fn parse(text: String) -> Self {
        let mut entries = Vec::new();
        let mut at = 0_usize;
        for line in text.split_inclusive('\n').take(ENTRIES_MAX) {
            let here = at;
            at += line.len();
            let line = line.trim_end_matches('\n');
            let mut words = line.splitn(3, ' ');
            let (Some(start), Some(len), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            let hex = |s: &str| u64::from_str_radix(s.strip_prefix("0x").unwrap_or(s), 16).ok();
            let (Some(start), Some(len)) = (hex(start), hex(len)) else { continue };
            let name_at = here + (line.len() - name.len());
            let (Some(end), Ok(name_at)) = (start.checked_add(len), u32::try_from(name_at)) else { continue };
            entries.push((start, end, name_at, u32::try_from(name.len()).unwrap_or(0)));
        }
        // Of two functions at one address the later line is valid; the sort is stable.
        entries.sort_by_key(|e| e.0);
        Self { entries, text }
    }

    /// The function at an address.
    pub(super) fn place(&self, addr: u64) -> Option<Place> {
        let after = self.entries.partition_point(|e| e.0 <= addr);
        let (_, end, at, len) = self.entries.get(after.checked_sub(1)?)?;
        let name = self.text.get(*at as usize..(*at as usize).checked_add(*len as usize)?)?;
        (addr < *end).then(|| named(name))
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<(u64, u64, u32, u32)>()
    }
}

fn named(name: &str) -> Place {
    // CPython (Python/perf_trampoline.c, `perf_map_write_entry`) writes py::qualified name:path.
    if let Some((function, file)) = name.strip_prefix("py::").and_then(|rest| rest.rsplit_once(':')) {
        return Place { function: Some(bounded(function)), file: Some(bounded(file)), line: None, inlined: false };
    }
    Place { function: Some(bounded(name)), ..Place::default() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, OFlags};

    use super::*;

    fn function(map: &PerfMap, addr: u64) -> Option<String> {
        map.place(addr).and_then(|p| p.function)
    }

    #[test]
    fn lines() {
        let text = "1000 10 first\nzz 1 bad\n1010 8 second one; with blanks\n\n2000 0 empty\n1000 20 again\n\
                    ffffffffffffffff ff over\n3000 10 py::Pool.get:/srv/app/pool.py\n3010 4 \x1b[2Jevil\n9";
        let map = PerfMap::parse(text.to_owned());
        for (addr, want) in [
            (0x0fff, None),
            (0x1000, Some("again")),
            (0x1010, Some("second one; with blanks")),
            (0x1018, None),
            (0x2000, None),
            (0x3005, Some("Pool.get")),
            (0x3010, Some("\x1b[2Jevil")),
            (u64::MAX, None),
        ] {
            assert_eq!(function(&map, addr).as_deref(), want, "{addr:#x}");
        }
        assert_eq!(map.place(0x3000).and_then(|p| p.file).as_deref(), Some("/srv/app/pool.py"));
        assert_eq!(PerfMap::parse(String::new()).place(1), None);
    }

    #[test]
    fn a_name_of_a_megabyte_is_cut() {
        let map = PerfMap::parse(format!("1000 10 {}\n", "n".repeat(1 << 20)));
        assert!(function(&map, 0x1000).is_some_and(|n| n.len() < 600));
    }

    #[test]
    fn whose_maps_are_believed() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let uid = rustix::process::getuid().as_raw();
        let open = |name: &str| {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, dir.path().join(name), flags, Mode::empty())
        };
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("good"), "1000 10 f\n")?;
        symlink(path("good"), path("link"))?;
        std::fs::create_dir(path("folder"))?;
        rustix::fs::mkfifoat(CWD, path("fifo"), Mode::RUSR)?;
        File::create(path("huge"))?.set_len(MAP_MAX + 1)?;
        assert!(checked(&open("good")?, uid).is_ok());
        assert_eq!(checked(&open("good")?, uid + 1), Err(Refusal::Owner { found: uid, wanted: uid + 1 }));
        for name in ["link", "folder", "fifo"] {
            assert_eq!(checked(&open(name)?, uid), Err(Refusal::NotRegular), "{name}");
        }
        assert_eq!(checked(&open("huge")?, uid), Err(Refusal::TooLarge));
        assert!(read(&File::open(path("good"))?).is_some_and(|m| m.place(0x1005).is_some()));
        Ok(())
    }
}
