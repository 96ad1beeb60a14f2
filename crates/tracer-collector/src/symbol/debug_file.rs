//! Finds the separate debug file of a stripped program. It must not return another program's: build-id or checksum must
//! match.
//!
//! It searches where GDB does ("Debugging Information in Separate Files"): `.build-id/ab/cdef.debug` below each debug
//! directory, and for `.gnu_debuglink` beside the program, in `.debug` there, and below each debug directory.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::elf::{Elf, Source, bytes_at, u32_at};
use super::process::{Process, readable};

/// Where distributions put debug files.
pub(super) const SYSTEM_DIR: &str = "/usr/lib/debug";
/// Longest debug file whose checksum is computed.
const CHECKED_MAX: u64 = 2 << 30;
/// Longest section that names a debug file.
const LINK_MAX: u64 = 8192;

/// The debug file of `elf`, which is mapped from `path` into `process`.
pub(super) fn find(elf: &Elf, path: &str, process: &Process, dirs: &[PathBuf]) -> Option<Elf> {
    let by_id = elf.build_id.as_deref().and_then(|id| by_build_id(id, dirs));
    by_id.or_else(|| by_link(elf, path, process, dirs))
}

/// The file that several debug files share (dwz), named by `.gnu_debugaltlink`: a path, then a build-id.
pub(super) fn shared(elf: &Elf, dirs: &[PathBuf]) -> Option<Elf> {
    let link = elf.contents(elf.section(".gnu_debugaltlink")?, LINK_MAX).ok()?;
    let path = bytes_at(&link, 0);
    let id = link.get(path.len() + 1..)?;
    let path = std::str::from_utf8(path).ok()?;
    let same = |e: &Elf| e.build_id.as_deref() == Some(id);
    by_build_id(id, dirs).or_else(|| {
        // Relative to the debug file, which is in a directory of `dirs`; `.dwz` is at its top.
        let below = path.find(".dwz/").and_then(|at| path.get(at..))?;
        dirs.iter().find_map(|dir| open(&dir.join(below)).filter(same))
    })
}

fn by_build_id(id: &[u8], dirs: &[PathBuf]) -> Option<Elf> {
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let name = format!(".build-id/{}/{}.debug", hex.get(..2)?, hex.get(2..)?);
    dirs.iter().find_map(|dir| open(&dir.join(&name)).filter(|e| e.build_id.as_deref() == Some(id)))
}

fn by_link(elf: &Elf, path: &str, process: &Process, dirs: &[PathBuf]) -> Option<Elf> {
    let link = elf.contents(elf.section(".gnu_debuglink")?, LINK_MAX).ok()?;
    let name = std::str::from_utf8(bytes_at(&link, 0)).ok()?;
    // Only a plain name: a path could lead anywhere.
    if name.is_empty() || name.contains('/') || name == ".." {
        return None;
    }
    let crc = u32_at(&link, (name.len() + 4) & !3);
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let folder = Path::new(path).parent()?.to_str()?;
    let agrees = |debug: &Elf| match (&elf.build_id, &debug.build_id) {
        (Some(a), Some(b)) => a == b,
        _ => debug.crc(CHECKED_MAX).is_ok_and(|found| found == crc),
    };
    let beside = [format!("{folder}/{name}"), format!("{folder}/.debug/{name}")];
    let beside = beside.iter().filter(|p| process.mounts().is_read_path(p)).find_map(|p| {
        let file = process.below_root(p.strip_prefix('/')?).ok()?;
        Elf::open(Source::file(file).ok()?).ok().filter(agrees)
    });
    beside.or_else(|| {
        let below = folder.strip_prefix('/')?;
        dirs.iter().find_map(|dir| open(&dir.join(below).join(name)).filter(agrees))
    })
}

/// Opens an ELF file of one of the user's or the system's debug directories.
fn open(path: &Path) -> Option<Elf> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let handle = rustix::fs::openat(rustix::fs::CWD, path, flags, rustix::fs::Mode::empty()).ok()?;
    let file: File = readable(&handle).ok()?;
    Elf::open(Source::file(file).ok()?).ok()
}
