//! Makes and removes IPC objects: the only place that changes any, for `mk` and `rm`.
//!
//! It decides nothing: whether an object may go is the caller's question. What it does ensure is that the object is
//! still the one that was meant.

mod make;
mod remove;

pub use make::{Made, make_mq, make_msg, make_posix_sem, make_sem, make_shm};
pub use remove::{Identity, Refusal, State, Sysv, remove};
