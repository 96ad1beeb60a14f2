//! Reads the state of a thread that sleeps in a system call from /proc: user stack, kernel functions, call.

use std::io;

use tracer_common::event::{COPY_PAGE, COPY_PAGES, StackCopy};

use super::entry::Entry;
use super::process;
use tracer_record::TICK_NS;
use tracer_record::{ObjKey, ReaderSampleRow};

/// At most this many functions of a kernel stack.
const KERNEL_MAX: usize = 16;

/// A copy of the top of the user stack, with stack and instruction pointer; /proc shows neither the frame pointer nor
/// arm64's link register. `None` if the thread does not sleep in a call, or woke up meanwhile.
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

/// A sample of a reader's state; `None` if the thread exited, or its pid belongs to another process now.
pub fn sample_reader(obj: ObjKey, tgid: u32, tid: u32, start_ns: u64) -> Option<ReaderSampleRow> {
    let process = Entry::open(tgid).ok()?;
    let start = process::stat(&process, &mut Vec::new())?.start_ns;
    if start / TICK_NS != start_ns / TICK_NS {
        return None;
    }
    let task = process.below(&format!("task/{tid}")).ok()?;
    let state = process::stat(&task, &mut Vec::new())?.state;
    let asleep = matches!(state, 'S' | 'D');
    let syscall = || number(&task.text("syscall").ok()?).filter(|nr| *nr >= 0);
    let syscall = asleep.then(syscall).flatten();
    let kernel = if asleep { kernel_stack(&task) } else { Vec::new() };
    Some(ReaderSampleRow { obj, tgid, start_ns: start, tid, state, syscall, stack: None, kernel })
}

/// Kernel functions in which a thread sleeps, innermost first; empty without CAP_SYS_ADMIN or CONFIG_STACKTRACE.
pub(super) fn kernel_stack(task: &Entry) -> Vec<String> {
    task.text("stack").map(|text| functions(&text)).unwrap_or_default()
}

/// The names of `[<0>] pipe_write+0x3b1/0x500` (fs/proc/base.c, `proc_pid_stack`).
fn functions(stack: &str) -> Vec<String> {
    let name = |line: &str| Some(line.split_once("] ")?.1.split(['+', ' ']).next()?.to_owned());
    stack.lines().filter_map(name).filter(|name| !name.is_empty()).take(KERNEL_MAX).collect()
}

/// Number of the system call in which a thread sleeps: -1 if it sleeps elsewhere, `None` if it is awake.
///
/// # Errors
/// The thread exited, or cannot be read.
pub fn sleeps_in(tgid: u32, tid: u32) -> io::Result<Option<i64>> {
    let call = Entry::open(tgid)?.text(&format!("task/{tid}/syscall"))?;
    Ok(number(&call))
}

/// The first word of /proc/PID/syscall: the call's number, -1 if the thread sleeps elsewhere; `None` of "running".
fn number(call: &str) -> Option<i64> {
    call.split_ascii_whitespace().next()?.parse().ok()
}

/// Stack and instruction pointer: the last words of `nr arg0 ... arg5 sp pc` (fs/proc/base.c, `proc_pid_syscall`; `nr`
/// is -1, without arguments, for a thread that sleeps elsewhere).
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
    fn a_sleeping_thread_has_a_stack() {
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
    fn a_reader_is_sampled() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("spawn");
        let id = child.id();
        let start_ns = crate::inventory::process(id).expect("a row").start_ns;
        let sample = loop {
            let sample = sample_reader(ObjKey::default(), id, id, start_ns).expect("alive");
            // State and call are read one after the other: it may have slept in a page fault before.
            if (sample.state, sample.syscall) == ('S', Some(libc::SYS_clock_nanosleep)) {
                break sample;
            }
        };
        assert_eq!((sample.tgid, sample.tid, sample.start_ns), (id, id, start_ns));
        assert!(
            sample.kernel.is_empty() || sample.kernel.iter().any(|f| f.contains("nanosleep")),
            "{:?}",
            sample.kernel
        );
        assert_eq!(sample_reader(ObjKey::default(), id, id, start_ns + 2 * TICK_NS), None, "another process");
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(sample_reader(ObjKey::default(), id, id, start_ns), None);
    }

    #[test]
    fn functions_of_the_kernel() {
        let text = "[<0>] pipe_write+0x3b1/0x500\n[<0>] vfs_write+0x33c/0x470 [mod]\n[<0>] 0xffffffff\ngarbage\n\n";
        assert_eq!(functions(text), ["pipe_write", "vfs_write", "0xffffffff"]);
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
