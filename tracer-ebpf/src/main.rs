//! ipctrace's kernel half: hooks on IPC calls become events in a ring buffer.
//!
//! `backend` holds thin stubs by attach kind, `mech` the handlers, written once.
//! `kread` is the only place that reads memory, `emit` the only one that writes records.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(clippy::wildcard_enum_match_arm)] // of some forty calls a handler knows a few; the others are nothing to it
#![allow(internal_features)] // atomic_xadd: the one atomic that every supported kernel's BPF has

mod backend;
mod emit;
mod filter;
mod kread;
mod maps;
mod mech;
mod resolve;
mod stack;
mod task;

/// BPF programs cannot panic; the linker drops this.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The GPL-only helpers need it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
