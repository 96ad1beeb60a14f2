//! A sender blocks at a full queue until the receiver receives after 400 ms, three times, or for ever.
//!
//! Healthy: the receiver receives after 5 ms.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::{MESSAGE_BYTES, Queue};
use crate::stage::{Stage, Stalls};
use crate::truth::{Expected, Truth};

const ROUNDS: u64 = 3;

/// Slots: the pid of the sender; 1 when the first message is received; the round of the sender; 1 when it is done.
const SENDER: usize = 0;
const RECEIVED: usize = 1;
const ROUND: usize = 2;
const DONE: usize = 3;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let endless = options.bug() && options.endless;
    let pause = Duration::from_millis(if options.bug() { 400 } else { 5 });
    let queue = Queue::create().context("cannot create a message queue")?;
    stage.own_queue(queue.0);
    let capacity = queue.capacity().context("cannot read the size of the queue")?;

    let receiver = stage.spawn(&[], move || {
        queue.receive().context("cannot receive")?; // waits for input, which is no stall
        stage.reach(RECEIVED, 1);
        stage.await_slot(SENDER, 1)?;
        for round in 1..=ROUNDS {
            stage.await_slot(ROUND, round)?;
            stage.wait_until_blocked(stage.value(SENDER) as i32, libc::SYS_msgsnd)?;
            if endless {
                stage.reach(DONE, 1);
                stage.idle();
            }
            sleep(pause);
            queue.receive().context("cannot receive")?;
        }
        stage.idle()
    })?;
    stage.wait_until_blocked(receiver, libc::SYS_msgrcv)?;
    let sender = stage.spawn(&[], move || {
        queue.send(0).context("cannot send")?;
        stage.await_slot(RECEIVED, 1)?;
        (0..capacity).try_for_each(|_| queue.send(0)).context("cannot fill the queue")?;
        for round in 1..=ROUNDS {
            stage.reach(ROUND, round);
            stage.timed(|| queue.send(0)).context("cannot send")?;
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.reach(SENDER, sender as u64);
    stage.await_slot(DONE, 1)?;

    let truth = if options.bug() {
        // The queue is full again: the blocked message took the place of the received one.
        let expected = Expected::new("msg-stall")
            .kind("msg")
            .ids([queue.0])
            .pids([sender])
            .role("sender", sender)
            .role("receiver", receiver)
            .exact("message_bytes", MESSAGE_BYTES)
            .exact("messages", capacity)
            .exact("queued_bytes", capacity * MESSAGE_BYTES as u64);
        Truth::one(if endless { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        stage.stalls().allow(Truth::default(), "msg-stall")
    };
    Ok(truth.role("sender", [sender]).role("receiver", [receiver]).fact("msqid", queue.0))
}
