//! The wire between ipctrace's kernel half (eBPF) and its user half.
//!
//! Everything that both halves must agree on is defined here, once: event payloads, map keys and values, object states,
//! the site table, the system calls, the kernel structure fields and the configuration.
//! It must not contain logic that belongs to one half.
#![no_std]

pub mod config;
pub mod event;
pub mod field;
pub mod map;
pub mod row;
pub mod site;
pub mod state;
pub mod syscall;
