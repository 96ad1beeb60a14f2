//! Paths of cgroups: the shapes that mark a container, a pod and a systemd unit stay, their names and ids go.
//!
//! The other side is `crate::cgroup`, which reads these shapes.

use super::name::Names;
use super::public;

/// Hexadecimal digits of a container's id.
const ID_LEN: usize = 64;
const SUFFIXES: [&str; 3] = [".scope", ".slice", ".service"];
const POD: &str = "libpod_pod_";

impl Names {
    /// The path of a cgroup.
    pub(crate) fn cgroup(&self, text: &str) -> String {
        path(self, text)
    }

    /// What was watched: `all`, process ids, or the path of a cgroup.
    pub(crate) fn target(&self, text: &str) -> String {
        if text == "all" || text.split(',').all(public::is_number) { text.to_owned() } else { self.cgroup(text) }
    }
}

fn path(names: &Names, path: &str) -> String {
    path.split('/').map(|group| self::group(names, group)).collect::<Vec<_>>().join("/")
}

fn group(names: &Names, group: &str) -> String {
    let suffix = SUFFIXES.into_iter().find(|s| group.ends_with(s)).unwrap_or_default();
    let bare = group.strip_suffix(suffix).unwrap_or(group);
    format!("{}{suffix}", unit(names, bare, suffix))
}

fn unit(names: &Names, bare: &str, suffix: &str) -> String {
    if let Some(name) = bare.strip_prefix("lxc.payload.") {
        return format!("lxc.payload.{}", names.part(name));
    }
    if let Some(name) = bare.strip_prefix("machine-").filter(|_| suffix == ".scope") {
        return format!("machine-{}", names.part(name));
    }
    if let Some((before, id)) = bare.split_once(POD) {
        return format!("{}{POD}{}", word(names, before), word(names, id));
    }
    let Some((at, mark)) = bare.char_indices().rfind(|(_, c)| ['-', ':', '@'].contains(c)) else {
        return word(names, bare);
    };
    let (before, last) = (bare.get(..at).unwrap_or_default(), bare.get(at + 1..).unwrap_or_default());
    let is_user = ["user", "session", "user-runtime-dir"].contains(&before) && public::is_number(last);
    if is_user {
        return bare.to_owned();
    }
    if mark != '@' && (is_id(last) || pod_uid(last).is_some()) {
        return format!("{}{mark}{}", word(names, before), word(names, last));
    }
    word(names, bare)
}

fn word(names: &Names, word: &str) -> String {
    if word.is_empty() || public::is_cgroup(word) {
        return word.to_owned();
    }
    if is_id(word) {
        return names.long_digits(word, ID_LEN);
    }
    if let Some(uid) = pod_uid(word) {
        return format!("pod{}", like(uid, &names.long_digits(uid, ID_LEN)));
    }
    // The monitor of a container is none.
    let monitor = if word.contains("conmon") { "conmon-" } else { "" };
    format!("{monitor}{}", names.part(word))
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The uid of a pod in Kubernetes, or the hash of a static one.
fn pod_uid(word: &str) -> Option<&str> {
    let uid = word.strip_prefix("pod")?;
    let is_uid = matches!(uid.len(), 32 | 36) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b"-_".contains(&b));
    is_uid.then_some(uid)
}

/// Other digits in the places of these.
fn like(uid: &str, digits: &str) -> String {
    let mut digits = digits.chars();
    uid.chars().map(|c| if "-_".contains(c) { c } else { digits.next().unwrap_or('0') }).collect()
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
