//! The clock of all records and map values.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

/// Nanoseconds of the boot clock, which goes on while the machine is suspended (5.8 and later).
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments, no effects.
    unsafe { bpf_ktime_get_boot_ns() }
}
