//! The only place that reads kernel and user memory.
//!
//! Offsets come from the running kernel's BTF. A field that it lacks reads as `None` or 0; nothing is guessed.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel as bpf_probe_read_kernel_raw;
use aya_ebpf::helpers::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes, bpf_probe_read_user, bpf_probe_read_user_buf,
};
use tracer_common::field::{ABSENT, COUNT, Field};

/// Byte offsets by [`Field`]. Userspace writes them before load.
#[unsafe(no_mangle)]
static OFFSETS: [u32; COUNT] = [ABSENT; COUNT];

/// Offset of the field in its structure; `None`: the kernel lacks it.
#[inline(always)]
fn offset(field: Field) -> Option<u64> {
    // SAFETY: a static. The read is volatile, because userspace replaces the initial values before load.
    let off = unsafe { core::ptr::read_volatile(&raw const OFFSETS[field as usize]) };
    if off == ABSENT { None } else { Some(off as u64) }
}

/// Address of a field of the structure at `base`; `None`: `base` is 0, or the kernel lacks the field.
#[inline(always)]
pub fn address(base: u64, field: Field) -> Option<u64> {
    if base == 0 { None } else { Some(base + offset(field)?) }
}

/// Value of a field of the structure at `base`; `None`: it cannot be read.
#[inline(always)]
pub fn field<T>(base: u64, field: Field) -> Option<T> {
    kernel(address(base, field)?)
}

/// Value at a kernel address; `None`: it cannot be read.
#[inline(always)]
pub fn kernel<T>(addr: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a fault.
    unsafe { bpf_probe_read_kernel(addr as *const T).ok() }
}

/// Value of a field of the structure at `base`; 0 if it cannot be read. There is no branch: the verifier follows both
/// sides of each [`Option`], and takes long for a chain of them in a loop.
#[inline(always)]
pub fn field_or_zero<T: Number>(base: u64, field: Field) -> T {
    match offset(field) {
        Some(off) => kernel_or_zero(base + off),
        None => T::default(),
    }
}

/// Value at a kernel address; 0 if it cannot be read. There is no branch.
#[inline(always)]
pub fn kernel_or_zero<T: Number>(addr: u64) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the address and writes size_of::<T>() bytes, zeros on a fault.
    unsafe {
        bpf_probe_read_kernel_raw((&raw mut value).cast(), size_of::<T>() as u32, addr as *const c_void);
    }
    value
}

/// Address of the structure that contains `member` as this field; 0: the kernel lacks the field.
#[inline(always)]
pub fn around(member: u64, field: Field) -> u64 {
    match offset(field) {
        Some(off) => member - off,
        None => 0,
    }
}

/// Value of a field of a structure that is the field `inside` of the structure at `base`; 0 if it cannot be read. There
/// is no branch, as in [`field_or_zero`].
#[inline(always)]
pub fn inner_or_zero<T: Number>(base: u64, inside: Field, field: Field) -> T {
    match offset(inside) {
        Some(off) => field_or_zero(base + off, field),
        None => T::default(),
    }
}

/// Copies user memory of the current process; false on a fault.
#[inline(always)]
pub fn user_bytes(addr: u64, to: &mut [u8]) -> bool {
    // SAFETY: the helper checks the address and writes the slice only.
    unsafe { bpf_probe_read_user_buf(addr as *const u8, to).is_ok() }
}

/// Copies a kernel value that is too large for the stack; false on a fault.
#[inline(always)]
pub fn into<T>(addr: u64, to: &mut T) -> bool {
    let len = size_of::<T>() as u32;
    // SAFETY: the helper checks the address and writes the buffer's size.
    unsafe { bpf_probe_read_kernel_raw((&raw mut *to).cast(), len, addr as *const c_void) == 0 }
}

/// Types that [`field_or_zero`] reads.
pub trait Number: Default + Copy {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}

/// Value at a user address of the current process; `None`: it cannot be read.
#[inline(always)]
pub fn user<T>(addr: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails on a fault.
    unsafe { bpf_probe_read_user(addr as *const T).ok() }
}

/// Copies a kernel string, cut to `dst` and NUL-terminated.
#[inline(always)]
pub fn string(addr: u64, dst: &mut [u8]) {
    // SAFETY: the helper checks the address; on a fault `dst` stays as it was.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(addr as *const u8, dst) };
}
