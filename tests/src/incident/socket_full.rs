//! A non-blocking logger gets EAGAIN 200 times, because no process reads its datagrams.
//!
//! Healthy: the logger polls, and the receiver reads.

use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::options::Options;
use crate::stage::{Stage, pid};
use crate::truth::{Expected, Truth};

const REFUSALS: u64 = 200;
const HEALTHY_MESSAGES: u64 = 2_000;
const MESSAGE: &[u8] = b"<13>a line for the log";

const SENT: usize = 0;
const REFUSED: usize = 1;
const DONE: usize = 2;

pub(super) fn play(stage: Stage, options: &Options) -> Result<Truth> {
    let bug = options.bug();
    let name = SocketAddr::from_abstract_name(format!("ipctrace-full-{}", pid()))?;
    let bound = UnixDatagram::bind_addr(&name).context("cannot bind")?;
    let socket = UnixDatagram::unbound().context("cannot make a socket")?;
    socket.connect_addr(&name).context("cannot connect")?;
    socket.set_nonblocking(true)?;
    let inode = rustix::fs::fstat(&socket)?.st_ino;
    let receiver = stage.spawn(&[socket.as_raw_fd()], move || {
        let mut buffer = [0; 4096];
        loop {
            if bug {
                stage.idle();
            }
            bound.recv(&mut buffer).context("cannot receive")?;
        }
    })?;
    let sender = stage.spawn(&[], move || {
        while if bug { stage.value(REFUSED) < REFUSALS } else { stage.value(SENT) < HEALTHY_MESSAGES } {
            match socket.send(MESSAGE) {
                Ok(_) => stage.reach(SENT, stage.value(SENT) + 1),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    stage.reach(REFUSED, stage.value(REFUSED) + 1);
                    if !bug {
                        poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None).context("cannot poll")?;
                    }
                }
                Err(e) => return Err(e).context("cannot send"),
            }
        }
        stage.reach(DONE, 1);
        stage.idle()
    })?;
    stage.await_slot(DONE, 1)?;
    let truth = if bug {
        let expected = Expected::new("socket-full")
            .kind("socket")
            .ids([inode])
            .pids([sender])
            .role("receiver", receiver)
            .exact("eagain", stage.value(REFUSED));
        Truth::one(expected)
    } else {
        Truth::default()
    };
    Ok(truth.role("sender", [sender]).role("receiver", [receiver]).fact("inode", inode))
}
