//! Pipes and FIFOs: created, written, read, resized, opened.

use tracer_common::event::{PipeCreate, PipeResize};
use tracer_common::map::ObjRef;
use tracer_common::site::Site;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::mech::{blocked, eventfd, refused, socket};
use crate::resolve::{self, File, Target};
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
/// include/uapi/linux/fcntl.h
pub const F_SETPIPE_SZ: u32 = 1031;

/// pipe(2), pipe2(2) returned.
#[inline(always)]
pub fn created(call: &Call, regs: Regs) {
    if call.ret != 0 || !filter::wanted(task::ids().0) {
        return;
    }
    // int fildes[2], the read end first.
    let Some(fd) = regs.arg(0).and_then(kread::user::<u32>) else { return emit::fault(call.site) };
    let Some(Target::Pipe { inode, pipe }) = resolve::file(fd).and_then(File::target) else {
        return emit::fault(call.site);
    };
    let slots = resolve::pipe_slots(pipe);
    emit::event_with_stack(call, PipeCreate { ino: resolve::pipe(inode).id, slots, _pad: 0 });
}

/// A write to a pipe or eventfd returned; `file` if the hook knows it, else it is looked up by the call's descriptor.
#[inline(always)]
pub fn written(call: &Call, file: Option<File>) {
    blocked::ended(call, ObjRef::default());
    if call.ret != EAGAIN || !filter::wanted(task::ids().0) {
        return;
    }
    let fd = Regs::current().and_then(|r| r.arg(0)).map_or(-1, |fd| fd as i32);
    let Some(file) = file.or_else(|| resolve::file(fd as u32)) else { return };
    full(call, file, fd);
}

/// A splice into the pipe `to` returned.
#[inline(always)]
pub fn spliced(call: &Call, to: Option<u64>) {
    blocked::ended(call, ObjRef::default());
    if call.ret != EAGAIN || !filter::wanted(task::ids().0) {
        return;
    }
    let Some(fd) = to else { return };
    if let Some(file) = resolve::file(fd as u32)
        && let Some(Target::Pipe { pipe, .. }) = file.target()
    {
        // An empty source gives EAGAIN too.
        let state = resolve::pipe_state(pipe);
        if state.b >= state.a {
            full(call, file, fd as i32);
        }
    }
}

#[inline(always)]
fn full(call: &Call, file: File, fd: i32) {
    match file.target() {
        Some(Target::Pipe { inode, pipe }) => {
            let _ =
                refused::count(&call.at(Site::PipeWrite), resolve::pipe(inode), resolve::pipe_state(pipe), pipe, fd);
        }
        Some(Target::Eventfd { ctx }) => eventfd::full(call, ctx, fd),
        Some(Target::Socket(file)) => socket::write_refused(call, file, fd),
        Some(Target::Other) | None => {}
    }
}

/// A read from a pipe or eventfd returned; `file` is asked for only if it matters.
#[inline(always)]
pub fn read(call: &Call, file: impl FnOnce() -> Option<File>) {
    if call.ret <= 0 || !filter::wanted(task::ids().0) {
        return;
    }
    match file().and_then(File::target) {
        Some(Target::Pipe { inode, pipe }) => blocked::drained(call, pipe, resolve::number(inode)),
        Some(Target::Eventfd { ctx }) => blocked::drained(call, ctx, resolve::eventfd(ctx).id),
        Some(Target::Socket(file)) => socket::file_read(call, file),
        Some(Target::Other) | None => {}
    }
}

/// A splice out of the pipe `from` returned.
#[inline(always)]
pub fn spliced_out(call: &Call, from: Option<u64>) {
    if call.ret <= 0 || !filter::wanted(task::ids().0) {
        return;
    }
    let file = from.and_then(|fd| resolve::file(fd as u32));
    if let Some(Target::Pipe { inode, pipe }) = file.and_then(File::target) {
        blocked::drained(call, pipe, resolve::number(inode));
    }
}

/// fcntl(F_SETPIPE_SZ) returned.
#[inline(always)]
pub fn resized(call: &Call, regs: Regs) {
    if !filter::wanted(task::ids().0) {
        return;
    }
    let (Some(fd), Some(wanted)) = (regs.arg(0), regs.arg(2)) else { return };
    if let Some(Target::Pipe { inode, .. }) = resolve::file(fd as u32).and_then(File::target) {
        emit::event(call, PipeResize { ino: resolve::pipe(inode).id, wanted, ret: call.ret });
    }
}

/// open(2) of something returned; only a FIFO that made the thread wait matters.
#[inline(always)]
pub fn opened(call: &Call, fd: Option<u32>, file: Option<u64>) {
    let file = match file {
        Some(addr) => File::at(addr),
        None => fd.and_then(resolve::file),
    };
    let obj = match file.and_then(File::target) {
        Some(Target::Pipe { inode, .. }) => resolve::pipe(inode),
        _ => ObjRef::default(),
    };
    blocked::ended(call, obj);
}
