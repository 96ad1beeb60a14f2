//! Shared by the eventfd incidents: the counter, its calls, and the truth about refused writes.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::stage::{Stage, proc};
use crate::truth::{Expected, Truth};

/// The highest value that the counter can hold.
pub(super) const FULL: u64 = u64::MAX - 1;

/// Refused writes of an overflow.
const REFUSALS: u64 = 200;

/// Slot with the number of refused writes; the incidents must not use it.
const REFUSED: usize = 60;

/// A new eventfd for two processes: the writer's descriptor, the reader's descriptor, and the kernel's id.
pub(super) fn shared(flags: EventfdFlags) -> Result<(OwnedFd, OwnedFd, String)> {
    let counter = eventfd(0, flags | EventfdFlags::CLOEXEC).context("cannot make an eventfd")?;
    let id = proc::eventfd_id(counter.as_raw_fd()).context("fdinfo has no eventfd-id; it needs Linux 5.2")?;
    let of_reader = counter.try_clone()?;
    Ok((counter, of_reader, id))
}

pub(super) fn write(counter: &OwnedFd, value: u64) -> Result<()> {
    rustix::io::write(counter, &value.to_ne_bytes()).map(drop).context("cannot write to the eventfd")
}

pub(super) fn read(counter: &OwnedFd) -> Result<u64> {
    let mut value = [0; 8];
    rustix::io::read(counter, &mut value).context("cannot read the eventfd")?;
    Ok(u64::from_ne_bytes(value))
}

/// Writes +1 until the eventfd has refused [`REFUSALS`] writes.
pub(super) fn overflow(stage: Stage, counter: &OwnedFd) -> Result<()> {
    while stage.value(REFUSED) < REFUSALS {
        match rustix::io::write(counter, &1_u64.to_ne_bytes()) {
            Ok(_) => {}
            Err(Errno::AGAIN) => stage.reach(REFUSED, stage.value(REFUSED) + 1),
            Err(error) => return Err(error).context("cannot write to the eventfd"),
        }
    }
    Ok(())
}

/// The truth about `writer` after [`overflow`]: no finding if no write was refused.
pub(super) fn overflowed(stage: Stage, id: &str, writer: i32) -> Truth {
    match stage.value(REFUSED) {
        0 => Truth::default(),
        refused => Truth::one(
            Expected::new("eventfd-overflow")
                .kind("eventfd")
                .ids([id])
                .pids([writer])
                .exact("eagain", refused)
                .exact("counter", FULL.to_string()),
        ),
    }
}
