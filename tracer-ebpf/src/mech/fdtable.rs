//! Descriptors that were received, and their duplicates: followed until they are closed. Also calls that fail because a
//! descriptor table is full.

use tracer_common::event::{FdClose, FdCloseRange, FdDup, FdFail, FdFlags};
use tracer_common::map::FdKey;
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call};
use crate::filter;
use crate::maps::{FD_TABLES, FD_TRACKED, RECEIVING};
use crate::resolve;
use crate::task::{self, Regs};

const EMFILE: i64 = -24;
const ENFILE: i64 = -23;
const EBADF: i64 = -9;
/// include/uapi/linux/fcntl.h
pub const F_DUPFD: u32 = 0;
pub const F_SETFD: u32 = 2;
pub const F_DUPFD_CLOEXEC: u32 = 1030;
/// include/uapi/linux/close_range.h
const CLOSE_RANGE_CLOEXEC: u64 = 4;
/// [`FdClose`]: `how`.
pub const HOW_CLOSE: u32 = 0;
const HOW_DUP_OVER: u32 = 2;

/// Follows descriptor `fd` of table `files` from now on.
#[inline(always)]
pub fn track(call: &Call, files: u64, fd: u32) {
    if FD_TRACKED.insert(FdKey { files, fd, _pad: 0 }, 1, 0).is_err() {
        emit::fault(call.site);
    }
    let _ = FD_TABLES.insert(files, 1, 0);
}

/// Whether descriptor `fd` of table `files` is followed.
#[inline(always)]
pub fn is_tracked(files: u64, fd: u32) -> bool {
    // SAFETY: the value is a plain integer.
    unsafe { FD_TRACKED.get(FdKey { files, fd, _pad: 0 }) }.is_some()
}

#[inline(always)]
fn untrack(files: u64, fd: u32) {
    let _ = FD_TRACKED.remove(FdKey { files, fd, _pad: 0 });
}

/// Descriptor `fd` of table `files` is closed.
#[inline(always)]
pub fn closed(call: &Call, files: u64, fd: u32, how: u32) {
    if is_tracked(files, fd) {
        untrack(files, fd);
        emit::event(call, FdClose { files, fd, how });
    }
}

/// close(2) returned (tracepoint backend).
#[inline(always)]
pub fn close_ended(call: &Call, regs: Regs) {
    // With any other error, which comes from the flush of the file, the descriptor is closed (close(2)).
    if call.ret == EBADF {
        return;
    }
    if let (Some(files), Some(fd)) = (resolve::files(), regs.arg(0)) {
        closed(call, files, fd as u32, HOW_CLOSE);
    }
}

/// close_range(2) returned. Backends that see each close have reported the descriptors before; the range is reported
/// all the same.
#[inline(always)]
pub fn close_range_ended(call: &Call, regs: Regs) {
    if call.ret != 0 {
        return;
    }
    let (Some(files), Some(first), Some(last), Some(flags)) = (resolve::files(), regs.arg(0), regs.arg(1), regs.arg(2))
    else {
        return;
    };
    // SAFETY: the value is a plain integer.
    if unsafe { FD_TABLES.get(files) }.is_none() {
        return;
    }
    let cloexec = u32::from(flags & CLOSE_RANGE_CLOEXEC != 0);
    emit::event(call, FdCloseRange { files, first: first as u32, last: last as u32, cloexec, _pad: 0 });
}

/// dup, dup2, dup3 returned; `over`: the new number was chosen by the caller.
#[inline(always)]
pub fn duplicated(call: &Call, regs: Regs, over: bool) {
    if call.ret < 0 {
        return;
    }
    let (Some(files), Some(old)) = (resolve::files(), regs.arg(0)) else { return };
    let (old, new) = (old as u32, call.ret as u32);
    if old == new {
        return;
    }
    if over {
        closed(call, files, new, HOW_DUP_OVER);
    }
    if is_tracked(files, old) {
        track(call, files, new);
        emit::event(call, FdDup { files, old, new });
    }
}

/// fcntl(F_SETFD) returned.
#[inline(always)]
pub fn flags_set(call: &Call, regs: Regs) {
    if call.ret != 0 {
        return;
    }
    let (Some(files), Some(fd), Some(arg)) = (resolve::files(), regs.arg(0), regs.arg(2)) else { return };
    if is_tracked(files, fd as u32) {
        emit::event(call, FdFlags { files, fd: fd as u32, cloexec: arg as u32 & 1 });
    }
}

/// A call, or `alloc_fd` in it, failed with EMFILE or ENFILE.
#[inline(always)]
pub fn failed(call: &Call) {
    let errno = call.of_int().ret;
    if errno != EMFILE && errno != ENFILE {
        return;
    }
    let (tgid, tid) = task::ids();
    if !filter::wanted(tgid) {
        return;
    }
    let syscall = Regs::current().map_or(Syscall::None, Regs::call);
    if matches!(syscall, Syscall::Recvmsg | Syscall::Recvmmsg) {
        // The call does not fail: the descriptor is dropped, and the message is truncated.
        if let Some(r) = RECEIVING.get_ptr_mut(tid) {
            // SAFETY: a map value; only this thread writes its own entry.
            unsafe { (*r).table_full = 1 };
        }
        return;
    }
    emit::event_with_stack(&call.at(Site::FdFail), FdFail { errno: -errno as i32, call: syscall as u32 });
}
