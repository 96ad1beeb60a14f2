//! Sends records to the ring buffer, and counts by site those that do not fit.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_F_USER_STACK;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_uid_gid, bpf_get_stackid};
use core::ffi::c_void;
use tracer_common::event::{Header, Payload};
use tracer_common::site::Site;

use crate::clock;
use crate::maps::{self, EVENTS, FAULTS, LOST, STACKS};
use crate::stack;
use crate::task;

/// What a stub passes to its handler: the program's context, the site, and the result of the hooked function.
#[derive(Clone, Copy)]
pub struct Call {
    ctx: *mut c_void,
    pub site: Site,
    pub ret: i64,
}

impl Call {
    /// A call seen by the program with context `ctx`.
    #[inline(always)]
    pub fn new(ctx: &impl EbpfContext, site: Site, ret: i64) -> Self {
        Self { ctx: ctx.as_ptr(), site, ret }
    }

    /// The same call at another site.
    #[inline(always)]
    pub fn at(self, site: Site) -> Self {
        Self { site, ..self }
    }

    /// The same call with another result.
    #[inline(always)]
    pub fn returning(self, ret: i64) -> Self {
        Self { ret, ..self }
    }

    /// The same call of a function that returns int: the upper half of its result is cut off, which means nothing.
    #[inline(always)]
    pub fn of_int(self) -> Self {
        self.returning(i64::from(self.ret as i32))
    }

    /// Whether the tracepoint backend watches this site.
    #[inline(always)]
    pub fn by_tracepoint(self) -> bool {
        maps::by_tracepoint(self.site)
    }
}

/// Counts a fact that could not be read or stored.
#[inline(always)]
pub fn fault(site: Site) {
    maps::count_at_site(&FAULTS, site);
}

/// The user stack of an event.
#[derive(Clone, Copy)]
pub struct UserStack {
    /// Key in `STACKS`; negative: no stack.
    key: i32,
    /// Number of the copy; 0: none.
    copy: u32,
}

impl UserStack {
    pub const NONE: Self = Self { key: -1, copy: 0 };

    /// The stack of the current thread, followed by frame pointers.
    #[inline(always)]
    pub fn frames(call: &Call) -> Self {
        let flags = u64::from(BPF_F_USER_STACK);
        // SAFETY: the context is this program's own; the map is a stack trace map.
        let key = unsafe { bpf_get_stackid(call.ctx, (&raw const STACKS).cast_mut().cast(), flags) };
        Self { key: key as i32, copy: 0 }
    }

    /// The same, with a copy of its top for userspace to unwind.
    #[inline(always)]
    pub fn copied(call: &Call) -> Self {
        Self { copy: stack::copy(call.site), ..Self::frames(call) }
    }
}

#[repr(C)]
struct Entry<P> {
    header: Header,
    payload: P,
}

/// Sends an event of the current process.
#[inline(always)]
pub fn event<P: Payload + 'static>(call: &Call, payload: P) {
    send(call, payload, UserStack::NONE);
}

/// Sends an event with the user stack of the current thread, and a copy of its top for userspace to unwind.
#[inline(always)]
pub fn event_with_stack<P: Payload + 'static>(call: &Call, payload: P) {
    send(call, payload, UserStack::copied(call));
}

/// Sends an event that `fill` completes in place, because it is too large for the BPF stack. If `fill` returns false,
/// nothing is sent.
#[inline(always)]
pub fn event_in_place<P: Payload + Default + 'static>(
    call: &Call,
    stack: UserStack,
    fill: impl FnOnce(&mut P) -> bool,
) {
    let Some(mut slot) = EVENTS.reserve::<Entry<P>>(0) else {
        maps::count_at_site(&LOST, call.site);
        return;
    };
    let entry = slot.as_mut_ptr();
    // SAFETY: the reserved slot, whose payload is zeroed before it is read; payloads are plain integers.
    let filled = unsafe {
        header(&raw mut (*entry).header, call, P::KIND as u16, stack);
        let payload = &raw mut (*entry).payload;
        payload.write_bytes(0, 1);
        fill(&mut *payload)
    };
    if filled { slot.submit(0) } else { slot.discard(0) }
}

#[inline(always)]
fn send<P: Payload + 'static>(call: &Call, payload: P, stack: UserStack) {
    let Some(mut slot) = EVENTS.reserve::<Entry<P>>(0) else {
        maps::count_at_site(&LOST, call.site);
        return;
    };
    let entry = slot.as_mut_ptr();
    // SAFETY: the reserved slot; fields are written in place, because the BPF stack is small.
    unsafe {
        header(&raw mut (*entry).header, call, P::KIND as u16, stack);
        (&raw mut (*entry).payload).write(payload);
    }
    slot.submit(0);
}

/// Writes a header in place.
///
/// # Safety
/// `h` points into a reserved slot.
#[inline(always)]
unsafe fn header(h: *mut Header, call: &Call, kind: u16, stack: UserStack) {
    let (tgid, tid) = task::ids();
    // SAFETY: the caller's promise.
    unsafe {
        (*h).ts_ns = clock::now_ns();
        (*h).start_ns = task::start_ns(task::current());
        (*h).kind = kind;
        (*h).site = call.site as u16;
        (*h).tgid = tgid;
        (*h).tid = tid;
        (*h).uid = bpf_get_current_uid_gid() as u32;
        (*h).stack = stack.key;
        (*h).copy = stack.copy;
        (*h).comm = comm();
    }
}

/// Name of the current thread; all zero if it cannot be read.
#[inline(always)]
pub fn comm() -> [u8; 16] {
    bpf_get_current_comm().unwrap_or([0; 16])
}
