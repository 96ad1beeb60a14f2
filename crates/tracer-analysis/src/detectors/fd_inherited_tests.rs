//! Tables of `fd-inherited`: records in, findings out.

use crate::fixture::{P, Stream, file, files, role};
use tracer_common::event::{Body, Exec, FdDup, FdFlags};

const WORKER: P = P(800, "worker");
const CHILD: P = P(801, "worker");

fn exec(s: &mut Stream, at: u64, p: P, open: &[u32]) {
    s.event(at, p, Body::Exec(Exec { old_tid: p.0, _pad: 0 }));
    let fds = open.iter().map(|fd| (*fd, "/etc/secret".to_owned())).collect();
    s.fd_table(at + 5, p, 1_024, fds);
}

#[test]
fn what_crosses_an_exec() {
    type Fill = fn(&mut Stream);
    let cases: &[(&str, Option<u32>, Fill)] = &[
        ("still open after the exec", Some(800), |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            exec(s, 200, WORKER, &[0, 1, 2, 7]);
        }),
        ("closed by the exec", None, |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            exec(s, 200, WORKER, &[0, 1, 2]);
        }),
        ("standard input", None, |s| {
            s.receive(100, WORKER, 0, file(1), "secret");
            exec(s, 200, WORKER, &[0, 1, 2]);
        }),
        ("passed on by dup2", None, |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.event(110, WORKER, Body::FdDup(FdDup { files: files(WORKER), old: 7, new: 9 }));
            s.event(111, WORKER, Body::FdClose(tracer_common::event::FdClose { files: files(WORKER), fd: 7, how: 0 }));
            exec(s, 200, WORKER, &[0, 1, 2, 9]);
        }),
        ("received after the exec", None, |s| {
            exec(s, 50, WORKER, &[0, 1, 2]);
            s.receive(100, WORKER, 7, file(1), "secret");
            s.fd_table(300, WORKER, 1_024, vec![(7, "/etc/secret".to_owned())]);
        }),
        ("a child executes a program with it", Some(801), |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.fork(150, WORKER, CHILD);
            exec(s, 200, CHILD, &[0, 1, 2, 7]);
        }),
        ("a child that closed it first", None, |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.fork(150, WORKER, CHILD);
            exec(s, 200, CHILD, &[0, 1, 2]);
        }),
        ("a child of a receiver that marked it", None, |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.event(110, WORKER, Body::FdFlags(FdFlags { files: files(WORKER), fd: 7, cloexec: 1 }));
            s.fork(150, WORKER, CHILD);
            exec(s, 200, CHILD, &[0, 1, 2]);
        }),
        ("the table is recorded before the exec", Some(801), |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.fork(150, WORKER, CHILD);
            s.fd_table(205, CHILD, 1_024, vec![(7, "/etc/secret".to_owned())]);
            s.event(200, CHILD, Body::Exec(Exec { old_tid: CHILD.0, _pad: 0 }));
        }),
        ("a receiver's table is recorded before the exec", Some(800), |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.fd_table(205, WORKER, 1_024, vec![(7, "/etc/secret".to_owned())]);
            s.event(200, WORKER, Body::Exec(Exec { old_tid: WORKER.0, _pad: 0 }));
        }),
        ("an old table proves nothing about an exec", None, |s| {
            s.receive(100, WORKER, 7, file(1), "secret");
            s.fd_table(150, WORKER, 1_024, vec![(7, "/etc/secret".to_owned())]);
            exec(s, 200, WORKER, &[0, 1, 2]);
        }),
    ];
    for (what, owner, fill) in cases {
        let mut s = Stream::new();
        fill(&mut s);
        let found = s.findings(2_000);
        let got = found.iter().find(|f| f.code == "fd-inherited").map(|f| role(f, "owner"));
        assert_eq!(got, owner.map(|p| vec![p]), "{what}: {found:#?}");
    }
}
