//! The container, pod and systemd unit that a cgroup path names.
//!
//! Layouts by Docker, containerd, CRI-O and Podman, with the cgroupfs and the systemd driver, and LXC and nspawn.

/// Hexadecimal digits of an id, and how many of them tools print.
const ID_LEN: usize = 64;
const ID_SHOWN: usize = 12;

/// The container: its id cut to 12 digits as tools print it, or the name that LXC and nspawn give. The innermost counts.
pub fn container(path: &str) -> Option<String> {
    path.rsplit('/').find_map(|part| {
        let bare = part.strip_suffix(".scope").unwrap_or(part);
        if let Some(name) = bare.strip_prefix("lxc.payload.") {
            return Some(name.to_owned());
        }
        if let Some(name) = bare.strip_prefix("machine-").filter(|_| part.ends_with(".scope")) {
            return Some(unescaped(name));
        }
        // The monitor of a container is outside of it.
        if bare.contains("conmon") {
            return None;
        }
        short(bare.rsplit(['-', ':']).next().unwrap_or(bare))
    })
}

/// The pod: its uid in Kubernetes, the short id of a Podman pod.
pub fn pod(path: &str) -> Option<String> {
    path.split('/').find_map(|part| {
        let bare = part.strip_suffix(".slice").unwrap_or(part);
        if let Some((_, id)) = bare.split_once("libpod_pod_") {
            return short(id);
        }
        // `pod<uid>`, or `kubepods-burstable-pod<uid>.slice` with the dashes of the uid as underscores.
        let uid = bare.rsplit('-').next().filter(|_| part != bare).unwrap_or(bare).strip_prefix("pod")?;
        let uid = uid.replace('_', "-");
        // A static pod has a hash as its uid.
        let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        (matches!(uid.len(), 32 | 36) && hex(&uid)).then_some(uid)
    })
}

/// The systemd unit; not the scope that a container's runtime made for it.
pub fn unit(path: &str) -> Option<String> {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    path.rsplit('/').filter(is_unit).find(|part| container(part).is_none()).map(str::to_owned)
}

fn short(id: &str) -> Option<String> {
    let is_id = id.len() == ID_LEN && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| id.chars().take(ID_SHOWN).collect())
}

/// systemd writes `-` in a name as `\x2d`.
fn unescaped(name: &str) -> String {
    name.replace("\\x2d", "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let id = "0123456789abcdef".repeat(4);
        let uid = "2c48913c-b29f-11e7-9350-020968147796";
        let low = uid.replace('-', "_");
        let short = Some("0123456789ab");
        for (path, of, in_pod, by) in [
            (format!("/system.slice/docker-{id}.scope"), short, None, None),
            (format!("/docker/{id}"), short, None, None),
            (format!("/docker/{id}/init.scope"), short, None, Some("init.scope")),
            (format!("/kubepods/burstable/pod{uid}/{id}"), short, Some(uid), None),
            (format!("/kubepods/pod{uid}/cri-containerd:{id}"), short, Some(uid), None),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{low}.slice/cri-containerd-{id}.scope"
                ),
                short,
                Some(uid),
                None,
            ),
            (format!("/kubepods.slice/kubepods-pod{low}.slice/crio-{id}.scope/container"), short, Some(uid), None),
            (format!("/kubepods.slice/kubepods-pod{low}.slice/crio-conmon-{id}.scope"), None, Some(uid), Some("crio")),
            (format!("/machine.slice/libpod-{id}.scope/container"), short, None, None),
            (format!("/machine.slice/machine-libpod_pod_{id}.slice/libpod-{id}.scope"), short, short, None),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
                short,
                None,
                Some("user@"),
            ),
            (
                "/machine.slice/machine-deb\\x2d12.scope/payload/system.slice/cron.service".to_owned(),
                Some("deb-12"),
                None,
                Some("cron."),
            ),
            ("/lxc.payload.web/system.slice/nginx.service".to_owned(), Some("web"), None, Some("nginx")),
            ("/system.slice/nginx.service".to_owned(), None, None, Some("nginx.service")),
            ("/user.slice/user-0.slice/session-3.scope".to_owned(), None, None, Some("session-3.scope")),
            ("/podman/pod".to_owned(), None, None, None),
            ("/".to_owned(), None, None, None),
            (String::new(), None, None, None),
        ] {
            assert_eq!(container(&path).as_deref(), of, "{path}");
            assert_eq!(pod(&path).as_deref(), in_pod, "{path}");
            let found = unit(&path);
            assert!(
                found.as_deref().map_or(by.is_none(), |u| by.is_some_and(|b| u.starts_with(b))),
                "{path}: {found:?}"
            );
        }
    }
}
