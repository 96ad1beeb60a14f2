//! Pipes and FIFOs: created, written, read, resized, opened. Also reads and writes of descriptors that may lead to an
//! eventfd or a socket: the handlers here find out which, and call its mechanism.

use tracer_common::event::{PipeCreate, PipeResize};
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_common::state::ObjState;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::mech::blocked::{self, Sleeper, Wait};
use crate::mech::{eventfd, last_read, refused, socket};
use crate::resolve::{self, File, Target};
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
/// include/uapi/linux/fcntl.h
pub const F_SETPIPE_SZ: u32 = 1031;
/// include/uapi/asm-generic/fcntl.h
const O_ACCMODE: u64 = 3;
const O_WRONLY: u64 = 1;

/// open(path, flags) or openat(directory, path, flags) of a FIFO that has no reader yet.
#[inline(always)]
pub fn open_wait(sleeper: Sleeper) -> Option<Wait> {
    // An open for reading waits for input, as an idle reader does.
    if sleeper.regs.arg(if sleeper.call == Syscall::Open { 1 } else { 2 })? & O_ACCMODE != O_WRONLY {
        return None;
    }
    // The file is known only when open returns.
    let obj = ObjRef { kind: kind::PIPE, ns: 0, id: 0 };
    Some(Wait { site: Site::FifoOpen, obj, state: ObjState::default(), ptr: 0, fd: -1 })
}

/// The object that a thread waits for in a call that writes to the descriptor in argument `n`. `site`: that of the
/// call if the object is a pipe; a splice may also sleep because its source is empty.
#[inline(always)]
pub fn write_wait(sleeper: Sleeper, n: usize, site: Site) -> Option<Wait> {
    let fd = sleeper.regs.arg(n)? as u32;
    match resolve::file_of(sleeper.task, fd)?.target()? {
        Target::Pipe { inode, pipe } => {
            let state = resolve::pipe_state(pipe);
            if !state.is_full() {
                return None;
            }
            Some(Wait { site, obj: resolve::pipe(inode), state: state.into(), ptr: pipe, fd: fd as i32 })
        }
        Target::Eventfd { ctx } => Some(eventfd::wait(ctx, fd)),
        Target::Socket(file) => socket::wait(file, fd, site),
        Target::Other => None,
    }
}

/// pipe(2) or pipe2(2) returned.
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

/// A write to a pipe or eventfd returned. `file`: its file; `None`: the hook does not know it, and the call's
/// descriptor leads to it.
#[inline(always)]
pub fn written(call: &Call, file: Option<File>) {
    blocked::on_return(call, ObjRef::default());
    if call.ret != EAGAIN || !filter::wanted(task::ids().0) {
        return;
    }
    let fd = Regs::current().and_then(|r| r.arg(0)).map_or(-1, |fd| fd as i32);
    let Some(file) = file.or_else(|| resolve::file(fd as u32)) else { return };
    write_refused(call, file, fd);
}

/// A splice into the pipe `to` returned.
#[inline(always)]
pub fn spliced(call: &Call, to: Option<u64>) {
    blocked::on_return(call, ObjRef::default());
    if call.ret != EAGAIN || !filter::wanted(task::ids().0) {
        return;
    }
    let Some(fd) = to else { return };
    if let Some(file) = resolve::file(fd as u32)
        && let Some(Target::Pipe { pipe, .. }) = file.target()
    {
        // An empty source gives EAGAIN, too.
        if resolve::pipe_state(pipe).is_full() {
            write_refused(call, file, fd as i32);
        }
    }
}

#[inline(always)]
fn write_refused(call: &Call, file: File, fd: i32) {
    match file.target() {
        Some(Target::Pipe { inode, pipe }) => {
            let call = call.at(Site::PipeWrite);
            let _ = refused::count(&call, resolve::pipe(inode), resolve::pipe_state(pipe).into(), pipe, fd);
        }
        Some(Target::Eventfd { ctx }) => eventfd::write_refused(call, ctx, fd),
        Some(Target::Socket(file)) => socket::write_refused(call, file, fd),
        Some(Target::Other) | None => {}
    }
}

/// A read from a pipe or eventfd returned; `file` finds its file, and is called only for successful reads of targets.
#[inline(always)]
pub fn read(call: &Call, file: impl FnOnce() -> Option<File>) {
    if call.ret <= 0 || !filter::wanted(task::ids().0) {
        return;
    }
    match file().and_then(File::target) {
        Some(Target::Pipe { inode, pipe }) => last_read::on_read(call, pipe, resolve::number(inode)),
        Some(Target::Eventfd { ctx }) => last_read::on_read(call, ctx, resolve::eventfd(ctx).id),
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
        last_read::on_read(call, pipe, resolve::number(inode));
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

/// open(2) of a file of any kind returned: it ends the wait for a FIFO.
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
    blocked::on_return(call, obj);
}
