//! Copies of user stacks. Userspace unwinds them, because much code keeps no frame pointers.
//!
//! Only the few events that carry a stack get one, and only a limited number a second. An event beyond that limit has
//! only the stack by frame pointers, and is counted.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_probe_read_user as bpf_probe_read_user_raw;
use tracer_common::event::{COPY_PAGE, COPY_PAGES, StackCopy};
use tracer_common::site::Site;

use crate::clock;
use crate::maps::{self, COPIES, COPIES_SHED, COPY_BUDGET};
use crate::task;

/// Copies that one site may make on one processor in a span of time.
const BUDGET: u64 = 256;
/// A span is 2^30 ns, about a second: a shift is cheaper than a division.
const SPAN_SHIFT: u32 = 30;

/// Copies the top of the current thread's user stack. Returns the number of the copy; 0: none was made.
#[inline(always)]
pub fn copy(site: Site) -> u32 {
    let Some(budget) = COPY_BUDGET.get_ptr_mut(site as u32) else { return 0 };
    // SAFETY: a pointer into this CPU's slot; if another program interrupts this one and changes it, a copy is lost.
    let budget = unsafe { &mut *budget };
    let now = clock::now_ns();
    if budget.window != now >> SPAN_SHIFT {
        budget.window = now >> SPAN_SHIFT;
        budget.used = 0;
    }
    budget.used += 1;
    if budget.used > BUDGET {
        maps::count_at_site(&COPIES_SHED, site);
        return 0;
    }
    let Some(mut slot) = COPIES.reserve::<StackCopy>(0) else {
        maps::count_at_site(&COPIES_SHED, site);
        return 0;
    };
    budget.serial += 1;
    // SAFETY: no arguments, no effects.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    // Unique among the copies that userspace has not read yet: serial number, processor and site.
    let id = (budget.serial as u32 & 0xffff) << 16 | (cpu & 0x3ff) << 6 | (site as u32 & 0x3f);
    let [ip, sp, fp, lr] = task::unwind_registers();
    let base = sp & !(COPY_PAGE as u64 - 1);
    let copy = slot.as_mut_ptr();
    // SAFETY: the reserved slot; the helper checks the user address, and zeroes what it cannot read.
    unsafe {
        (*copy).ts_ns = now;
        (*copy).id = id;
        (*copy).tid = task::ids().1;
        (*copy).ip = ip;
        (*copy).sp = sp;
        (*copy).fp = fp;
        (*copy).lr = lr;
        let bytes = (&raw mut (*copy).bytes).cast::<u8>();
        let mut unread = 0;
        let mut page = 0;
        while page < COPY_PAGES {
            let from = (base + (page * COPY_PAGE) as u64) as *const c_void;
            let failed = bpf_probe_read_user_raw(bytes.add(page * COPY_PAGE).cast(), COPY_PAGE as u32, from);
            // The sign of the result, without a branch.
            unread |= ((failed as u64) >> 63) << page;
            page += 1;
        }
        (*copy).unread = unread;
    }
    slot.submit(0);
    id
}
