//! The Debian package of a process's program, from the lists of dpkg.
//!
//! It must not run a program. Other package managers have databases, which it does not read.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::entry::Entry;

/// Directory with one file per package, `name.list` or `name:architecture.list`, with one path per line.
const LISTS: &str = "/var/lib/dpkg/info";

/// The packages of these processes' programs, by pid: `None` if no package has the program.
/// A process is left out without dpkg, without permission, and if it has another mount namespace or root.
pub fn packages(pids: &[u32]) -> BTreeMap<u32, Option<String>> {
    let own = Entry::open(std::process::id()).ok().and_then(|e| view(&e));
    let programs: BTreeMap<u32, String> = pids
        .iter()
        .filter_map(|pid| {
            let entry = Entry::open(*pid).ok()?;
            let program = entry.link("exe").ok()?;
            // After an upgrade the old program keeps running; its path still belongs to the package.
            let program = program.strip_suffix(" (deleted)").unwrap_or(&program).to_owned();
            (own.is_some() && view(&entry) == own).then_some((*pid, program))
        })
        .collect();
    // Where /bin is a link to /usr/bin, lists have either path.
    let merged = std::fs::symlink_metadata("/bin").is_ok_and(|m| m.is_symlink());
    let Some(found) = owners(Path::new(LISTS), programs.values(), merged) else { return BTreeMap::new() };
    programs.iter().map(|(pid, program)| (*pid, found.get(program.as_str()).cloned())).collect()
}

/// Mount namespace and root, which decide to which file a path leads.
fn view(entry: &Entry) -> Option<(String, String)> {
    Some((entry.link("ns/mnt").ok()?, entry.link("root").ok()?))
}

/// The packages with these paths; `None` if there are no lists.
fn owners<'a>(lists: &Path, paths: impl Iterator<Item = &'a String>, merged: bool) -> Option<HashMap<&'a str, String>> {
    // By the path in a list: the requested path, and whether both are equal.
    let mut wanted: HashMap<Vec<u8>, (&str, bool)> = HashMap::new();
    for path in paths {
        if merged {
            let other =
                path.strip_prefix("/usr").filter(|p| p.starts_with('/')).map_or(format!("/usr{path}"), str::to_owned);
            wanted.entry(other.into_bytes()).or_insert((path, false));
        }
        wanted.insert(path.clone().into_bytes(), (path, true));
    }
    let mut out: HashMap<&str, (String, bool)> = HashMap::new();
    let entries = std::fs::read_dir(lists).ok()?;
    if wanted.is_empty() {
        return Some(HashMap::new());
    }
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(package) = name.to_str().and_then(|n| n.strip_suffix(".list")) else { continue };
        let Ok(text) = std::fs::read(entry.path()) else { continue };
        for line in text.split(|b| *b == b'\n') {
            let Some((path, same)) = wanted.get(line).copied() else { continue };
            if same || !out.contains_key(path) {
                let package = package.split(':').next().unwrap_or(package);
                out.insert(path, (package.to_owned(), same));
            }
        }
    }
    Some(out.into_iter().map(|(path, (package, _))| (path, package)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_lists() {
        let dir = tempfile::tempdir().expect("dir");
        for (name, text) in [
            ("bash.list", "/.\n/bin\n/bin/bash\n"),
            ("other.list", "/usr/bin/bash.old\n/usr/bin/both\n"),
            ("both:amd64.list", "/bin/both\n"),
            ("libc6:amd64.list", "/usr/lib/ld.so\n"),
            ("bash.md5sums", "/usr/bin/none\n"),
            ("bad.list", "\u{1b}\n\n/no newline"),
        ] {
            std::fs::write(dir.path().join(name), text).expect("write");
        }
        let ask = |path: &str, merged| {
            let path = path.to_owned();
            let found = owners(dir.path(), std::iter::once(&path), merged).expect("lists");
            found.get(path.as_str()).cloned()
        };
        for (path, merged, want) in [
            ("/usr/bin/bash", true, Some("bash")),
            ("/usr/bin/bash", false, None),
            ("/bin/bash", false, Some("bash")),
            ("/lib/ld.so", true, Some("libc6")),
            ("/usr/bin/both", true, Some("other")),
            ("/bin/both", true, Some("both")),
            ("/usr/bin/none", true, None),
            ("/no newline", true, Some("bad")),
        ] {
            assert_eq!(ask(path, merged).as_deref(), want, "{path}");
        }
        assert_eq!(owners(&dir.path().join("none"), std::iter::empty(), true), None);
    }

    #[test]
    fn a_program_of_our_own_is_of_no_package() {
        let me = std::process::id();
        let found = packages(&[me, u32::MAX]);
        assert!(!found.contains_key(&u32::MAX));
        assert_eq!(found.get(&me).cloned().flatten(), None);
    }
}
