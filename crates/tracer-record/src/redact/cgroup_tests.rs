//! The parts of a cgroup's path that the analysis reads survive, under other names.

use super::*;
use crate::cgroup::{container, pod, unit};

#[test]
fn containers_pods_and_units_stay_recognizable() {
    let names = Names::new(b"sixteen bytes...");
    let id = "0123456789abcdef".repeat(4);
    let uid = "2c48913c-b29f-11e7-9350-020968147796";
    let low = uid.replace('-', "_");
    for path in [
        format!("/system.slice/docker-{id}.scope"),
        format!("/docker/{id}"),
        format!("/docker/{id}/init.scope"),
        format!("/kubepods/burstable/pod{uid}/{id}"),
        format!("/kubepods/pod{uid}/cri-containerd:{id}"),
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{low}.slice/cri-containerd-{id}.scope"),
        format!("/kubepods.slice/kubepods-pod{low}.slice/crio-conmon-{id}.scope"),
        format!("/kubepods.slice/kubepods-pod{low}.slice/my-conmon-{id}.scope"),
        format!("/machine.slice/libpod-{id}.scope/container"),
        format!("/machine.slice/machine-libpod_pod_{id}.slice/libpod-{id}.scope"),
        format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
        format!("/nerdctl/secret-{id}"),
        "/machine.slice/machine-secret\\x2d12.scope/payload/system.slice/cron.service".to_owned(),
        "/lxc.payload.secret/system.slice/nginx.service".to_owned(),
        "/lxc.payload.secret.slice".to_owned(),
        "/system.slice/nginx.service".to_owned(),
        "/system.slice/secret@1.service".to_owned(),
        "/user.slice/user-0.slice/session-3.scope".to_owned(),
        "/podman/pod".to_owned(),
        "/".to_owned(),
        String::new(),
    ] {
        let token = path_of(&names, &path);
        assert_eq!(token, path_of(&names, &path));
        for of in [container, pod, unit] {
            let (before, after) = (of(&path), of(&token));
            assert_eq!(before.is_some(), after.is_some(), "{path}: {before:?}, {token}: {after:?}");
            let stays = before.as_deref().is_none_or(|name| {
                matches!(name, "init.scope" | "session-3.scope" | "user@1000.service") || Some(name) != after.as_deref()
            });
            assert!(stays, "{path}: {before:?} is shown");
        }
        for secret in ["secret", "nginx", "cron", &id, uid, &low] {
            assert!(!token.contains(secret), "{token} shows {secret}");
        }
    }
    let same = "/user.slice/user-1000.slice/user@1000.service/app.slice";
    assert_eq!(path_of(&names, same), same);
}

fn path_of(names: &Names, path: &str) -> String {
    super::path(names, path)
}
