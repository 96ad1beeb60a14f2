//! Calls that every backend hooks as system calls: which handler their return goes to, for the sys_exit tracepoint and
//! for fexit and kretprobe on the wrapper of the call.
//!
//! One function a family of calls: so a program has only the code of its own calls, and the verifier little to do.

use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::Call;
use crate::mech::{child, fdpass, fdtable, pipe, sem};
use crate::task::Regs;

/// The call returned. `syscall` is a constant wherever this is used, so the compiler drops all arms but one.
#[inline(always)]
pub fn wrapper(call: Call, regs: Regs, syscall: Syscall) {
    match syscall {
        Syscall::Semctl => sem::controlled(&call.at(Site::SemCtl), regs, None, true),
        Syscall::Pipe | Syscall::Pipe2 => pipe::created(&call.at(Site::PipeCreate), regs),
        Syscall::Splice | Syscall::Tee | Syscall::Vmsplice | Syscall::Sendfile => spliced(call, regs, syscall),
        Syscall::Wait4 | Syscall::Waitid => child::waited(&call.at(Site::ChildWait), regs),
        Syscall::CloseRange => fdtable::close_range_ended(&call.at(Site::FdClose), regs),
        Syscall::PidfdGetfd => fdpass::got(&call.at(Site::FdGetfd), regs),
        Syscall::Dup | Syscall::Dup2 | Syscall::Dup3 | Syscall::Fcntl => duplicated(call, regs, syscall),
        _ => {}
    }
}

/// splice, tee, vmsplice or sendfile returned.
#[inline(always)]
pub fn spliced(call: Call, regs: Regs, syscall: Syscall) {
    // Arguments with the descriptors of the target and of the source.
    let (to, from) = match syscall {
        Syscall::Splice => (2, Some(0)),
        Syscall::Tee => (1, None),
        Syscall::Vmsplice => (0, None),
        _ => (0, Some(1)),
    };
    pipe::spliced(&call.at(Site::PipeSplice), regs.arg(to));
    if let Some(from) = from {
        pipe::spliced_out(&call.at(Site::PipeRead), regs.arg(from));
    }
}

/// dup, dup2, dup3 or fcntl returned.
#[inline(always)]
pub fn duplicated(call: Call, regs: Regs, syscall: Syscall) {
    let call = call.at(Site::FdDup);
    if syscall != Syscall::Fcntl {
        return fdtable::duplicated(&call, regs, syscall != Syscall::Dup);
    }
    match regs.arg(1).map(|cmd| cmd as u32) {
        Some(fdtable::F_DUPFD | fdtable::F_DUPFD_CLOEXEC) => fdtable::duplicated(&call, regs, false),
        Some(fdtable::F_SETFD) => fdtable::flags_set(&call, regs),
        Some(pipe::F_SETPIPE_SZ) => pipe::resized(&call.at(Site::PipeResize), regs),
        _ => {}
    }
}
