//! `ls socket` and `show socket:INODE` on sockets with known fields.
//!
//! One test only: programs started by another test would hold copies of the sockets until they call exec.
#![allow(clippy::expect_used, clippy::panic)] // tests

mod program;

use std::os::fd::{AsFd, BorrowedFd};

use program::{ipctrace, text};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind,
    connect, listen, sendmsg, socket_with, socketpair,
};
use serde_json::{Value, json};

/// A socketpair with two descriptors in flight, and a listener with a connection in its backlog.
#[test]
fn every_field_is_that_of_the_sockets() {
    let me = std::process::id();
    let ino = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).expect("stat").st_ino;
    let make = |kind| socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("socket");
    let (one, other) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
    let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    let passed = [std::io::stdin(), std::io::stdin()];
    let passed: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
    assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
    sendmsg(&one, &[std::io::IoSlice::new(b"12345")], &mut control, SendFlags::empty()).expect("sendmsg");

    let name = format!("ipctrace-test-{me}\u{1b}[2J\n\0\u{202e}");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("address");
    let (listener, client) = (make(SocketType::STREAM), make(SocketType::STREAM));
    bind(&listener, &address).expect("bind");
    listen(&listener, 7).expect("listen");
    connect(&client, &address).expect("connect");
    let datagrams = make(SocketType::DGRAM);

    let out = ipctrace(&["ls", "sockets", "-p", &me.to_string(), "--format", "json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let printed = text(&out.stdout);
    assert!(!printed.contains('\u{1b}') && !printed.contains('\u{202e}'), "{printed}");
    let all: Value = serde_json::from_str(&printed).expect("JSON");
    let row = |fd: BorrowedFd<'_>| {
        let rows = all["socket"].as_array().expect("rows");
        rows.iter().find(|r| r["inode"] == ino(fd)).expect("a row").clone()
    };
    let check = |fd: BorrowedFd<'_>, want: &Value| {
        let row = row(fd);
        for (name, value) in want.as_object().expect("object") {
            assert_eq!(&row[name], value, "{name} of {row}");
        }
        let holders: Vec<_> =
            row["users"].as_array().expect("users").iter().filter(|u| u["role"] == "holder").collect();
        assert!(holders.iter().any(|u| u["pid"] == me && u["alive"] == true));
    };
    let uid = rustix::process::geteuid().as_raw();
    let plain = |kind: &str, state: &str| {
        json!({
            "type": kind, "state": state, "name": null, "abstract": null, "peer": null, "recv_q": 0, "send_q": 0,
            "in_flight": 0, "memory": 0, "shutdown": "none", "listener": null, "clients": null, "uid": uid,
            "holders": [me], "peers": [], "orphan": "no",
        })
    };
    let with = |mut base: Value, more: Value| {
        let more = more.as_object().expect("object").clone();
        base.as_object_mut().expect("object").extend(more);
        base
    };
    // What is charged for five bytes is the kernel's business; it is so much in both columns.
    let charged = row(one.as_fd())["send_q"].as_u64().expect("a number");
    assert!(charged > 5);
    check(
        one.as_fd(),
        &with(
            plain("seqpacket", "established"),
            json!({"peer": ino(other.as_fd()), "peers": [me], "send_q": charged, "memory": charged}),
        ),
    );
    check(
        other.as_fd(),
        &with(
            plain("seqpacket", "established"),
            json!({"peer": ino(one.as_fd()), "peers": [me], "recv_q": 5, "in_flight": 2}),
        ),
    );
    check(
        listener.as_fd(),
        &with(
            plain("stream", "listen"),
            json!({
                "name": format!("@{name}"), "abstract": true, "recv_q": 1, "send_q": 7,
                "clients": [ino(client.as_fd())], "peers": [me],
            }),
        ),
    );
    check(client.as_fd(), &with(plain("stream", "queued"), json!({"listener": ino(listener.as_fd()), "peers": [me]})));
    check(datagrams.as_fd(), &plain("dgram", "unconnected"));

    let shown = ipctrace(&["show", &format!("socket:{}", ino(listener.as_fd()))]);
    let shown = text(&shown.stdout);
    assert!(!shown.contains('\u{1b}') && shown.contains(&format!("ipctrace-test-{me}\\x1b[2J\\x0a\\x00\\u{{202e}}")));

    drop(other);
    let gone = ipctrace(&["ls", "sockets", "--format", "json"]).stdout;
    let gone: Value = serde_json::from_slice(&gone).expect("JSON");
    let closed = gone["socket"].as_array().expect("rows").iter().find(|r| r["inode"] == ino(one.as_fd()));
    assert_eq!(closed.map(|r| (&r["state"], &r["shutdown"])), Some((&"closed".into(), &"both".into())));
}
