//! The handlers: what a call means, one file a mechanism, and what mechanisms share. They must not know how they were
//! attached.

pub mod blocked;
pub mod child;
pub mod eventfd;
pub mod fdpass;
pub mod fdtable;
pub mod futex;
pub mod last_read;
pub mod mq;
pub mod msg;
pub mod open;
pub mod pipe;
pub mod posix;
pub mod refused;
pub mod sem;
pub mod signal;
pub mod socket;
pub mod sysv;
pub mod waits;
