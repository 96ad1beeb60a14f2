//! Descriptors that processes pass to each other: sent, received, dropped. What happens to them later is in `fdtable`.

use tracer_common::event::{FdReceive, FdSend, FdTruncated};
use tracer_common::field::Field;
use tracer_common::map::Receiving;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::{self, GAUGES, RECEIVING, SOCK_WATCHED, WAITING_RECEIVES};
use crate::mech::fdtable;
use crate::resolve;
use crate::task::{self, Regs};

/// include/linux/socket.h
const MSG_PEEK: u64 = 0x2;
const MSG_CTRUNC: u32 = 0x8;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
/// include/net/scm.h
const SCM_MAX_FD: u64 = 253;
/// Control messages that are read in one message.
const CMSGS_MAX: u32 = 4;
/// Descriptors reported in one step: a message of 253 takes 32 steps, and 33 tail calls are allowed
/// (`MAX_TAIL_CALL_CNT`, include/linux/bpf.h).
const FDS_A_STEP: u32 = 8;
/// Size of `struct mmsghdr`, include/linux/socket.h.
const MMSGHDR_LEN: u64 = 64;
/// [`FdReceive`]: `via`.
const VIA_RIGHTS: u32 = 0;
const VIA_GETFD: u32 = 1;
const VIA_PEEK: u32 = 2;
/// [`FdTruncated`]: `cause`.
const CAUSE_UNKNOWN: u32 = 0;
const CAUSE_TABLE_FULL: u32 = 1;
const CAUSE_BUFFER: u32 = 2;
const CAUSE_DENIED: u32 = 3;

/// `struct user_msghdr`, include/linux/socket.h: the part behind the I/O vector.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    addr: u64,
    len: u64,
    flags: u32,
    _pad: u32,
}
const CONTROL_OFFSET: u64 = 32;

/// `struct cmsghdr`, include/linux/socket.h
#[repr(C)]
#[derive(Clone, Copy)]
struct Cmsg {
    len: u64,
    level: i32,
    kind: i32,
}
const CMSG_LEN: u64 = 16;

/// What all descriptors of a receiving call have in common: fields of [`FdReceive`].
#[derive(Clone, Copy)]
struct Receipt {
    files: u64,
    sock: u64,
    via: u32,
    cloexec: u32,
}

#[inline(always)]
fn receipt(regs: Regs, via: u32) -> Option<Receipt> {
    let flags = match regs.call() {
        Syscall::Recvmmsg => regs.arg(3)?,
        Syscall::Recvmsg => regs.arg(2)?,
        _ => MSG_CMSG_CLOEXEC,
    };
    let sock = match via {
        VIA_GETFD => 0,
        _ => resolve::file(regs.arg(0)? as u32).and_then(|f| f.unix_sock()).map_or(0, resolve::sock_inode),
    };
    Some(Receipt {
        files: resolve::files()?,
        sock,
        via: if via == VIA_RIGHTS && flags & MSG_PEEK != 0 { VIA_PEEK } else { via },
        cloexec: u32::from(flags & MSG_CMSG_CLOEXEC != 0),
    })
}

/// Reports a received descriptor and follows it from now on.
#[inline(always)]
fn send_received(call: &Call, r: Receipt, fd: u32) {
    let mut event =
        FdReceive { files: r.files, sock: r.sock, fd, via: r.via, cloexec: r.cloexec, ..FdReceive::default() };
    if let Some(file) = resolve::file(fd) {
        event.obj = file.identity();
        file.name(&mut event.name);
    }
    fdtable::track(call, r.files, fd);
    if r.sock != 0 {
        let _ = SOCK_WATCHED.insert(r.sock, 1, 0);
        filter::watch_others();
    }
    emit::event_with_stack(call, event);
}

/// `scm_detach_fds` (net/core/scm.c) begins: the kernel knows the descriptors of the message and the size of the
/// control buffer.
#[inline(always)]
pub fn detach(msg: u64, scm: u64) {
    let (tgid, tid) = task::ids();
    if !filter::wanted(tgid) {
        return;
    }
    let fp: u64 = kread::field(scm, Field::ScmFp).unwrap_or(0);
    let sent = if fp == 0 { -1 } else { kread::field::<u16>(fp, Field::FpCount).map_or(-1, i32::from) };
    let control_len: u64 = kread::field(msg, Field::MsghdrControlLen).unwrap_or(0);
    let _ = RECEIVING.insert(tid, Receiving { control_len, sent, ..Receiving::default() }, 0);
}

/// A receive function of the kernel returned a descriptor, or -errno.
#[inline(always)]
pub fn installed(call: &Call) {
    let (tgid, tid) = task::ids();
    let fd = call.ret as i32;
    if fd < 0 || !filter::wanted(tgid) {
        return;
    }
    let Some(regs) = Regs::current() else { return emit::fault(call.site) };
    // On some kernels pidfd_getfd comes here, too; it has a site of its own.
    if regs.call() == Syscall::PidfdGetfd {
        return;
    }
    // If two programs are attached, the first has reported it. The descriptors of a message have different numbers.
    let known = match RECEIVING.get_ptr_mut(tid) {
        Some(r) => {
            // SAFETY: a map value; only this thread writes its own entry.
            let r = unsafe { &mut *r };
            let known = r.next == fd as u64 + 1;
            if !known {
                r.next = fd as u64 + 1;
                r.installed += 1;
            }
            known
        }
        None => resolve::files().is_some_and(|files| fdtable::is_tracked(files, fd as u32)),
    };
    if known {
        return;
    }
    match receipt(regs, VIA_RIGHTS) {
        Some(r) => send_received(call, r, fd as u32),
        None => emit::fault(call.site),
    }
}

/// `scm_detach_fds` returned: descriptors that were not installed are dropped.
#[inline(always)]
pub fn detached(call: &Call) {
    let (_, tid) = task::ids();
    // SAFETY: a copy of a map value.
    let Some(r) = (unsafe { RECEIVING.get(tid) }).copied() else { return };
    let _ = RECEIVING.remove(tid);
    if r.sent < 0 || r.installed as i32 >= r.sent {
        return;
    }
    let cause = if r.table_full != 0 {
        CAUSE_TABLE_FULL
    } else if capacity(r.control_len) > r.installed as u64 {
        CAUSE_DENIED
    } else {
        CAUSE_BUFFER
    };
    send_truncated(call, r.sent, r.installed, cause);
}

/// Descriptors that fit into a control buffer of this size.
#[inline(always)]
fn capacity(control_len: u64) -> u64 {
    if control_len < CMSG_LEN { 0 } else { (control_len - CMSG_LEN) / 4 }
}

/// Reports that descriptors of a message were dropped.
#[inline(always)]
fn send_truncated(call: &Call, sent: i32, received: u32, cause: u32) {
    let fd = Regs::current().and_then(|r| r.arg(0)).unwrap_or(0) as u32;
    let sock = resolve::file(fd).and_then(|f| f.unix_sock()).map_or(0, resolve::sock_inode);
    emit::event_with_stack(call, FdTruncated { sock, sent, received, cause, fd });
}

/// recvmsg begins (tracepoint backend): stores the size of the control buffer, and the descriptors of the message if it
/// is already in the queue.
#[inline(always)]
pub fn receive_begins(call: &Call, fd: u32, msg: u64) {
    let (tgid, tid) = task::ids();
    if !filter::wanted(tgid) || task::compat(task::current()) {
        return;
    }
    let Some(sk) = resolve::file(fd).and_then(|f| f.unix_sock()) else { return };
    let control_len = kread::user::<Control>(msg + CONTROL_OFFSET).map_or(0, |c| c.len);
    let sent = resolve::queued_fds(sk);
    let entry = Receiving { sk, control_len, sent, waits: u32::from(sent < 0), ..Receiving::default() };
    if RECEIVING.insert(tid, entry, 0).is_err() {
        return emit::fault(call.site);
    }
    count_waiting(entry.waits.into());
}

/// Counts the receives that wait for their message.
#[inline(always)]
fn count_waiting(by: i64) {
    if by != 0 {
        maps::count(&GAUGES, WAITING_RECEIVES, by);
    }
}

/// Whether any receive waits for its message.
#[inline(always)]
pub fn receives_wait() -> bool {
    maps::any(&GAUGES, WAITING_RECEIVES)
}

/// A thread is switched in. If it waited in recvmsg, the message that woke it is at the head of the queue.
#[inline(always)]
pub fn receiver_woken(tid: u32) {
    if let Some(r) = RECEIVING.get_ptr_mut(tid) {
        // SAFETY: a map value; only its thread writes it, and that is about to run.
        let r = unsafe { &mut *r };
        if r.sent < 0 {
            r.sent = resolve::queued_fds(r.sk);
        }
    }
}

/// recvmsg or recvmmsg returned (tracepoint backend). The descriptors are reported in steps, each in a run of its own,
/// because the verifier bounds the length of a loop. Returns true if a step is needed.
#[inline(always)]
pub fn receive_ended(call: &Call, regs: Regs) -> bool {
    let (tgid, tid) = task::ids();
    // SAFETY: a copy of a map value.
    let mut state = unsafe { RECEIVING.get(tid) }.copied().unwrap_or(Receiving { sent: -1, ..Receiving::default() });
    count_waiting(-i64::from(state.waits));
    state.waits = 0;
    if call.ret < 0 || !filter::wanted(tgid) {
        let _ = RECEIVING.remove(tid);
        return false;
    }
    state.msg = regs.arg(1).unwrap_or(0);
    state.messages = if regs.call() == Syscall::Recvmsg { 1 } else { call.ret as u32 };
    RECEIVING.insert(tid, state, 0).is_ok()
}

/// One step: finds the next message, or reports the next descriptors of the current one. Returns true if another step
/// is needed.
#[inline(always)]
pub fn received_step(call: &Call, regs: Regs) -> bool {
    let (_, tid) = task::ids();
    let Some(state) = RECEIVING.get_ptr_mut(tid) else { return false };
    // SAFETY: a map value; only this thread writes its own entry.
    let state = unsafe { &mut *state };
    if state.fds == 0 {
        if state.messages == 0 {
            let _ = RECEIVING.remove(tid);
            return false;
        }
        next_message(call, regs, state);
        return true;
    }
    let Some(r) = receipt(regs, VIA_RIGHTS) else {
        emit::fault(call.site);
        let _ = RECEIVING.remove(tid);
        return false;
    };
    let mut i = 0u32;
    while i < FDS_A_STEP {
        if state.fds == 0 {
            return true;
        }
        if let Some(fd) = kread::user::<u32>(state.next) {
            send_received(call, r, fd);
        }
        state.next += 4;
        state.fds -= 1;
        i += 1;
    }
    true
}

/// Finds the descriptors in the control data of the next message.
#[inline(always)]
fn next_message(call: &Call, regs: Regs, state: &mut Receiving) {
    let control = kread::user::<Control>(state.msg + CONTROL_OFFSET);
    state.msg += MMSGHDR_LEN;
    state.messages -= 1;
    let Some(control) = control else { return };
    let mut at = 0u64;
    let mut i = 0u32;
    while i < CMSGS_MAX {
        if at + CMSG_LEN > control.len {
            break;
        }
        let Some(cmsg) = kread::user::<Cmsg>(control.addr + at) else { break };
        if cmsg.len < CMSG_LEN || cmsg.len > 4096 {
            break;
        }
        if cmsg.level == SOL_SOCKET && cmsg.kind == SCM_RIGHTS {
            let n = (cmsg.len - CMSG_LEN) / 4;
            state.fds = if n > SCM_MAX_FD { SCM_MAX_FD as u32 } else { n as u32 };
            state.next = control.addr + at + CMSG_LEN;
            break;
        }
        at += (cmsg.len + 7) & !7;
        i += 1;
    }
    if control.flags & MSG_CTRUNC != 0 {
        on_control_truncated(call, state, regs.call() == Syscall::Recvmsg);
    }
}

/// Handles MSG_CTRUNC: finds out whether descriptors were dropped, and why. Other control data can be cut, too.
/// Of recvmmsg, neither the messages nor the size of the control buffers before the call are known.
#[inline(always)]
fn on_control_truncated(call: &Call, r: &Receiving, single: bool) {
    let got = r.fds;
    if single && (r.sk == 0 || (r.sent >= 0 && r.sent <= got as i32)) {
        return;
    }
    if r.sent < 0 && got == 0 {
        // The message may have had descriptors or not.
        return emit::fault(call.site);
    }
    let cause = match single {
        true if capacity(r.control_len) > got as u64 => CAUSE_TABLE_FULL,
        true => CAUSE_BUFFER,
        false => CAUSE_UNKNOWN,
    };
    send_truncated(call, r.sent, got, cause);
}

/// pidfd_getfd returned a descriptor.
#[inline(always)]
pub fn got(call: &Call, regs: Regs) {
    if call.ret < 0 || !filter::wanted(task::ids().0) {
        return;
    }
    if let Some(r) = receipt(regs, VIA_GETFD) {
        send_received(call, r, call.ret as u32);
    }
}

/// A message was sent, or is being sent: reports how many descriptors it has.
#[inline(always)]
pub fn sent(call: &Call, regs: Regs) {
    // `__scm_send` (net/core/scm.c) returns an int: its errors are not sign-extended in the register.
    if (call.ret as i32) < 0 {
        return;
    }
    let count = sending(regs);
    if count == 0 {
        return;
    }
    let Some(sk) = regs.arg(0).and_then(|fd| resolve::file(fd as u32)).and_then(|f| f.unix_sock()) else { return };
    let peer = resolve::peer_inode(sk);
    // SAFETY: the value is a plain integer.
    let peer_watched = peer != 0 && unsafe { SOCK_WATCHED.get(peer) }.is_some();
    if filter::wanted(task::ids().0) || peer_watched {
        emit::event(call, FdSend { sock: resolve::sock_inode(sk), peer, count, _pad: 0 });
    }
}

/// Number of descriptors that the current call sends.
#[inline(always)]
pub fn sending(regs: Regs) -> u32 {
    match regs.call() {
        // Of sendmmsg only the first message is read.
        Syscall::Sendmsg | Syscall::Sendmmsg => regs.arg(1).map_or(0, sent_in),
        _ => 0,
    }
}

/// Number of descriptors in the first control message of a message to send.
#[inline(always)]
fn sent_in(msg: u64) -> u32 {
    let Some(control) = kread::user::<Control>(msg + CONTROL_OFFSET) else { return 0 };
    if control.len < CMSG_LEN {
        return 0;
    }
    match kread::user::<Cmsg>(control.addr) {
        Some(c) if c.level == SOL_SOCKET && c.kind == SCM_RIGHTS && c.len > CMSG_LEN => ((c.len - CMSG_LEN) / 4) as u32,
        _ => 0,
    }
}

/// The thread ends, and its receive with it.
#[inline(always)]
pub fn on_thread_exit(tid: u32) {
    // SAFETY: a map value.
    if let Some(r) = unsafe { RECEIVING.get(tid) } {
        count_waiting(-i64::from(r.waits));
        let _ = RECEIVING.remove(tid);
    }
}
