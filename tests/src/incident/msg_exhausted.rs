//! A program creates queues until msgget fails with ENOSPC, in an IPC namespace of its own with a small MSGMNI.

use anyhow::Result;

use super::exhaustion::{self, Kind, OBJECTS};
use super::options::Options;
use crate::call::Queue;
use crate::stage::Stage;
use crate::truth::Truth;

const KIND: Kind = Kind {
    code: "msg-exhausted",
    limit: "MSGMNI",
    leak: "msg-leak",
    sysctls: &[("msgmni", OBJECTS)],
    create: |removes| {
        let queue = Queue::create()?;
        if removes { queue.remove() } else { Ok(()) }
    },
};

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    exhaustion::play(stage, options.bug(), KIND)
}
