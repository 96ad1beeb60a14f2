//! A server with a backlog of 1 does not accept: one client blocks 400 ms in connect, another gets EAGAIN 20 times.
//!
//! Healthy: the server accepts at once.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, listen, socket_with};

use super::options::Options;
use crate::stage::{Stage, pid};
use crate::truth::{Expected, Truth};

const BACKLOG: i32 = 1;
/// Connections that fill the backlog: the kernel queues one more than the backlog.
const FILL: usize = 2;
const REFUSALS: u64 = 20;
const PAUSE: Duration = Duration::from_millis(400);
const HEALTHY_CONNECTIONS: usize = 50;

const ACCEPTING: usize = 0;
const REFUSED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let name = format!("ipctrace-backlog-{}", pid());
    let address = SocketAddr::from_abstract_name(&name)?;
    let listener = UnixListener::bind_addr(&address).context("cannot listen")?;
    listen(&listener, BACKLOG)?;
    let inode = rustix::fs::fstat(&listener)?.st_ino;
    let bug = options.bug();
    let server = stage.spawn(&[], move || {
        if bug {
            stage.await_slot(ACCEPTING, 1)?;
        }
        let mut accepted = Vec::new();
        loop {
            accepted.push(listener.accept().context("cannot accept")?);
        }
    })?;
    if !bug {
        return healthy(stage, address, server);
    }
    let client = stage.spawn(&[], move || fill_and_wait(stage, &address))?;
    stage.wait_until_blocked(client, libc::SYS_connect)?;
    let refused = stage.spawn(&[], move || connect_without_blocking(stage, &name))?;
    stage.await_slot(REFUSED, REFUSALS)?;
    sleep(PAUSE);
    stage.reach(ACCEPTING, 1);
    stage.await_slot(DONE, 1)?;
    let expected = Expected::new("backlog-full")
        .kind("socket")
        .ids([inode])
        .pids([client, refused])
        .role("holder", server)
        .exact("eagain", REFUSALS);
    let truth = Truth::one(stage.stalls().expect(expected));
    Ok(truth.role("server", [server]).role("client", [client, refused]).fact("inode", inode))
}

fn healthy(stage: Stage, address: SocketAddr, server: i32) -> Result<Truth> {
    let client = stage.spawn(&[], move || {
        for _ in 0..HEALTHY_CONNECTIONS {
            stage.timed(|| UnixStream::connect_addr(&address)).context("cannot connect")?;
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let truth = stage.stalls().allow(Truth::default(), "backlog-full");
    Ok(truth.role("server", [server]).role("client", [client]))
}

/// Fills the backlog and blocks in one more connect.
fn fill_and_wait(stage: Stage, address: &SocketAddr) -> Result<()> {
    let mut connections = Vec::new();
    for _ in 0..FILL {
        connections.push(UnixStream::connect_addr(address).context("cannot connect")?);
    }
    let waited = stage.timed(|| UnixStream::connect_addr(address)).context("cannot connect")?;
    stage.reach(DONE, 1);
    drop(waited);
    stage.idle()
}

/// Gets EAGAIN from [`REFUSALS`] non-blocking connects.
fn connect_without_blocking(stage: Stage, name: &str) -> Result<()> {
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    for _ in 0..REFUSALS {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address).map_err(std::io::Error::from) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => stage.reach(REFUSED, stage.value(REFUSED) + 1),
            Err(e) => return Err(e).context("cannot connect"),
            Ok(()) => bail!("connected, although the backlog is full"),
        }
    }
    stage.idle()
}
