//! Clients create a reply queue each and exit without IPC_RMID; one client fills its queue first.
//!
//! Healthy: the clients remove their queues; other queues only look left behind.

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::Queue;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const CLIENTS: usize = 5;
/// Messages that a client sends if it does not fill its queue.
const MESSAGES: u64 = 2;

/// Slots: the id of the last queue, the messages left in queues, and progress of the servers.
const ID: usize = 0;
const LEFT: usize = 1;
const SERVED: usize = 2;
const STOCKED: usize = 3;
/// Queues that a server keeps for later: more than a leak finding needs.
const STOCK: u64 = 12;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let (mut clients, mut ids) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let client = stage.spawn(&[], move || converse(stage, !bug, number == 0))?;
        stage.join(client)?;
        clients.push(client);
        ids.push(stage.value(ID));
    }
    if bug {
        let expected = Expected::new("msg-leak")
            .kind("msg")
            .exact("instances", ids.len())
            .exact("messages", stage.value(LEFT))
            .exact("full", 1)
            .ids(ids)
            .pids(clients.iter().copied());
        // The full queue refused a message, too.
        return Ok(Truth::one(expected).may("msg-full").role("client", clients));
    }
    let servers = serve(stage)?;
    Ok(Truth::default().role("client", clients).role("server", servers))
}

fn converse(stage: Stage, removes: bool, fills: bool) -> Result<()> {
    let queue = create(stage)?;
    let mut sent = 0;
    loop {
        match queue.send(libc::IPC_NOWAIT) {
            Ok(()) => sent += 1,
            Err(error) if fills && error.raw_os_error() == Some(libc::EAGAIN) => break,
            Err(error) => return Err(error).context("cannot send to the queue"),
        }
        if !fills && sent == MESSAGES {
            break;
        }
    }
    stage.reach(LEFT, stage.value(LEFT) + sent);
    if removes {
        queue.remove().context("cannot remove the queue")?;
        stage.forget_queue(queue.0);
    }
    Ok(()) // the bug: no IPC_RMID
}

fn create(stage: Stage) -> Result<Queue> {
    let queue = Queue::create().context("cannot create a message queue")?;
    stage.own_queue(queue.0);
    stage.reach(ID, queue.0 as u64);
    Ok(queue)
}

/// Creates queues that only look left behind; returns the pids of their processes.
///
/// The creator of the first queue is dead, but a server waits for its first message.
/// The sender of the second queue is dead, but its receiver lives.
/// No process has used the stock of queues yet, but its creator lives.
fn serve(stage: Stage) -> Result<Vec<i32>> {
    let creator = stage.spawn(&[], move || create(stage).map(drop))?;
    stage.join(creator)?;
    let first = Queue(stage.value(ID) as i32);
    let waiting = stage.spawn(&[], move || {
        // No process sends: the call ends when the queue is removed.
        let _ = first.receive();
        Ok(())
    })?;
    stage.wait_until_blocked(waiting, libc::SYS_msgrcv)?;

    let client = stage.spawn(&[], move || {
        let queue = create(stage)?;
        (0..MESSAGES).try_for_each(|_| queue.send(0)).context("cannot send to the queue")
    })?;
    stage.join(client)?;
    let second = Queue(stage.value(ID) as i32);
    let busy = stage.spawn(&[], move || {
        second.receive().context("cannot receive")?;
        stage.reach(SERVED, 1);
        stage.idle()
    })?;
    stage.await_slot(SERVED, 1)?;

    let keeper = stage.spawn(&[], move || {
        (0..STOCK).try_for_each(|_| create(stage).map(drop))?;
        stage.reach(STOCKED, STOCK);
        stage.idle()
    })?;
    stage.await_slot(STOCKED, STOCK)?;
    Ok(vec![creator, waiting, client, busy, keeper])
}
