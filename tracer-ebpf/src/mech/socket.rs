//! Unix sockets: sends and connects that block or are refused, and the last reader. Sockets of other families are left
//! out.

use tracer_common::event::{FdOverflow, SocketAddress};
use tracer_common::map::{ObjRef, SOCKET_CONNECTING, kind};
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::{self, GAUGES, SOCKET_READS_STAMPED};
use crate::mech::blocked::{self, Wait};
use crate::mech::{fdpass, last_read, refused};
use crate::resolve::{self, File};
use crate::task::{self, Regs};

const EAGAIN: i64 = -11;
const ENOBUFS: i64 = -105;
const ETOOMANYREFS: i64 = -109;
/// Bytes before `sun_path` in `struct sockaddr_un`, and its length.
const FAMILY_LEN: u64 = 2;
const PATH_MAX: u64 = 108;
/// include/linux/socket.h
const MSG_PEEK: u64 = 2;

/// The unix socket that a thread waits for until it can send or connect. `site`: that of its call. A splice may also
/// sleep because its source is empty, so it only counts if the socket is full.
#[inline(always)]
pub fn wait(file: File, fd: u32, site: Site) -> Option<Wait> {
    let sk = resolve::unix_sock(file);
    if sk == 0 {
        return None;
    }
    let peer = resolve::unix_peer(sk);
    let state = resolve::socket_state(sk, peer);
    if site as u16 == Site::PipeSplice as u16 && !state.is_sndbuf_full() {
        return None;
    }
    stamp_reads();
    // A connect does not wait for its own socket, but for the listening one.
    let connects = site as u16 == Site::SocketConnect as u16;
    let (site, ns) = if connects { (Site::SocketConnect, SOCKET_CONNECTING) } else { (Site::SocketSend, 0) };
    let obj = ObjRef { kind: kind::SOCKET, ns, id: resolve::sock_number(sk) };
    Some(Wait { site, obj, state: state.into(), ptr: peer, fd: fd as i32 })
}

/// From now on reads of unix sockets are stamped.
#[inline(always)]
fn stamp_reads() {
    if let Some(on) = GAUGES.get_ptr_mut(SOCKET_READS_STAMPED) {
        // SAFETY: a map value; it only ever goes from 0 to 1.
        unsafe { *on = 1 };
    }
}

/// A send to a unix socket returned (tracepoint backend: to any socket).
#[inline(always)]
pub fn sent(call: &Call) {
    if !has_slept_or_failed(call) {
        return;
    }
    let Some(regs) = Regs::current() else { return };
    let syscall = regs.call();
    // The wait of any other call ends at its own exit, and a request of io_uring is no call.
    if !matches!(
        syscall,
        Syscall::Write | Syscall::Writev | Syscall::Pwritev2 | Syscall::Sendto | Syscall::Sendmsg | Syscall::Sendmmsg
    ) {
        return;
    }
    ended(call, regs, syscall);
}

/// connect to a unix socket returned (tracepoint backend: to any socket).
#[inline(always)]
pub fn connected(call: &Call) {
    if has_slept_or_failed(call)
        && let Some(regs) = Regs::current()
    {
        ended(call, regs, Syscall::Connect);
    }
}

/// Nearly all sends neither block nor fail.
#[inline(always)]
fn has_slept_or_failed(call: &Call) -> bool {
    matches!(call.of_int().ret, EAGAIN | ENOBUFS | ETOOMANYREFS) || blocked::has_slept()
}

#[inline(always)]
fn ended(call: &Call, regs: Regs, syscall: Syscall) {
    let call = &call.of_int();
    let unconnected = if blocked::has_slept() {
        let unconnected = blocked::unconnected_socket();
        // With SO_SNDTIMEO the call may end with EAGAIN after a wait: no refusal.
        blocked::on_return(call, ObjRef::default());
        unconnected
    } else if call.ret == EAGAIN || call.ret == ENOBUFS {
        count_refused_call(call, regs, syscall)
    } else {
        0
    };
    if unconnected != 0 {
        send_address(call, unconnected, regs, syscall);
    }
    if call.ret == ETOOMANYREFS {
        send_overflow(call, regs);
    }
}

/// Counts a send or connect that was refused. Returns the inode number of its socket if that is not connected and this
/// is its first refusal; else 0.
#[inline(always)]
fn count_refused_call(call: &Call, regs: Regs, syscall: Syscall) -> u64 {
    if !filter::wanted(task::ids().0) {
        return 0;
    }
    let Some(fd) = regs.arg(0) else { return 0 };
    let Some(sk) = resolve::file(fd as u32).and_then(File::unix_sock) else { return 0 };
    let ns = if matches!(syscall, Syscall::Connect) { SOCKET_CONNECTING } else { 0 };
    count_refused(call, sk, ns, fd as i32)
}

/// Reports a send with descriptors that failed because too many are in flight.
#[inline(always)]
fn send_overflow(call: &Call, regs: Regs) {
    if !filter::wanted(task::ids().0) {
        return;
    }
    let Some(sk) = regs.arg(0).and_then(|fd| resolve::file(fd as u32)).and_then(File::unix_sock) else { return };
    let event = FdOverflow {
        sock: resolve::sock_number(sk),
        peer: resolve::sock_number(resolve::unix_peer(sk)),
        count: fdpass::sending(regs),
        _pad: 0,
    };
    emit::event_with_stack(call, event);
}

/// Counts one refusal; the result as of [`count_refused_call`].
#[inline(always)]
fn count_refused(call: &Call, sk: u64, ns: u32, fd: i32) -> u64 {
    stamp_reads();
    let peer = resolve::unix_peer(sk);
    let state = resolve::socket_state(sk, peer);
    let obj = ObjRef { kind: kind::SOCKET, ns, id: resolve::sock_number(sk) };
    let first = refused::count(call, obj, state.into(), peer, fd);
    if first && state.peer_ino == 0 { obj.id } else { 0 }
}

/// write(2) to a socket failed with EAGAIN (tracepoint backend).
#[inline(always)]
pub fn write_refused(call: &Call, file: File, fd: i32) {
    let call = call.at(Site::SocketSend);
    if !call.by_tracepoint() {
        return;
    }
    let sk = resolve::unix_sock(file);
    if sk != 0 {
        let _ = count_refused(&call, sk, 0, fd);
    }
}

/// Reports the address in a call: where a socket that is not connected sends or connects to.
#[inline(always)]
fn send_address(call: &Call, sock: u64, regs: Regs, syscall: Syscall) {
    // Addresses of the `struct sockaddr_un` and of its length, or of a `struct user_msghdr` that begins with both.
    let (addr, len) = match syscall {
        Syscall::Connect => (regs.arg(1), regs.arg(2)),
        Syscall::Sendto => (regs.arg(4), regs.arg(5)),
        _ => {
            let msg = regs.arg(1).unwrap_or(0);
            (kread::user::<u64>(msg), kread::user::<u32>(msg + 8).map(u64::from))
        }
    };
    let (Some(addr), Some(len)) = (addr, len) else { return };
    if addr == 0 || len <= FAMILY_LEN || len > FAMILY_LEN + PATH_MAX {
        return;
    }
    // The black box hides the bound from the compiler, which would leave out the mask that the verifier of 5.10 needs.
    let len = core::hint::black_box(len - FAMILY_LEN) as usize & 0x7f;
    emit::event_in_place::<SocketAddress>(call, emit::UserStack::NONE, |event| {
        event.sock = sock;
        event.len = len as u32;
        kread::user_bytes(addr + FAMILY_LEN, &mut event.name.as_flattened_mut()[..len])
    });
}

/// A read from a unix socket returned. `socket` finds its `struct socket`, and is called only if reads are stamped.
#[inline(always)]
pub fn received(call: &Call, socket: impl FnOnce() -> Option<u64>) {
    if (call.ret as i32) <= 0 || !reads_are_stamped() || !filter::wanted(task::ids().0) || is_peek() {
        return;
    }
    if let Some(socket) = socket() {
        on_read(call, resolve::unix_sock_of(socket));
    }
}

/// read(2) from a socket returned.
#[inline(always)]
pub fn file_read(call: &Call, file: File) {
    if reads_are_stamped() {
        on_read(call, resolve::unix_sock(file));
    }
}

#[inline(always)]
fn on_read(call: &Call, sk: u64) {
    if sk != 0 {
        last_read::on_read(call, sk, resolve::sock_number(sk));
    }
}

#[inline(always)]
fn reads_are_stamped() -> bool {
    maps::any(&GAUGES, SOCKET_READS_STAMPED)
}

/// Whether the current call leaves what it reads in the queue.
#[inline(always)]
fn is_peek() -> bool {
    let Some(regs) = Regs::current() else { return false };
    let flags = match regs.call() {
        Syscall::Recvmsg => regs.arg(2),
        Syscall::Recvfrom | Syscall::Recvmmsg => regs.arg(3),
        _ => None,
    };
    flags.unwrap_or(0) & MSG_PEEK != 0
}
