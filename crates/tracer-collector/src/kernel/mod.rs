//! The privileged half that talks to the kernel's BPF: what it can do, what is attached, what comes out.

pub mod attach;
pub mod btf;
pub mod host;
pub mod iter;
pub mod plan;
pub mod probes;
