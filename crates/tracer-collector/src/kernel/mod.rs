//! The part that talks to the kernel's BPF: what the host allows, what is attached, and what the probes wrote.

pub mod attach;
pub mod btf;
mod calibrate;
pub mod host;
pub mod iter;
mod load;
pub mod plan;
pub mod probes;
mod site;

pub use load::OBJECT;
