//! Calls that are hooked as system calls on every backend: one dispatch for the sys_exit tracepoint, and for fexit and
//! kretprobe on the call's own function.

use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::Call;
use crate::mech::{child, fdpass, pipe, sem};
use crate::task::Regs;

/// The call returned.
#[inline(always)]
pub fn wrapper(call: Call, regs: Regs, syscall: Syscall) {
    match syscall {
        Syscall::Semctl => sem::controlled(&call.at(Site::SemCtl), regs, None, true),
        Syscall::Pipe | Syscall::Pipe2 => pipe::created(&call.at(Site::PipeCreate), regs),
        Syscall::Splice => {
            pipe::spliced(&call.at(Site::PipeSplice), regs, 2);
            pipe::spliced_out(&call.at(Site::PipeRead), regs, 0);
        }
        Syscall::Tee => pipe::spliced(&call.at(Site::PipeSplice), regs, 1),
        Syscall::Vmsplice => pipe::spliced(&call.at(Site::PipeSplice), regs, 0),
        Syscall::Sendfile => {
            pipe::spliced(&call.at(Site::PipeSplice), regs, 0);
            pipe::spliced_out(&call.at(Site::PipeRead), regs, 1);
        }
        Syscall::Wait4 | Syscall::Waitid => child::waited(&call.at(Site::ChildWait), regs),
        Syscall::CloseRange => fdpass::close_range_ended(&call.at(Site::FdClose), regs),
        Syscall::PidfdGetfd => fdpass::got(&call.at(Site::FdGetfd), regs),
        Syscall::Dup => fdpass::duplicated(&call.at(Site::FdDup), regs, false),
        Syscall::Dup2 | Syscall::Dup3 => fdpass::duplicated(&call.at(Site::FdDup), regs, true),
        Syscall::Fcntl => {
            let Some(cmd) = regs.arg(1) else { return };
            match cmd as u32 {
                fdpass::F_DUPFD | fdpass::F_DUPFD_CLOEXEC | fdpass::F_SETFD => {
                    fdpass::controlled(&call.at(Site::FdDup), regs, cmd as u32);
                }
                pipe::F_SETPIPE_SZ => pipe::resized(&call.at(Site::PipeResize), regs),
                _ => {}
            }
        }
        _ => {}
    }
}
