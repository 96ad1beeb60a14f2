//! Processes: forked, executed, exited, waited for, reaped; and forks that fail.

use tracer_common::event::{Exec, Exit, Fork, ForkFail, Free};
use tracer_common::field::Field;
use tracer_common::map::ChildStats;
use tracer_common::syscall::Syscall;

use crate::clock;
use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::{CHILDREN, add, config};
use crate::mech::{blocked, fdpass, sem};
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
/// include/uapi/linux/wait.h
const WNOWAIT: u64 = 0x0100_0000;
const P_PID: u64 = 1;
const P_PGID: u64 = 2;
const P_PIDFD: u64 = 3;
/// Offset of si_pid in `siginfo_t` of a 64-bit process.
const SI_PID: u64 = 16;

/// Counters of the parent `tgid`, made at their first use; `None`: the map is full.
#[inline(always)]
pub fn stats(call: &Call, tgid: u32, task: u64) -> Option<*mut ChildStats> {
    if let Some(s) = CHILDREN.get_ptr_mut(tgid) {
        // SAFETY: a map value.
        let known = unsafe { &mut *s };
        let start = task::start_ns(task);
        if known.start_ns != start {
            // Another process has the pid now.
            *known = ChildStats { start_ns: start, ..ChildStats::default() };
        }
        return Some(s);
    }
    let fresh = ChildStats { start_ns: task::start_ns(task), ..ChildStats::default() };
    if CHILDREN.insert(tgid, fresh, 0).is_err() {
        emit::fault(call.site);
    }
    CHILDREN.get_ptr_mut(tgid)
}

/// A task was made; only processes are recorded.
#[inline(always)]
pub fn forked(call: &Call, child: u64) {
    let (Some(pid), Some(tgid)) =
        (kread::field::<u32>(child, Field::TaskPid), kread::field::<u32>(child, Field::TaskTgid))
    else {
        return emit::fault(call.site);
    };
    let (parent, _) = task::ids();
    if pid != tgid || !filter::wanted(parent) {
        return;
    }
    if config().follow == 1 && config().all == 0 {
        filter::add(tgid, 1);
    }
    emit::event(call, Fork { child: tgid, _pad: 0, child_start_ns: task::start_ns(child) });
}

/// The current process executed a program.
#[inline(always)]
pub fn executed(call: &Call, old_tid: u32) {
    let (tgid, _) = task::ids();
    if filter::wanted(tgid) {
        // How the previous program waited says nothing about the new one.
        let _ = CHILDREN.remove(tgid);
        emit::event(call, Exec { old_tid, _pad: 0 });
    }
}

/// A thread ends; with the last one its process ends.
#[inline(always)]
pub fn exited(call: &Call, task: u64) {
    let (tgid, tid) = task::ids();
    blocked::on_thread_exit(call, tid);
    fdpass::on_thread_exit(tid);
    let live: i32 = kread::field::<u64>(task, Field::TaskSignal)
        .and_then(|signal| kread::field(signal, Field::SignalLive))
        .unwrap_or(0);
    if live != 0 {
        return;
    }
    sem::on_process_exit(call, tgid);
    let parent_task: u64 = kread::field(task, Field::TaskRealParent).unwrap_or(0);
    let parent: u32 = kread::field(parent_task, Field::TaskTgid).unwrap_or(0);
    let parent_wanted = filter::wanted(parent);
    if !parent_wanted && !filter::wanted(tgid) {
        return;
    }
    if parent_wanted {
        if let Some(s) = stats(call, parent, parent_task) {
            // SAFETY: a pointer into a map value.
            unsafe { add(&raw mut (*s).exits, 1) };
        }
        if config().all == 0 {
            filter::add(tgid, filter::EXITED);
        }
    }
    let code: i32 = kread::field(task, Field::TaskExitCode).unwrap_or(0);
    emit::event(call, Exit { code, parent, parent_start_ns: task::start_ns(parent_task) });
}

/// A task leaves the process table; for the leader of a process this means that it was reaped.
#[inline(always)]
pub fn freed(call: &Call, task: u64) {
    let (Some(pid), Some(tgid)) =
        (kread::field::<u32>(task, Field::TaskPid), kread::field::<u32>(task, Field::TaskTgid))
    else {
        return emit::fault(call.site);
    };
    if pid != tgid || !filter::wanted(tgid) {
        return;
    }
    emit::event(call, Free { tgid, _pad: 0, start_ns: kread::field(task, Field::TaskStart).unwrap_or(0) });
    if config().all == 0 {
        filter::remove(tgid);
    }
}

/// wait4 or waitid returned.
#[inline(always)]
pub fn waited(call: &Call, regs: Regs) {
    let (tgid, _) = task::ids();
    if !filter::wanted(tgid) {
        return;
    }
    let (Some(a0), Some(a1), Some(a2), Some(a3)) = (regs.arg(0), regs.arg(1), regs.arg(2), regs.arg(3)) else {
        return emit::fault(call.site);
    };
    let (one, pid, reaped) = if regs.call() == Syscall::Wait4 {
        (a0 as i32 > 0 || (a0 as i32) < -1, a0 as i32, call.ret > 0)
    } else {
        let got = call.ret == 0 && a2 != 0 && kread::user::<u32>(a2 + SI_PID).unwrap_or(0) != 0;
        let one = a0 & 0xff == P_PID || a0 & 0xff == P_PGID || a0 & 0xff == P_PIDFD;
        (one, a1 as i32, got && a3 & WNOWAIT == 0)
    };
    let Some(s) = stats(call, tgid, task::current()) else { return };
    // SAFETY: pointers into a map value.
    unsafe {
        add(if one { &raw mut (*s).waits_one } else { &raw mut (*s).waits_any }, 1);
        if reaped {
            add(if one { &raw mut (*s).reaped_one } else { &raw mut (*s).reaped_any }, 1);
        }
        (*s).last_wait_ns = clock::now_ns();
        if one {
            (*s).last_pid = pid.unsigned_abs();
        }
    }
}

/// A fork or clone failed.
#[inline(always)]
pub fn fork_failed(call: &Call) {
    if call.ret == EAGAIN && filter::wanted(task::ids().0) {
        emit::event_with_stack(call, ForkFail { errno: -EAGAIN as i32, _pad: 0 });
    }
}
