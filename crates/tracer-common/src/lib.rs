//! The wire between ipctrace's kernel half (eBPF) and its user half.
//!
//! Everything both sides must agree on lives here, once: event payloads, the site table, the system calls,
//! the kernel structure fields and the configuration.
//! It must not contain logic that belongs to one side.
#![no_std]

pub mod config;
pub mod event;
pub mod field;
pub mod map;
pub mod row;
pub mod site;
pub mod syscall;
