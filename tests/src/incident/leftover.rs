//! Workers create a POSIX object each and exit without unlinking its name; every third worker unlinks it.
//!
//! Healthy: all workers unlink their names. Two other names only look left behind: the creator of one is dead but another
//! process uses it, and the creator of the other one lives and uses it.

use std::ffi::CStr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::{Mq, create_semaphore, map_shared};
use crate::stage::{Name, Named, Stage};
use crate::truth::{Expected, Truth};

const WORKERS: u16 = 9;
/// Every third worker unlinks its name, also in the bug.
const GOOD_EVERY: u16 = 3;
/// Numbers of the names that only look left behind.
const INHERITED: u16 = 100;
const OWN: u16 = 101;
/// Messages that a worker leaves in its queue.
const MESSAGES: u64 = 2;
/// Messages and bytes per message of a queue.
const QUEUE: (i64, i64) = (4, 8);
/// Size of a shared memory object.
const BYTES: usize = 45_056;
/// Longer than ipctrace waits until an unused name counts as left behind.
const LEFTOVER_TIMEOUT: Duration = Duration::from_millis(4_500);

/// Slot with the number of names that are in use.
const KEPT: usize = 0;

pub(super) fn queues(stage: Stage, options: &Options) -> Result<Truth> {
    let leaked = u64::from(WORKERS - WORKERS.div_ceil(GOOD_EVERY));
    play(stage, options, Named::Mq, |expected| expected.exact("messages", leaked * MESSAGES))
}

pub(super) fn semaphores(stage: Stage, options: &Options) -> Result<Truth> {
    play(stage, options, Named::Sem, |expected| expected)
}

pub(super) fn memory(stage: Stage, options: &Options) -> Result<Truth> {
    let leaked = usize::from(WORKERS - WORKERS.div_ceil(GOOD_EVERY));
    play(stage, options, Named::Shm, |expected| expected.exact("size_bytes", leaked * BYTES))
}

fn play(stage: Stage, options: &Options, kind: Named, more: impl Fn(Expected) -> Expected) -> Result<Truth> {
    let (mut workers, mut leaked, mut leakers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WORKERS {
        let name = stage.own_name(kind, number);
        let unlinks = !options.bug() || number % GOOD_EVERY == 0;
        let worker = stage.spawn(&[], move || {
            create(stage, kind, name)?;
            if unlinks {
                stage.unlink(name);
            }
            Ok(()) // the bug: no unlink
        })?;
        stage.join(worker)?;
        workers.push(worker);
        if !unlinks {
            leaked.push(stage.text_of(name).to_string_lossy().into_owned());
            leakers.push(worker);
        }
    }
    if options.bug() {
        sleep(LEFTOVER_TIMEOUT);
        let (code, word) = match kind {
            Named::Mq => ("mq-leak", "mq"),
            Named::Sem => ("posix-sem-leak", "posix-sem"),
            Named::Shm => ("posix-shm-leak", "posix-shm"),
        };
        let expected = Expected::new(code).kind(word).exact("instances", leaked.len()).ids(&leaked).pids(leakers);
        let mut truth = Truth::one(more(expected));
        truth.names.extend(leaked);
        return Ok(truth.role("worker", workers));
    }
    let keepers = keep(stage, kind)?;
    sleep(LEFTOVER_TIMEOUT);
    let mut truth = Truth::default();
    let names = [INHERITED, OWN].map(|number| stage.own_name(kind, number));
    truth.names.extend(names.map(|name| stage.text_of(name).to_string_lossy().into_owned()));
    Ok(truth.role("worker", workers).role("keeper", keepers))
}

fn create(stage: Stage, kind: Named, name: Name) -> Result<()> {
    let text = stage.text_of(name);
    let created: std::io::Result<()> = match kind {
        Named::Mq => Mq::open(&text, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, QUEUE)
            .and_then(|queue| (0..MESSAGES).try_for_each(|_| queue.send(None))),
        Named::Sem => create_semaphore(&text),
        Named::Shm => map_shared(&text, libc::O_CREAT | libc::O_EXCL, BYTES),
    };
    created.context("cannot create a POSIX object")
}

/// Opens an existing object until the process ends.
fn open(kind: Named, text: &CStr) -> Result<()> {
    let opened = match kind {
        Named::Mq => Mq::open(text, libc::O_RDWR, QUEUE).map(drop),
        Named::Sem => crate::call::open_semaphore(text),
        Named::Shm => map_shared(text, 0, BYTES),
    };
    opened.context("cannot open a POSIX object")
}

/// Creates the names that only look left behind; returns the pids of their processes.
fn keep(stage: Stage, kind: Named) -> Result<Vec<i32>> {
    let inherited = stage.own_name(kind, INHERITED);
    let creator = stage.spawn(&[], move || create(stage, kind, inherited))?;
    stage.join(creator)?;
    let user = stage.spawn(&[], move || {
        open(kind, &stage.text_of(inherited))?;
        stage.reach(KEPT, 1);
        stage.idle()
    })?;
    stage.await_slot(KEPT, 1)?;
    let own = stage.own_name(kind, OWN);
    let owner = stage.spawn(&[], move || {
        create(stage, kind, own)?;
        stage.reach(KEPT, 2);
        stage.idle()
    })?;
    stage.await_slot(KEPT, 2)?;
    Ok(vec![creator, user, owner])
}
