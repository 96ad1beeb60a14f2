//! A program creates segments until shmget fails with ENOSPC at SHMMNI or SHMALL, in an IPC namespace of its own.

use std::io;

use anyhow::Result;

use super::exhaustion::{self, Kind, OBJECTS};
use super::options::{Limit, Options};
use crate::call::Segment;
use crate::stage::Stage;
use crate::truth::Truth;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (limit, sysctls): (_, &[_]) = match options.limit {
        Limit::Shmall => ("SHMALL", &[("shmall", OBJECTS)]),
        Limit::Shmmni | Limit::Semmni | Limit::Semmns => ("SHMMNI", &[("shmmni", OBJECTS)]),
    };
    exhaustion::play(stage, options.bug(), Kind { code: "shm-exhausted", limit, leak: "shm-leak", sysctls, create })
}

/// One byte takes a page.
fn create(removes: bool) -> io::Result<()> {
    let segment = Segment::create(1)?;
    if removes { segment.remove() } else { Ok(()) }
}
