//! Names of the system calls in which threads sleep, by architecture.

use tracer_common::syscall::SYSCALLS;

/// Calls without a probe that a process may sleep in: (name, x86-64, arm64).
/// Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h, Linux 6.18.
const SLEEPERS: &[(&str, i64, i64)] = &[
    ("poll", 7, -1),
    ("select", 23, -1),
    ("pause", 34, -1),
    ("nanosleep", 35, 101),
    ("accept", 43, 202),
    ("flock", 73, 32),
    ("fsync", 74, 82),
    ("rt_sigtimedwait", 128, 137),
    ("rt_sigsuspend", 130, 133),
    ("futex", 202, 98),
    ("clock_nanosleep", 230, 115),
    ("epoll_wait", 232, -1),
    ("pselect6", 270, 72),
    ("ppoll", 271, 73),
    ("epoll_pwait", 281, 22),
    ("accept4", 288, 242),
    ("io_uring_enter", 426, 426),
    ("epoll_pwait2", 441, 441),
];

/// Calls in which a process waits for input or work: it is idle, not slow.
const INPUT: &[&str] = &[
    "poll",
    "select",
    "pause",
    "accept",
    "accept4",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "pselect6",
    "ppoll",
    "read",
    "readv",
    "msgrcv",
    "mq_timedreceive",
    "rt_sigtimedwait",
    "rt_sigsuspend",
    "io_uring_enter",
];

/// Calls in which a process sleeps until another process receives something or releases a lock.
const BLOCKING: &[&str] = &[
    "write",
    "writev",
    "pwritev2",
    "sendto",
    "sendmsg",
    "sendmmsg",
    "sendfile64",
    "splice",
    "tee",
    "vmsplice",
    "semop",
    "semtimedop",
    "msgsnd",
    "mq_timedsend",
    "flock",
    "connect",
    "open",
    "openat",
    "openat2",
];

/// The name of call `nr` on `arch` (as uname spells it), if the call is known.
pub(crate) fn name(arch: &str, nr: i64) -> Option<&'static str> {
    let arm = arch == "aarch64";
    let watched =
        SYSCALLS.iter().find(|(_, _, x86, arm64, ..)| nr >= 0 && i64::from(if arm { *arm64 } else { *x86 }) == nr);
    if let Some((_, name, ..)) = watched {
        return Some(name);
    }
    SLEEPERS.iter().find(|(_, x86, arm64)| nr >= 0 && (if arm { *arm64 } else { *x86 }) == nr).map(|(name, _, _)| *name)
}

/// Whether a process that sleeps in this call waits for input.
pub(crate) fn waits_for_input(name: &str) -> bool {
    INPUT.contains(&name)
}

/// Whether a process that sleeps in this call is blocked until another process receives or releases something.
pub(crate) fn may_block_sending(name: &str) -> bool {
    BLOCKING.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_both_waits_for_input_and_blocks_sending() {
        assert!(BLOCKING.iter().all(|name| !waits_for_input(name)));
        for (name, input, sending) in [("read", true, false), ("write", false, true), ("nanosleep", false, false)] {
            assert_eq!((waits_for_input(name), may_block_sending(name)), (input, sending), "{name}");
        }
    }

    #[test]
    fn each_name_is_a_known_call() {
        let known = |name: &str| (0..500).any(|nr| super::name("x86_64", nr) == Some(name));
        let unknown: Vec<_> = INPUT.iter().chain(BLOCKING).filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn names() {
        for (arch, nr, want) in [
            ("x86_64", 61, Some("wait4")),
            ("aarch64", 260, Some("wait4")),
            ("x86_64", 232, Some("epoll_wait")),
            ("aarch64", 22, Some("epoll_pwait")),
            ("x86_64", -1, None),
            ("aarch64", -1, None),
            ("x86_64", 400, None),
        ] {
            assert_eq!(name(arch, nr), want, "{arch} {nr}");
        }
    }
}
