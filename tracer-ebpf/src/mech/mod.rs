//! One file a mechanism: what a call means. Handlers never know how they were attached.

pub mod blocked;
pub mod child;
pub mod eventfd;
pub mod fdpass;
pub mod futex;
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
