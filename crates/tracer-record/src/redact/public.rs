//! Names that are nobody's secret: what the kernel, every distribution or ipctrace itself calls things.
//!
//! They stay as they are, wherever they stand, because the analysis or a reader needs them.

use std::collections::HashSet;
use std::sync::LazyLock;

use tracer_common::site::{Mechanism, SITES};

use crate::library::{SYSTEM, module_stem};

/// Parts of paths that every system has, and names that the kernel gives.
const NAMES: &[&str] = &[
    // Where every system keeps things; `rustc` marks the files of Rust's library.
    ".",
    "..",
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "lib32",
    "lib64",
    "libexec",
    "local",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "rustc",
    "sbin",
    "self",
    "share",
    "src",
    "srv",
    "sys",
    "tmp",
    "usr",
    "var",
    "x86_64-linux-gnu",
    "aarch64-linux-gnu",
    // File systems and devices of the kernel.
    "console",
    "fd",
    "full",
    "fuse",
    "kvm",
    "mqueue",
    "net",
    "null",
    "ptmx",
    "pts",
    "random",
    "shm",
    "tty",
    "tun",
    "urandom",
    "zero",
    // How /proc/PID/maps and links of descriptors name things that are no files.
    "inotify",
    "[aio]",
    "[bpf-map]",
    "[bpf-prog]",
    "[eventfd]",
    "[eventpoll]",
    "[fanotify]",
    "[heap]",
    "[io_uring]",
    "[kernel]",
    "[perf_event]",
    "[pidfd]",
    "[signalfd]",
    "[stack]",
    "[timerfd]",
    "[uprobes]",
    "[userfaultfd]",
    "[vdso]",
    "[vsyscall]",
    "[vvar]",
    "(unreachable)",
];

/// The word before the number in links like `pipe:[8812]`.
const NUMBERED: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "pipe", "socket", "time", "user", "uts"];

/// Words in the names of libraries of the system, beside numbers.
const LIBRARY_WORDS: &[&str] = &["so", "linux", "x86", "x86_64", "aarch64", "musl", "gnu"];

/// Units and groups that the service manager and container runtimes make on every system.
const CGROUPS: &[&str] = &[
    "app",
    "background",
    "besteffort",
    "burstable",
    "container",
    "containerd",
    "cri-containerd",
    "crio",
    "crio-conmon",
    "docker",
    "guaranteed",
    "init",
    "kubepods",
    "kubepods-besteffort",
    "kubepods-burstable",
    "kubepods-guaranteed",
    "libpod",
    "libpod-conmon",
    "lxc",
    "machine",
    "machine-",
    "payload",
    "podman",
    "session",
    "system",
    "user",
];

/// Words in kernel releases that say which distribution's kernel it is, beside numbers.
const KERNEL_WORDS: &[&str] = &[
    "aarch64", "amd", "amd64", "amzn2023", "arch", "arch1", "arm64", "aws", "azure", "bpo", "cloud", "deb10", "deb11",
    "deb12", "deb13", "default", "el8", "el9", "el10", "fc40", "fc41", "fc42", "fc43", "gcp", "generic", "kvm", "lts",
    "oracle", "raspi", "rt", "uek", "virt", "x86",
];

const ARCHITECTURES: &[&str] = &["x86_64", "aarch64"];
const BACKENDS: &[&str] = &["fentry", "kprobe", "tracepoint", "none"];
const LIMITS: &[&str] =
    &["RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_SIGPENDING", "pids.max", "pid_max", "threads-max", "file-max"];

/// Words of the sentences that ipctrace writes into traces.
const WORDS: &str = include_str!("words.txt");

static VOCABULARY: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let mut words: HashSet<&str> = WORDS.split_whitespace().collect();
    for site in SITES {
        words.insert(site.name);
        words.extend(site.hooks.iter().copied().flatten().map(|hook| hook.function));
    }
    words.extend(Mechanism::ALL.iter().map(|m| m.name()));
    words.extend(BACKENDS);
    words
});

/// A part of a path that stays.
pub(super) fn is_name(part: &str) -> bool {
    NAMES.contains(&part) || is_numbered(part) || is_segment(part) || is_library(part)
}

/// `pipe:[8812]`
fn is_numbered(part: &str) -> bool {
    let inside = part.strip_suffix(']').and_then(|rest| rest.split_once(":["));
    inside.is_some_and(|(kind, number)| NUMBERED.contains(&kind) && is_number(number))
}

/// `SYSV` and a key: how the kernel calls shared memory in mappings.
fn is_segment(part: &str) -> bool {
    part.strip_prefix("SYSV").is_some_and(|key| key.len() == 8 && key.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `libc.so.6`, `ld-linux-x86-64.so.2`
fn is_library(part: &str) -> bool {
    let stem = module_stem(part);
    let mut rest = part.get(stem.len()..).unwrap_or_default().split(['.', '-']);
    SYSTEM.contains(&stem) && rest.all(|word| word.is_empty() || is_number(word) || LIBRARY_WORDS.contains(&word))
}

/// A word of a cgroup's name that stays.
pub(super) fn is_cgroup(word: &str) -> bool {
    CGROUPS.contains(&word)
}

/// A word of a kernel's release that stays.
pub(super) fn is_kernel_word(word: &str) -> bool {
    let candidate = word.strip_prefix("rc").unwrap_or(word);
    word.is_empty() || is_number(candidate) || KERNEL_WORDS.contains(&word)
}

/// A word of a sentence that stays.
pub(super) fn is_word(word: &str) -> bool {
    VOCABULARY.contains(word) || (!word.is_empty() && word.split('.').all(is_number))
}

pub(super) fn is_architecture(name: &str) -> bool {
    ARCHITECTURES.contains(&name)
}

pub(super) fn is_backend(name: &str) -> bool {
    BACKENDS.contains(&name)
}

pub(super) fn is_site(name: &str) -> bool {
    SITES.iter().any(|s| s.name == name)
}

pub(super) fn is_mechanism(name: &str) -> bool {
    Mechanism::ALL.iter().any(|m| m.name() == name)
}

pub(super) fn is_limit(name: &str) -> bool {
    LIMITS.contains(&name)
}

/// A version of ipctrace.
pub(super) fn is_version(text: &str) -> bool {
    text.split('.').all(is_number)
}

pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
