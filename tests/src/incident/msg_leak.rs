//! Clients make a reply queue each and end without IPC_RMID; one has filled its queue before.

use anyhow::{Context, Result};

use super::options::Options;
use crate::call::Queue;
use crate::stage::Stage;
use crate::truth::{Expected, Truth};

const CLIENTS: usize = 5;
/// Messages that an ordinary client sends.
const MESSAGES: u64 = 2;

/// Slots: the id that the last process got, the messages that stay, and how far the servers have come.
const ID: usize = 0;
const LEFT: usize = 1;
const SERVED: usize = 2;
const STOCKED: usize = 3;
/// Queues that a server keeps for later: more than would be told of one that loses them.
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
        // The full one refused a message, too.
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
    Ok(()) // without IPC_RMID the bug
}

fn create(stage: Stage) -> Result<Queue> {
    let queue = Queue::create().context("cannot create a message queue")?;
    stage.own_queue(queue.0);
    stage.reach(ID, queue.0 as u64);
    Ok(queue)
}

/// Queues that only look left behind: at one, made by a dead process, a server waits for its first message;
/// of the next the last sender is dead, and the last receiver lives; of a stock made at once nobody has used any.
fn serve(stage: Stage) -> Result<Vec<i32>> {
    let creator = stage.spawn(&[], move || create(stage).map(drop))?;
    stage.join(creator)?;
    let first = Queue(stage.value(ID) as i32);
    let waiting = stage.spawn(&[], move || {
        // Nobody sends: it ends when the queue is removed.
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
