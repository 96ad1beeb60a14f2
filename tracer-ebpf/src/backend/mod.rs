//! Thin stubs, one file an attach kind: each fills a `Call` and calls the handler of a mechanism.

pub mod fentry;
pub mod iter;
pub mod kprobe;
pub mod syscall;
pub mod tracepoint;
