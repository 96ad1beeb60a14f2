//! Names of users and groups, from the system's files. It must not ask a name service, which could hang.

use std::collections::BTreeMap;

/// (users, groups) of /etc/passwd and /etc/group; empty if a file cannot be read.
pub fn names() -> (BTreeMap<u32, String>, BTreeMap<u32, String>) {
    let read = |path| parse(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()));
    (read("/etc/passwd"), read("/etc/group"))
}

/// `name:password:id:...`; of several names of an id the first counts, as in the C library.
fn parse(text: &str) -> BTreeMap<u32, String> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.split(':');
        if let (Some(name), Some(id)) = (parts.next(), parts.nth(1).and_then(|i| i.parse().ok())) {
            out.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_and_group() {
        let text = "root:x:0:0:root:/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbad line\nx:y\na:x:n:1\nwww:x:33:\n";
        let want = BTreeMap::from([(0, "root".to_owned()), (33, "www".to_owned())]);
        assert_eq!(parse(text), want);
    }
}
