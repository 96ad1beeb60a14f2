//! Eventfds: the process that created each, and the flags.
//!
//! It must not track whether one is still open: closing has no event.

use super::HashMap;
use std::collections::VecDeque;
use tracer_common::event::EventfdCreate;
use tracer_record::decode::Context;
use tracer_record::{ProcId, StackId};

/// Eventfds remembered; the oldest are dropped first.
const MAX_EVENTFDS: usize = 16_384;

/// `EFD_SEMAPHORE` of eventfd(2).
const SEMAPHORE: u32 = 1;
/// `EFD_NONBLOCK` of eventfd(2).
const NONBLOCK: u32 = 0o4000;

/// One eventfd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eventfd {
    pub creator: ProcId,
    pub created_ns: u64,
    pub fd: u32,
    pub semaphore: bool,
    pub nonblocking: bool,
    pub stack: Option<StackId>,
}

/// All eventfds whose creation was recorded.
#[derive(Clone, Debug, Default)]
pub struct Eventfds {
    all: HashMap<u64, Eventfd>,
    order: VecDeque<u64>,
    pub dropped: u64,
}

impl Eventfds {
    /// The newest eventfd with this id.
    pub fn get(&self, id: u64) -> Option<&Eventfd> {
        self.all.get(&id)
    }

    pub(super) fn created(&mut self, proc: ProcId, context: &Context, e: EventfdCreate) {
        let eventfd = Eventfd {
            creator: proc,
            created_ns: context.ts_ns,
            fd: e.fd,
            semaphore: e.flags & SEMAPHORE != 0,
            nonblocking: e.flags & NONBLOCK != 0,
            stack: context.stack,
        };
        if self.all.insert(e.id, eventfd).is_none() {
            self.order.push_back(e.id);
            if self.order.len() > MAX_EVENTFDS
                && let Some(old) = self.order.pop_front()
            {
                self.all.remove(&old);
                self.dropped += 1;
            }
        }
    }
}
