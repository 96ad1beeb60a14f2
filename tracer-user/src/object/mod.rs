//! Creates and removes IPC objects, for `mk` and `rm`: the only module that changes any.
//!
//! It must not decide whether an object may be removed, which is the caller's task. It does verify that the object is
//! still the one that the user chose.

mod make;
mod remove;

pub use make::{Made, make_mq, make_msg, make_posix_sem, make_sem, make_shm};
pub use remove::{Identity, Refusal, State, Sysv, remove};
