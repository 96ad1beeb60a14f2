//! The user stack of a thread that sleeps in a system call, as /proc shows it.

use std::io;

use tracer_common::event::{COPY_PAGE, COPY_PAGES, StackCopy};

use super::entry::Entry;

/// The top of the stack, with the registers that are told: the frame pointer is not, nor arm64's link register. `None` if
/// the thread does not sleep in a call, or woke up meanwhile.
pub fn stack_asleep(tgid: u32, tid: u32) -> Option<Box<StackCopy>> {
    let process = Entry::open(tgid).ok()?;
    let asleep = || process.text(&format!("task/{tid}/syscall")).ok();
    let call = asleep()?;
    let (sp, ip) = pointers(&call)?;
    let mut copy = Box::new(StackCopy::empty());
    (copy.tid, copy.ip, copy.sp) = (tid, ip, sp);
    let base = sp - sp % COPY_PAGE as u64;
    for (page, bytes) in copy.bytes.as_chunks_mut::<COPY_PAGE>().0.iter_mut().enumerate() {
        let from = (page * COPY_PAGE) as u64;
        if base.checked_add(from).is_none_or(|addr| process.memory(addr, bytes).is_err()) {
            copy.unread |= 1 << page;
        }
    }
    (asleep()? == call && copy.unread != (1 << COPY_PAGES) - 1).then_some(copy)
}

/// Number of the system call in which a thread sleeps: -1 if it sleeps elsewhere, `None` if it is awake.
///
/// # Errors
/// It is gone, or cannot be read.
pub fn sleeps_in(tgid: u32, tid: u32) -> io::Result<Option<i64>> {
    let call = Entry::open(tgid)?.text(&format!("task/{tid}/syscall"))?;
    Ok(call.split_ascii_whitespace().next().and_then(|nr| nr.parse().ok()))
}

/// Stack and instruction pointer: the last words of `nr arg0 ... arg5 sp pc` (fs/proc/base.c, `proc_pid_syscall`; -1 as
/// `nr` is a thread that is blocked elsewhere, and has no arguments).
fn pointers(call: &str) -> Option<(u64, u64)> {
    let mut words = call.split_ascii_whitespace();
    words.next()?.parse::<u32>().ok()?;
    let mut words = words.skip(6).map(|w| u64::from_str_radix(w.strip_prefix("0x")?, 16).ok());
    Some((words.next()??, words.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn where_a_thread_sleeps() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("spawn");
        let copy = loop {
            if let Some(copy) = stack_asleep(child.id(), child.id()) {
                break copy;
            }
        };
        let modules = crate::inventory::modules(child.id());
        assert!(crate::inventory::locate(&modules, copy.ip).is_some(), "{:#x}", copy.ip);
        assert_eq!(sleeps_in(child.id(), child.id()).ok(), Some(Some(libc::SYS_read)));
        assert!(copy.unread & 1 == 0 && copy.bytes.iter().any(|b| *b != 0) && copy.tid == child.id());
        drop(child.stdin.take());
        child.wait().expect("wait");
        assert!(stack_asleep(child.id(), child.id()).is_none() && sleeps_in(child.id(), child.id()).is_err());
    }

    #[test]
    fn a_thread_that_is_awake() {
        let mut busy = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("spawn");
        while sleeps_in(busy.id(), busy.id()).expect("alive").is_some() {}
        busy.kill().expect("kill");
        busy.wait().expect("wait");
    }

    #[test]
    fn lines_of_syscall() {
        assert_eq!(pointers("0 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffe 0x7f01\n"), Some((0x7ffe, 0x7f01)));
        for bad in ["running\n", "-1 0x7ffe 0x7f01\n", "", "0 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffe\n", "0 1 2 3 4 5 6 7 8\n"]
        {
            assert_eq!(pointers(bad), None, "{bad}");
        }
    }
}
