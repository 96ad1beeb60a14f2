//! `ls mq` and `rm` on POSIX message queues, in a file system and an IPC namespace of their own.
//!
//! One test only: programs started by another test would hold copies of the queues until they call exec.
#![allow(clippy::expect_used, clippy::panic)] // tests

mod program;

use std::ffi::CString;

use program::{ipctrace, text};
use rustix::thread::UnshareFlags;
use serde_json::Value;

fn listed(words: &[&str]) -> Value {
    let out = ipctrace(&[&["ls", "--format", "json"], words].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// Mounts in a mount namespace of this thread, which ends with it.
fn mount(kind: Option<&str>, point: &str, flags: libc::c_ulong) {
    let (kind, point) = (kind.map(|k| CString::new(k).expect("kind")), CString::new(point).expect("point"));
    let kind = kind.as_ref().map_or(std::ptr::null(), |k| k.as_ptr());
    // SAFETY: strings that end with zero bytes, and no data.
    let done = unsafe { libc::mount(c"none".as_ptr(), point.as_ptr(), kind, flags, std::ptr::null()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Unmounts when dropped, so that the directory can be removed even if the test fails.
struct Mounted(CString);

impl Drop for Mounted {
    fn drop(&mut self) {
        // SAFETY: a string that ends with a zero byte.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn queues_are_listed_with_fill_and_users() {
    let test = std::thread::spawn(|| {
        // SAFETY: only the namespaces of this thread change.
        if let Err(e) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWIPC | UnshareFlags::NEWNS) } {
            return tracer_skip::skip!("no namespaces of its own: {e}; needs CAP_SYS_ADMIN");
        }
        mount(None, "/", libc::MS_REC | libc::MS_PRIVATE);
        let dir = tempfile::Builder::new().prefix("mq dir").tempdir().expect("dir");
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
        let there = mounts.lines().find(|l| l.contains(" - mqueue ")).and_then(|l| l.split(' ').nth(4));
        let point = there.unwrap_or_else(|| dir.path().to_str().expect("UTF-8"));
        mount(Some("mqueue"), point, 0);
        let _mounted = Mounted(CString::new(point).expect("point"));

        assert_eq!(ipctrace(&["mk", "mq", "left"]).status.code(), Some(0));
        // SAFETY: zero is a valid mq_attr.
        let mut wanted: libc::mq_attr = unsafe { std::mem::zeroed() };
        (wanted.mq_maxmsg, wanted.mq_msgsize) = (5, 100);
        // SAFETY: a name that ends with a zero byte, a mode and attributes.
        let queue = unsafe {
            libc::mq_open(c"/used".as_ptr(), libc::O_CREAT | libc::O_RDWR | libc::O_CLOEXEC, 0o640, &raw mut wanted)
        };
        assert!(queue >= 0, "{}", std::io::Error::last_os_error());
        for text in [c"one", c"three"] {
            // SAFETY: the buffer has this length.
            assert_eq!(unsafe { libc::mq_send(queue, text.as_ptr(), text.count_bytes(), 1) }, 0);
        }
        let all = listed(&["mq"]);
        let me = std::process::id();
        let row = |name: &str| all["mq"].as_array().and_then(|r| r.iter().find(|r| r["name"] == name)).expect("row");
        let of = |name: &str| {
            let names = ["qsize", "messages", "max", "max_size", "orphan", "open", "notify"];
            names.map(|n| row(name)[n].to_string()).join(" ")
        };
        assert_eq!(of("/used"), format!("8 2 5 100 \"no\" [{me}] null"));
        assert!(of("/left").starts_with("0 0 ") && of("/left").ends_with(" \"likely\" [] null"), "{}", of("/left"));
        assert_eq!(ipctrace(&["rm", "--yes", "mq:/used"]).status.code(), Some(1), "it is in use");
        let dry = text(&ipctrace(&["rm", "--orphans", "--only", "mq", "--dry-run"]).stdout);
        assert!(dry.contains("left") && !dry.contains("used"), "{dry}");
        // SAFETY: opened above.
        unsafe { libc::mq_close(queue) };
        assert_eq!(ipctrace(&["rm", "--yes", "mq:/used", "mq:left"]).status.code(), Some(0));
        assert_eq!(listed(&["mq"])["mq"], Value::Array(Vec::new()));
    });
    test.join().expect("test");
}
