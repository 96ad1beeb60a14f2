//! ipctrace's kernel half: programs at IPC calls send events to a ring buffer.
//!
//! `backend` has a thin stub for each kind of attachment, `mech` the handlers, which all backends share.
//! Only `kread` reads memory, and only `emit` sends records.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(clippy::wildcard_enum_match_arm)] // a handler knows a few of some forty calls, and ignores the others
#![allow(internal_features)] // atomic_xadd: the only atomic that BPF has on every supported kernel

mod backend;
mod clock;
mod emit;
mod filter;
mod kread;
mod maps;
mod mech;
mod resolve;
mod stack;
mod task;

/// BPF programs cannot panic, so the linker drops this.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that are restricted to the GPL need it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
