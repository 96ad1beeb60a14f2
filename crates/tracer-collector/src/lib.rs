//! The collector: from the kernel to the stream of records.
//!
//! [`kernel`] attaches the probes, [`inventory`] reads the kernel's tables, [`symbol`] names the frames of stacks,
//! [`stream`] orders all of it. It reports raw facts and detects nothing.

pub mod inventory;
pub mod kernel;
pub mod stream;
pub mod symbol;
