//! Thin stubs: each attach kind fills a `Call` and hands it to the mechanism's handler.

pub mod fentry;
pub mod iter;
pub mod kprobe;
pub mod syscall;
pub mod tracepoint;
