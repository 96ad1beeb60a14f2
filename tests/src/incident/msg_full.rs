//! A queue refuses 200 sends with IPC_NOWAIT while its receiver sleeps.
//!
//! Healthy: the receiver empties the queue after each refused send.

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::Queue;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const REFUSALS: u64 = 200;
/// Rounds of the healthy twin, each with one refusal.
const ROUNDS: u64 = 10;

/// Slots: refused sends; the turn (odd: the queue is full, even: it is empty); 1 when the sender is done.
const REFUSED: usize = 0;
const TURN: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let queue = Queue::create().context("cannot create a message queue")?;
    stage.own_queue(queue.0);
    let capacity = queue.capacity().context("cannot read the size of the queue")?;

    let receiver = stage.spawn(&[], move || {
        queue.receive().context("cannot receive")?;
        stage.reach(TURN, 2);
        let rounds = if bug { 0 } else { ROUNDS };
        for round in 1..=rounds {
            stage.await_slot(TURN, 2 * round + 1)?;
            (0..capacity).try_for_each(|_| queue.receive()).context("cannot receive")?;
            stage.reach(TURN, 2 * round + 2);
        }
        stage.idle()
    })?;
    let sender = stage.spawn(&[], move || {
        queue.send(0).context("cannot send")?;
        stage.await_slot(TURN, 2)?;
        let rounds = if bug { 1 } else { ROUNDS };
        for round in 1..=rounds {
            (0..capacity).try_for_each(|_| queue.send(libc::IPC_NOWAIT)).context("cannot fill the queue")?;
            (0..if bug { REFUSALS } else { 1 }).try_for_each(|_| refused(stage, queue))?;
            if !bug {
                stage.reach(TURN, 2 * round + 1);
                stage.timed(|| stage.await_slot(TURN, 2 * round + 2))?;
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let truth = if bug {
        let expected = Expected::new("msg-full")
            .kind("msg")
            .ids([queue.0])
            .pids([sender])
            .role("sender", sender)
            .role("receiver", receiver)
            .exact("eagain", stage.value(REFUSED))
            .exact("messages", capacity);
        Truth::one(expected)
    } else {
        stage.stalls().allow(Truth::default(), "msg-full")
    };
    Ok(truth.role("sender", [sender]).role("receiver", [receiver]).fact("msqid", queue.0))
}

fn refused(stage: Stage, queue: Queue) -> Result<()> {
    match queue.send(libc::IPC_NOWAIT) {
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
            stage.reach(REFUSED, stage.value(REFUSED) + 1);
            Ok(())
        }
        Err(error) => Err(error).context("cannot send"),
        Ok(()) => anyhow::bail!("the queue was not full"),
    }
}
