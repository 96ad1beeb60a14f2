//! Shared by the incidents about limits of queues and segments: a program creates objects until a limit of its own IPC
//! namespace refuses one.

use std::io;

use anyhow::{Context, Result, bail};

use crate::call;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

/// Objects that the limit allows.
pub(super) const OBJECTS: u64 = 8;
const FAILURES: u64 = 4;

const MADE: usize = 0;
const FAILED: usize = 1;
const DONE: usize = 2;

/// A kind of objects and its limit.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub code: &'static str,
    pub limit: &'static str,
    /// The code of the leak that these unused objects are as well.
    pub leak: &'static str,
    /// Names below /proc/sys/kernel, with the values to set in the namespace.
    pub sysctls: &'static [(&'static str, u64)],
    /// Creates an object that takes 1 of the limit, and removes it if `removes`.
    pub create: fn(removes: bool) -> io::Result<()>,
}

/// Plays the incident; the healthy twin removes each object before it creates the next.
pub(super) fn play(stage: Stage, bug: bool, kind: Kind) -> Result<Truth> {
    // The namespace takes its objects with it when its last process ends.
    let creator = stage.spawn(&[], move || {
        call::unshare(libc::CLONE_NEWIPC).context("cannot make an IPC namespace; run as root")?;
        for (name, value) in kind.sysctls {
            std::fs::write(format!("/proc/sys/kernel/{name}"), value.to_string())
                .with_context(|| format!("cannot set kernel.{name} of the namespace"))?;
        }
        if bug {
            exhaust(stage, kind)?
        } else {
            (0..OBJECTS * 3).try_for_each(|_| (kind.create)(true)).context("cannot create and remove an object")?
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    if !bug {
        return Ok(Truth::default().role("creator", [creator]));
    }
    let used = stage.value(MADE);
    let expected = Expected::new(kind.code)
        .kind("ipc_namespace")
        .pids([creator])
        .role("blocked", creator)
        .role("creator", creator)
        .limit(kind.limit)
        .exact("errno", "ENOSPC")
        .exact("failed", stage.value(FAILED))
        .exact("used", used)
        .exact("max", used);
    // The creator lives, but no process uses its objects.
    Ok(Truth::one(expected).may(kind.leak).role("creator", [creator]))
}

fn exhaust(stage: Stage, kind: Kind) -> Result<()> {
    while stage.value(FAILED) < FAILURES {
        match (kind.create)(false) {
            Ok(()) if stage.value(MADE) == OBJECTS => {
                bail!("the kernel did not refuse an object at the limit of {OBJECTS}")
            }
            Ok(()) => stage.reach(MADE, stage.value(MADE) + 1),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                stage.reach(FAILED, stage.value(FAILED) + 1);
            }
            Err(error) => return Err(error).context("cannot create an object"),
        }
    }
    Ok(())
}
