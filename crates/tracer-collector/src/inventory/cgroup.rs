//! Control groups: where the hierarchies are mounted, and which processes are in a group or below it.

use std::io;
use std::path::{Component, Path, PathBuf};

/// A hierarchy that can hold processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hierarchy {
    V2,
    /// The pids controller of version 1.
    V1Pids,
}

/// Why the processes of a group cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup {path:?} in {tried:?}; give its directory, or its path as /proc/PID/cgroup shows it")]
    NotFound { path: String, tried: Vec<PathBuf> },
    #[error("no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup or name the processes with -p")]
    NotMounted,
    #[error("cannot read {path:?}: {cause}; check its permissions or name the processes with -p")]
    Read { path: PathBuf, cause: io::Error },
}

/// All processes in the group and the groups below it, ascending.
/// `path` is a directory of the cgroup file system or a path as /proc/PID/cgroup shows it.
///
/// # Errors
/// The group does not exist or cannot be read. Groups below it that disappear meanwhile are ignored.
pub fn cgroup_pids(path: &str) -> Result<Vec<u32>, CgroupError> {
    let mut out = Vec::new();
    collect(&resolve(path)?, &mut out, true)?;
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

/// The directory of the group `path` (as /proc/PID/cgroup shows it) and those of its ancestors, innermost first.
pub(super) fn with_ancestors(hierarchy: Hierarchy, path: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(mount) = parse_mounts(&text).into_iter().find(|m| m.hierarchy == Some(hierarchy)) else {
        return Vec::new();
    };
    let Some(dir) = mount.directory(path) else { return Vec::new() };
    dir.ancestors().take_while(|d| d.starts_with(&mount.point)).map(Path::to_owned).collect()
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The group that is visible at `point`: not `/` in some containers.
    root: String,
    point: PathBuf,
    /// `None` for the other controllers of version 1.
    hierarchy: Option<Hierarchy>,
}

impl Mount {
    /// Directory of the group; `None` if this mount does not show it.
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        // "/../x" is a group outside of this cgroup namespace.
        below.components().all(|c| matches!(c, Component::Normal(_))).then(|| self.point.join(below))
    }
}

fn resolve(path: &str) -> Result<PathBuf, CgroupError> {
    let mounts = parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    if mounts.is_empty() {
        return Err(CgroupError::NotMounted);
    }
    let given = Path::new(path);
    if mounts.iter().any(|m| given.starts_with(&m.point)) && given.join("cgroup.procs").exists() {
        return Ok(given.to_owned());
    }
    let full = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut tried: Vec<PathBuf> = mounts.iter().filter_map(|m| m.directory(&full)).collect();
    tried.dedup();
    match tried.iter().find(|d| d.join("cgroup.procs").exists()) {
        Some(dir) => Ok(dir.clone()),
        None => Err(CgroupError::NotFound { path: path.into(), tried }),
    }
}

fn collect(dir: &Path, out: &mut Vec<u32>, first: bool) -> Result<(), CgroupError> {
    match std::fs::read_to_string(dir.join("cgroup.procs")) {
        // 0: a process outside of this pid namespace.
        Ok(text) => out.extend(text.lines().filter_map(|l| l.parse().ok()).filter(|p: &u32| *p != 0)),
        // A threaded group lists its processes in the group above (EOPNOTSUPP).
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) if !first && matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => return Ok(()),
        Err(cause) => return Err(CgroupError::Read { path: dir.to_owned(), cause }),
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect(&entry.path(), out, false)?;
        }
    }
    Ok(())
}

/// The cgroup lines of /proc/self/mountinfo, version 2 first, then the pids controller.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let mut out: Vec<Mount> = text.lines().filter_map(parse_mount).collect();
    out.sort_by_key(|m| match m.hierarchy {
        Some(Hierarchy::V2) => 0,
        Some(Hierarchy::V1Pids) => 1,
        None => 2,
    });
    out
}

/// "32 31 0:29 ROOT POINT rw,relatime shared:1 - TYPE SOURCE SUPEROPTIONS" (proc(5), mountinfo).
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let (kind, _, options) = (right.next()?, right.next()?, right.next()?);
    let hierarchy = match kind {
        "cgroup2" => Some(Hierarchy::V2),
        "cgroup" if options.split(',').any(|o| o == "pids") => Some(Hierarchy::V1Pids),
        "cgroup" => None,
        _ => return None,
    };
    Some(Mount { root, point: point.into(), hierarchy })
}

/// Octal escapes (`\040`) of blanks in mountinfo.
fn unescape(word: &str) -> String {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) if *first == b'\\' => {
                out.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            Some(_) | None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:4 - cgroup cgroup rw,cpu\n\
        39 31 0:36 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn mounts() {
        let mounts = parse_mounts(INFO);
        let kinds: Vec<_> = mounts.iter().map(|m| m.hierarchy).collect();
        assert_eq!(kinds, [Some(Hierarchy::V2), Some(Hierarchy::V1Pids), None]);
        assert_eq!(mounts.first().map(|m| m.point.clone()), Some("/sys/fs/cgroup/uni fied".into()));
    }

    #[test]
    fn groups_to_directories() {
        let mounts = parse_mounts(INFO);
        let (v2, v1) = (mounts.first().expect("v2"), mounts.get(1).expect("v1"));
        assert_eq!(v2.directory("/"), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(v2.directory("/a/b"), Some("/sys/fs/cgroup/uni fied/a/b".into()));
        assert_eq!(v2.directory("/../b"), None);
        assert_eq!(v1.directory("/docker/abc/x"), Some("/sys/fs/cgroup/pids/x".into()));
        assert_eq!(v1.directory("/other"), None);
    }

    #[test]
    fn errors_of_unknown_groups_name_the_searched_directories() {
        match cgroup_pids("/no/such/group") {
            Err(CgroupError::NotFound { tried, .. }) => assert!(!tried.is_empty()),
            Err(CgroupError::NotMounted) => {} // a machine without cgroups
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn own_group_holds_us() {
        let text = std::fs::read_to_string("/proc/self/cgroup").expect("cgroup");
        let (v2, _) = super::super::process::cgroup_paths(&text);
        let mounts = parse_mounts(&std::fs::read_to_string("/proc/self/mountinfo").expect("mounts"));
        if let Some(path) = v2.filter(|_| mounts.iter().any(|m| m.hierarchy == Some(Hierarchy::V2))) {
            assert!(cgroup_pids(path).expect("own group").contains(&std::process::id()));
        }
    }
}
