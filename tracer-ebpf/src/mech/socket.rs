//! Unix sockets: sends and connects that wait or are refused, and who reads. Sockets of other families are left alone.

use tracer_common::event::{FdOverflow, SocketAddress};
use tracer_common::map::{ObjRef, ObjState, SOCKET_CONNECTING, kind};
use tracer_common::site::Site;
use tracer_common::syscall::Syscall;

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::{self, GAUGES, SOCKETS_READ};
use crate::mech::{blocked, fdpass, refused};
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

/// The unix socket at which a sleeping thread waits, how full it is, and the address of the other end's `struct sock`.
/// `site`: where it sleeps; a splice may do so because its source is empty, so that only a full socket makes it a wait.
#[inline(always)]
pub fn waits_at(file: File, site: Site) -> Option<(ObjRef, ObjState, u64)> {
    let sk = resolve::unix_sock(file);
    if sk == 0 {
        return None;
    }
    let peer = resolve::unix_peer(sk);
    let state = resolve::socket_state(sk, peer);
    if site as u16 == Site::PipeSplice as u16 && (state.a & 0xffff_ffff) < state.a >> 32 {
        return None;
    }
    who_reads_matters();
    let ns = if site as u16 == Site::SocketConnect as u16 { SOCKET_CONNECTING } else { 0 };
    Some((ObjRef { kind: kind::SOCKET, ns, id: resolve::sock_number(sk) }, state, peer))
}

/// From now on reads of unix sockets are stamped.
#[inline(always)]
fn who_reads_matters() {
    if let Some(on) = GAUGES.get_ptr_mut(SOCKETS_READ) {
        // SAFETY: a map value; it only ever goes from 0 to 1.
        unsafe { *on = 1 };
    }
}

/// A send to a unix socket returned (tracepoint backend: to any socket).
#[inline(always)]
pub fn sent(call: &Call) {
    if !matters(call) {
        return;
    }
    let Some(regs) = Regs::current() else { return };
    let syscall = regs.call();
    // Their own exits end the wait, and an io_uring request is none.
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
    if matters(call)
        && let Some(regs) = Regs::current()
    {
        ended(call, regs, Syscall::Connect);
    }
}

/// Nearly all sends neither wait nor fail.
#[inline(always)]
fn matters(call: &Call) -> bool {
    matches!(call.of_int().ret, EAGAIN | ENOBUFS | ETOOMANYREFS) || blocked::waited()
}

#[inline(always)]
fn ended(call: &Call, regs: Regs, syscall: Syscall) {
    let call = &call.of_int();
    let nameless = if blocked::waited() {
        let nameless = blocked::nameless();
        blocked::ended(call, ObjRef::default());
        // With a time limit EAGAIN is the end of a wait.
        nameless
    } else if call.ret == EAGAIN || call.ret == ENOBUFS {
        refused_now(call, regs, syscall)
    } else {
        0
    };
    if nameless != 0 {
        named(call, nameless, regs, syscall);
    }
    if call.ret == ETOOMANYREFS {
        overflowed(call, regs);
    }
}

/// A send or connect was refused; the inode number of its socket if that is not connected and it is its first time.
#[inline(always)]
fn refused_now(call: &Call, regs: Regs, syscall: Syscall) -> u64 {
    if !filter::wanted(task::ids().0) {
        return 0;
    }
    let Some(fd) = regs.arg(0) else { return 0 };
    let Some(sk) = resolve::file(fd as u32).and_then(File::unix_sock) else { return 0 };
    let ns = if matches!(syscall, Syscall::Connect) { SOCKET_CONNECTING } else { 0 };
    count(call, sk, ns, fd as i32)
}

/// A send with descriptors was refused: too many are in flight.
#[inline(always)]
fn overflowed(call: &Call, regs: Regs) {
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

/// Counts one refusal; the inode number of a socket that is not connected, if it is its first one.
#[inline(always)]
fn count(call: &Call, sk: u64, ns: u32, fd: i32) -> u64 {
    who_reads_matters();
    let peer = resolve::unix_peer(sk);
    let state = resolve::socket_state(sk, peer);
    let obj = ObjRef { kind: kind::SOCKET, ns, id: resolve::sock_number(sk) };
    let first = refused::count(call, obj, state, peer, fd);
    if first && state.c == 0 { obj.id } else { 0 }
}

/// write to a socket got EAGAIN (tracepoint backend).
#[inline(always)]
pub fn write_refused(call: &Call, file: File, fd: i32) {
    let call = call.at(Site::SocketSend);
    if !call.by_tracepoint() {
        return;
    }
    let sk = resolve::unix_sock(file);
    if sk != 0 {
        let _ = count(&call, sk, 0, fd);
    }
}

/// Sends the name in a call: whom a socket that is not connected sends or connects to.
#[inline(always)]
fn named(call: &Call, sock: u64, regs: Regs, syscall: Syscall) {
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
    // Masked where the compiler cannot see that it is no more than that: it would leave out what 5.10's verifier needs.
    let len = core::hint::black_box(len - FAMILY_LEN) as usize & 0x7f;
    emit::event_in_place::<SocketAddress>(call, emit::UserStack::NONE, |event| {
        event.sock = sock;
        event.len = len as u32;
        kread::user_bytes(addr + FAMILY_LEN, &mut event.name.as_flattened_mut()[..len])
    });
}

/// A read from a unix socket returned; `socket` (its `struct socket`) is asked for only if it matters.
#[inline(always)]
pub fn received(call: &Call, socket: impl FnOnce() -> Option<u64>) {
    if (call.ret as i32) <= 0 || !reads_matter() || !filter::wanted(task::ids().0) || peeks() {
        return;
    }
    if let Some(socket) = socket() {
        drained(call, resolve::unix_sock_of(socket));
    }
}

/// A read from a socket by read(2) returned.
#[inline(always)]
pub fn file_read(call: &Call, file: File) {
    if reads_matter() {
        drained(call, resolve::unix_sock(file));
    }
}

#[inline(always)]
fn drained(call: &Call, sk: u64) {
    if sk != 0 {
        blocked::drained(call, sk, resolve::sock_number(sk));
    }
}

#[inline(always)]
fn reads_matter() -> bool {
    maps::any(&GAUGES, SOCKETS_READ)
}

/// Whether the current call only looks at what is there.
#[inline(always)]
fn peeks() -> bool {
    let Some(regs) = Regs::current() else { return false };
    let flags = match regs.call() {
        Syscall::Recvmsg => regs.arg(2),
        Syscall::Recvfrom | Syscall::Recvmmsg => regs.arg(3),
        _ => None,
    };
    flags.unwrap_or(0) & MSG_PEEK != 0
}
