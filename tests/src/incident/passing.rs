//! Shared by the incidents that pass descriptors: the socket pair and the sender.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

use crate::stage::Stage;

/// The file whose descriptors the sender passes; every system has it.
pub(super) const FILE: &str = "/etc/passwd";

/// The highest number of descriptors in one message.
const MOST: usize = 16;

/// Slot with the number of messages sent; receivers must not use it.
pub(super) const SENT: usize = 60;

/// A connected pair of SOCK_SEQPACKET sockets.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("cannot make a pair of unix sockets")
}

/// Sends one message with copies of a descriptor.
pub(super) fn send(socket: &OwnedFd, file: BorrowedFd<'_>, copies: usize) -> Result<()> {
    let fds = vec![file; copies.min(MOST)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(b"request")], &mut control, SendFlags::empty())
        .map(drop)
        .context("cannot send file descriptors")
}

/// Starts a sender of `messages` messages with `copies` descriptors each; returns its pid and the receiver's socket.
pub(super) fn sender(stage: Stage, messages: usize, copies: usize) -> Result<(i32, OwnedFd)> {
    let (ours, theirs) = pair()?;
    let pid = stage.spawn(&[theirs.as_raw_fd()], move || {
        for _ in 0..messages {
            // Opens and closes the file for each request, as a privileged parent does.
            let file = File::open(FILE).with_context(|| format!("cannot open {FILE}"))?;
            send(&ours, file.as_fd(), copies)?;
        }
        stage.reach(SENT, messages as u64);
        stage.idle()
    })?;
    Ok((pid, theirs))
}
