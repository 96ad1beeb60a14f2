//! A sender blocks at a full POSIX queue until the receiver receives after 400 ms, two times, or for ever.
//!
//! A third send times out after 300 ms.
//! Healthy: the receiver receives after 5 ms, and then waits for more messages.

use std::ffi::CStr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::options::Options;
use crate::call::Mq;
use crate::stage::{Named, Stage, Stalls};
use crate::truth::{Expected, Truth};

const ROUNDS: u64 = 2;
/// Messages that the queue holds.
const ROOM: i64 = 4;
const SEND_TIMEOUT: Duration = Duration::from_millis(300);

const SENDER: usize = 0;
const OPEN: usize = 1;
const ROUND: usize = 2;
const DONE: usize = 3;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let (bug, endless) = (options.bug(), options.bug() && options.endless);
    let name = stage.own_name(Named::Mq, 0);
    let text = stage.text_of(name);
    let text_of_receiver = text.clone();
    let receiver = stage.spawn(&[], move || receive(stage, &text_of_receiver, bug, endless))?;
    let text_of_sender = text.clone();
    let sender = stage.spawn(&[], move || send(stage, &text_of_sender, bug))?;
    stage.reach(SENDER, sender as u64);
    stage.await_slot(DONE, 1)?;
    let text = text.to_string_lossy().into_owned();
    let truth = if bug {
        let expected = Expected::new("mq-stall")
            .kind("mq")
            .ids([&text])
            .pids([sender])
            .role("receiver", receiver)
            .exact("max_messages", ROOM)
            .exact("timed_out", u64::from(!endless));
        Truth::one(if endless { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        stage.stalls().allow(Truth::default(), "mq-stall")
    };
    Ok(truth.role("sender", [sender]).role("receiver", [receiver]).fact("name", text))
}

fn receive(stage: Stage, text: &CStr, bug: bool, endless: bool) -> Result<()> {
    stage.await_slot(SENDER, 1)?;
    stage.await_slot(OPEN, 1)?;
    let queue = Mq::open(text, libc::O_RDONLY, (ROOM, 8)).context("cannot open the queue")?;
    stage.reach(OPEN, 2);
    for round in 1..=ROUNDS {
        stage.await_slot(ROUND, round)?;
        stage.wait_until_blocked(stage.value(SENDER) as i32, libc::SYS_mq_timedsend)?;
        if endless {
            stage.reach(DONE, 1);
            stage.busy();
        }
        sleep(Duration::from_millis(if bug { 400 } else { 5 }));
        queue.receive().context("cannot receive")?;
    }
    if bug {
        stage.busy();
    }
    loop {
        queue.receive().context("cannot receive")?;
    }
}

fn send(stage: Stage, text: &CStr, bug: bool) -> Result<()> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let queue = Mq::open(text, flags, (ROOM, 8)).context("cannot create a POSIX queue")?;
    stage.reach(OPEN, 1);
    stage.await_slot(OPEN, 2)?;
    for _ in 0..ROOM {
        queue.send(None).context("cannot send")?;
    }
    for round in 1..=ROUNDS {
        stage.reach(ROUND, round);
        stage.timed(|| queue.send(None)).context("cannot send")?;
    }
    if bug {
        match stage.timed(|| queue.send(Some(SEND_TIMEOUT))) {
            Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => {}
            Err(error) => return Err(error).context("cannot send"),
            Ok(()) => bail!("a full queue accepted a message"),
        }
    }
    stage.reach(DONE, 1);
    stage.idle()
}
