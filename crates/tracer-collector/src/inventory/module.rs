//! The executable mappings of a process, which map an address of a stack to a file and an offset in it.

use super::entry::Entry;

/// One mapping of /proc/PID/maps that is backed by a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub start: u64,
    /// First address after the mapping.
    pub end: u64,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// Device (major, minor) and inode of the file; zeros for `[vdso]`.
    pub device: (u32, u32),
    pub inode: u64,
    /// Path as the kernel shows it; ` (deleted)` behind a replaced file. `[vdso]` for the kernel's own page.
    pub path: String,
}

/// The executable mappings of a process, by address; empty if it exited.
pub fn modules(pid: u32) -> Vec<Module> {
    Entry::open(pid).as_ref().map(modules_of).unwrap_or_default()
}

/// As [`modules`], for an opened process.
pub fn modules_of(entry: &Entry) -> Vec<Module> {
    entry.long_text("maps").unwrap_or_default().lines().filter_map(parse).collect()
}

/// The module at an address and the address's offset in its file.
pub fn locate(modules: &[Module], addr: u64) -> Option<(&Module, u64)> {
    let after = modules.partition_point(|m| m.start <= addr);
    let module = modules.get(after.checked_sub(1)?).filter(|m| addr < m.end)?;
    Some((module, (addr - module.start).checked_add(module.offset)?))
}

/// "START-END PERMS OFFSET DEV INODE      PATH"; newlines in the path are shown as `\012`.
fn parse(line: &str) -> Option<Module> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let (perms, offset) = (words.next()?, words.next()?);
    let ((major, minor), inode) = (words.next()?.split_once(':')?, words.next()?.parse().ok()?);
    let path = words.next()?.trim_start();
    if !perms.contains('x') || !(path.starts_with('/') || path == "[vdso]") {
        return None;
    }
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let number = |s| u32::from_str_radix(s, 16).ok();
    let device = (number(major)?, number(minor)?);
    Some(Module { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, device, inode, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let m = parse("55d0-55f0 r-xp 00001000 fe:00 12  /opt/a b (deleted)").expect("module");
        assert_eq!((m.start, m.end, m.offset, m.path.as_str()), (0x55d0, 0x55f0, 0x1000, "/opt/a b (deleted)"));
        assert_eq!((m.device, m.inode), ((0xfe, 0), 12));
        assert!(parse("7ffd0-7ffd2 r-xp 00000000 00:00 0                          [vdso]").is_some());
        for other in [
            "55d0-55f0 rw-p 00001000 fe:00 12  /opt/a",
            "55d0-55f0 r-xp 00000000 00:00 0 ",
            "55d0-55f0 r-xp 00000000 00:00 0                          [heap]",
            "",
            "zz-1 r-xp 0 0 0 /a",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn addresses() {
        let module =
            |start, end, path: &str| Module { start, end, offset: 0x100, device: (0, 0), inode: 0, path: path.into() };
        let all = [module(0x1000, 0x2000, "/a"), module(0x3000, 0x4000, "/b")];
        let at = |addr| locate(&all, addr).map(|(m, o)| (m.path.as_str(), o));
        assert_eq!(at(0x0fff), None);
        assert_eq!(at(0x1000), Some(("/a", 0x100)));
        assert_eq!(at(0x1fff), Some(("/a", 0x10ff)));
        assert_eq!(at(0x2000), None);
        assert_eq!(at(0x3010), Some(("/b", 0x110)));
        assert_eq!(at(u64::MAX), None);
    }

    #[test]
    fn own_code() {
        let all = modules(std::process::id());
        let here = own_code as fn() as usize as u64;
        let (module, _) = locate(&all, here).expect("own code");
        assert_eq!(Some(module.path.as_str()), std::env::current_exe().expect("exe").to_str());
    }
}
