//! A receiver pauses for 500 ms three times, or for ever, and its sender blocks.
//!
//! They use a stream over a pair of sockets, or datagrams to a receiver known only by its address, like a logger's.
//! Healthy: the pauses last 20 ms.

use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

use super::options::Options;
use crate::stage::{Stage, Stalls, pid};
use crate::truth::{Expected, Truth};

const PAUSES: u64 = 3;
const PAUSE: Duration = Duration::from_millis(500);
const SHORT_PAUSE: Duration = Duration::from_millis(20);
const MESSAGE: [u8; 4096] = [b'.'; 4096];
/// Bytes to read between two pauses: more than any queue holds, so that the sender continues.
const READ_BETWEEN: usize = 1 << 20;
/// Messages of the healthy sender.
const MESSAGES: usize = 2_000;

const SENDER: usize = 0;
const STOP: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    if options.dgram { datagrams(stage, options) } else { stream(stage, options) }
}

fn stream(stage: Stage, options: &Options) -> Result<Truth> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
    let inode = rustix::fs::fstat(&ours)?.st_ino;
    let options_of_receiver = options.clone();
    let receiver = stage.spawn(&[ours.as_raw_fd()], move || {
        let read = |buffer: &mut [u8]| rustix::io::read(&theirs, buffer).context("cannot read");
        receive(stage, &options_of_receiver, libc::SYS_write, read)
    })?;
    let options_of_sender = options.clone();
    let sender = stage.spawn(&[], move || {
        send(stage, &options_of_sender, || rustix::io::write(&ours, &MESSAGE).map(drop).context("cannot write"))
    })?;
    truth(stage, options, inode, sender, receiver, "stream")
}

fn datagrams(stage: Stage, options: &Options) -> Result<Truth> {
    let name = SocketAddr::from_abstract_name(format!("ipctrace-log-{}", pid()))?;
    let bound = UnixDatagram::bind_addr(&name).context("cannot bind")?;
    let socket = UnixDatagram::unbound().context("cannot make a socket")?;
    let inode = rustix::fs::fstat(&socket)?.st_ino;
    let options_of_receiver = options.clone();
    let receiver = stage.spawn(&[socket.as_raw_fd()], move || {
        let read = |buffer: &mut [u8]| bound.recv(buffer).context("cannot receive");
        receive(stage, &options_of_receiver, libc::SYS_sendto, read)
    })?;
    let options_of_sender = options.clone();
    let sender = stage.spawn(&[], move || {
        send(stage, &options_of_sender, || socket.send_to_addr(&MESSAGE, &name).map(drop).context("cannot send"))
    })?;
    truth(stage, options, inode, sender, receiver, "dgram")
}

fn send(stage: Stage, options: &Options, send: impl Fn() -> Result<()>) -> Result<()> {
    let mut sent = 0;
    while stage.value(STOP) == 0 && (options.bug() || sent < MESSAGES) {
        stage.timed(&send)?;
        sent += 1;
    }
    stage.reach(DONE, 1);
    stage.idle()
}

fn receive(
    stage: Stage,
    options: &Options,
    syscall: libc::c_long,
    read: impl Fn(&mut [u8]) -> Result<usize>,
) -> Result<()> {
    let mut buffer = [0; 65536];
    stage.await_slot(SENDER, 1)?;
    for _ in 0..PAUSES {
        let mut total = 0;
        while total < READ_BETWEEN {
            total += read(&mut buffer)?;
        }
        if options.bug() {
            stage.wait_until_blocked(stage.value(SENDER) as i32, syscall)?;
        }
        if options.bug() && options.endless {
            stage.reach(DONE, 1);
            stage.idle();
        }
        sleep(if options.bug() { PAUSE } else { SHORT_PAUSE });
    }
    if options.bug() {
        stage.reach(STOP, 1);
    }
    loop {
        read(&mut buffer)?;
    }
}

fn truth(stage: Stage, options: &Options, inode: u64, sender: i32, receiver: i32, kind: &str) -> Result<Truth> {
    stage.reach(SENDER, sender as u64);
    stage.await_slot(DONE, 1)?;
    let truth = if options.bug() {
        let expected = Expected::new("socket-stall")
            .kind("socket")
            .ids([inode])
            .pids([sender])
            .role("sender", sender)
            .role("receiver", receiver)
            .exact("type", kind);
        Truth::one(if options.endless { Stalls::ongoing(expected) } else { stage.stalls().expect(expected) })
    } else {
        stage.stalls().allow(Truth::default(), "socket-stall")
    };
    Ok(truth.role("sender", [sender]).role("receiver", [receiver]).fact("inode", inode))
}
