//! Eventfds: created, and writes that a full counter refused. Reads and writes return to the handlers of `pipe`, which
//! find out what a descriptor leads to.

use tracer_common::event::EventfdCreate;
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call};
use crate::filter;
use crate::mech::blocked::Wait;
use crate::mech::refused;
use crate::resolve::{self, File, Target};
use crate::task::{self, Regs};

/// An eventfd whose counter cannot take what a thread writes.
#[inline(always)]
pub fn wait(ctx: u64, fd: u32) -> Wait {
    Wait {
        site: Site::EventfdWrite,
        obj: resolve::eventfd(ctx),
        state: resolve::eventfd_state(ctx).into(),
        ptr: ctx,
        fd: fd as i32,
    }
}

/// eventfd(2) or eventfd2(2) returned.
#[inline(always)]
pub fn created(call: &Call) {
    // `do_eventfd` returns an int: its errors are not sign-extended in the register.
    if (call.ret as i32) < 0 || !filter::wanted(task::ids().0) {
        return;
    }
    let Some(regs) = Regs::current() else { return emit::fault(call.site) };
    let Some(Target::Eventfd { ctx }) = resolve::file(call.ret as u32).and_then(File::target) else {
        return emit::fault(call.site);
    };
    let flags = if regs.call() == Syscall::Eventfd2 { regs.arg(1).unwrap_or(0) as u32 } else { 0 };
    let event = EventfdCreate {
        id: resolve::eventfd(ctx).id,
        initial: regs.arg(0).unwrap_or(0) & 0xffff_ffff,
        fd: call.ret as u32,
        flags,
    };
    emit::event_with_stack(call, event);
}

/// A write was refused: the counter cannot take it.
#[inline(always)]
pub fn write_refused(call: &Call, ctx: u64, fd: i32) {
    let call = call.at(Site::EventfdWrite);
    let _ = refused::count(&call, resolve::eventfd(ctx), resolve::eventfd_state(ctx).into(), ctx, fd);
}
