//! Workers create a segment each and exit without IPC_RMID.
//!
//! Healthy: the workers remove their segments after they attach them; other segments only look left behind.

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::Segment;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const WORKERS: usize = 9;
/// Every third worker removes its segment, also in the bug.
const GOOD_EVERY: usize = 3;
const BYTES: usize = 45_056;

/// Slots: the id of the last segment, and the number of segments that are in use.
const ID: usize = 0;
const KEPT: usize = 1;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (mut workers, mut leaked, mut leakers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WORKERS {
        let removes = !options.bug() || number % GOOD_EVERY == 0;
        let worker = stage.spawn(&[], move || work(stage, removes))?;
        stage.join(worker)?;
        workers.push(worker);
        if !removes {
            leaked.push(stage.value(ID));
            leakers.push(worker);
        }
    }
    if options.bug() {
        let expected = Expected::new("shm-leak")
            .kind("shm")
            .exact("instances", leaked.len())
            .exact("size_bytes", leaked.len() * BYTES)
            .ids(leaked)
            .pids(leakers);
        return Ok(Truth::one(expected).role("worker", workers));
    }
    let keepers = keep(stage)?;
    Ok(Truth::default().role("worker", workers).role("keeper", keepers))
}

fn work(stage: Stage, removes: bool) -> Result<()> {
    let segment = create(stage)?;
    segment.attach().context("cannot attach the segment")?;
    if removes {
        segment.remove().context("cannot remove the segment")?;
    }
    Ok(()) // the bug: no IPC_RMID
}

fn create(stage: Stage) -> Result<Segment> {
    let segment = Segment::create(BYTES).context("cannot create a shared memory segment")?;
    stage.own_segment(segment.0);
    stage.reach(ID, segment.0 as u64);
    Ok(segment)
}

/// Creates segments that only look left behind; returns the pids of their processes.
///
/// The creator of the first segment is dead, but another process has it attached. The creator of the second one lives.
fn keep(stage: Stage) -> Result<Vec<i32>> {
    let creator = stage.spawn(&[], move || create(stage).map(drop))?;
    stage.join(creator)?;
    let segment = Segment(stage.value(ID) as i32);
    let user = stage.spawn(&[], move || {
        segment.attach().context("cannot attach the segment of another process")?;
        stage.reach(KEPT, 1);
        stage.idle()
    })?;
    stage.await_slot(KEPT, 1)?;
    let owner = stage.spawn(&[], move || {
        create(stage)?;
        stage.reach(KEPT, 2);
        stage.idle()
    })?;
    stage.await_slot(KEPT, 2)?;
    Ok(vec![creator, user, owner])
}
