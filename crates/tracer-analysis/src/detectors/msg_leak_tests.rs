//! Tables of `msg-leak`: records in, findings out.

use crate::finding::{Confidence, Finding, Origin, Severity};
use crate::fixture::{MS, NS, P, START, Stream, number, role};
use tracer_common::event::{Body, SysvCreate};
use tracer_common::map::kind;
use tracer_record::{Inventory, MsgLimitRow, MsgQueue, ProcessRow, Record};

const INIT: P = P(1, "init");
const SERVER: P = P(700, "server");
/// Seconds since 1970 when the session starts.
const START_S: u64 = 1_700_000_000;

/// A queue made 400 s before the start and never used.
fn unused(id: i32) -> MsgQueue {
    MsgQueue {
        ns: NS,
        id,
        qbytes: 16_384,
        cuid: 1000,
        mode: 0o600,
        ctime: START_S - 400,
        waiting_complete: true,
        ..MsgQueue::default()
    }
}

/// One whose last sender, a process not in the model, sent 300 s before the start.
fn sent(id: i32, messages: u64) -> MsgQueue {
    MsgQueue { messages, bytes: messages * 1024, lspid: 4_000 + id.cast_unsigned(), stime: START_S - 300, ..unused(id) }
}

fn inventory(at: u64, rows: Vec<ProcessRow>, queues: Vec<MsgQueue>, msgmni: u64) -> Inventory {
    let used_queues = u64::try_from(queues.len()).unwrap_or(0);
    let limits = MsgLimitRow { ns: NS, msgmni, msgmax: 8_192, msgmnb: 16_384, used_queues, ..MsgLimitRow::default() };
    Inventory {
        ts_ns: START + at * MS,
        processes: rows,
        msg_queues: queues,
        msg_limits: vec![limits],
        ..Inventory::default()
    }
}

/// A process of the user that owns the queues.
fn owner(p: P) -> ProcessRow {
    ProcessRow { uid: 1000, ..p.row('S') }
}

/// The same tables at the start and at the end.
fn stays(rows: &[ProcessRow], queues: &[MsgQueue]) -> Stream {
    let mut rows = rows.to_vec();
    rows.push(INIT.row('S'));
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory(10, rows.clone(), queues.to_vec(), 32_000)));
    s.record(Record::Closing(inventory(3_000, rows, queues.to_vec(), 32_000)));
    s
}

fn one(found: &[Finding]) -> &Finding {
    let [f] = found else { unreachable!("{found:#?}") };
    f
}

#[test]
fn orphans_from_before_and_their_healthy_twins() {
    let received = |pid: u32, age_s: u64, q: MsgQueue| MsgQueue { lrpid: pid, rtime: START_S - age_s, ..q };
    // SERVER started 493 s before the start, and belongs to the queue's owner.
    for (what, queue, severity) in [
        ("last sender dead", sent(5, 1), Some(Severity::Info)),
        ("last receiver dead as well", received(4_100, 200, sent(5, 0)), Some(Severity::Info)),
        ("only received, by the dead", received(4_100, 200, unused(5)), Some(Severity::Info)),
        ("full", sent(5, 16), Some(Severity::Warning)),
        ("the last sender lives", MsgQueue { lspid: SERVER.0, ..sent(5, 1) }, None),
        ("the last receiver lives", received(SERVER.0, 200, sent(5, 1)), None),
        ("a process waits for a message", MsgQueue { waiting: vec![SERVER.0], ..sent(5, 0) }, None),
        (
            "the waiting processes are unknown",
            MsgQueue { waiting_complete: false, ..sent(5, 16) },
            Some(Severity::Info),
        ),
        (
            "the sender's pid is another's now",
            MsgQueue { lspid: SERVER.0, stime: START_S - 499, ..sent(5, 1) },
            Some(Severity::Info),
        ),
        ("the sender is not visible here", MsgQueue { lspid: 0, ..sent(5, 1) }, None),
        ("never used, its owner lives", unused(5), None),
        ("never used, and its server waits", MsgQueue { waiting: vec![SERVER.0], ..unused(5) }, None),
        ("full, the receiver lives but does not receive", received(SERVER.0, 300, sent(5, 16)), Some(Severity::Info)),
        ("full, the receiver has received since", received(SERVER.0, 299, sent(5, 16)), None),
        ("full for a moment", MsgQueue { stime: START_S + 2, ..received(SERVER.0, 300, sent(5, 16)) }, None),
        ("nearly full, the receiver lives", received(SERVER.0, 300, sent(5, 15)), None),
    ] {
        let found = stays(&[owner(SERVER)], &[queue]).findings(3_000);
        assert_eq!(found.first().map(|f| f.severity), severity, "{what}: {found:#?}");
        if severity.is_some() {
            let f = one(&found);
            assert_eq!(
                (f.code.as_str(), f.origin, f.confidence),
                ("msg-leak", Origin::Baseline, Confidence::Likely),
                "{what}"
            );
            assert!(role(f, "creator").is_empty(), "{what}: the creator is unknown");
        }
    }
}

#[test]
fn queues_that_no_process_ever_used() {
    let (of_owner, stranger) = (owner(SERVER), ProcessRow { uid: 1001, ..P(710, "other").row('S') });
    let elsewhere = ProcessRow { ipc_ns: Some(NS + 1), ..owner(P(720, "elsewhere")) };
    for (what, number, apart_s, rows, found) in [
        ("one, and no process of its owner lives", 1, 0, vec![stranger.clone()], true),
        ("one, and its owner lives elsewhere", 1, 0, vec![elsewhere], true),
        ("one, and its owner lives", 1, 0, vec![of_owner.clone()], false),
        ("two, and their owner lives", 2, 60, vec![of_owner.clone()], false),
        ("three made one after the other, and their owner lives", 3, 60, vec![of_owner.clone()], true),
        ("a pool, and no process of its owner lives", 1000, 0, vec![stranger], true),
        ("a pool made at once, and its owner lives", 1000, 0, vec![of_owner.clone()], false),
        ("a pool made over some time", 3, 5, vec![of_owner.clone()], false),
        ("the same again after a restart", 3, 6, vec![of_owner], true),
    ] {
        let later = |id: i32| MsgQueue { ctime: START_S - 400 + u64::from(id.unsigned_abs()) * apart_s, ..unused(id) };
        let queues: Vec<MsgQueue> = (0..number).map(later).collect();
        let got = stays(&rows, &queues).findings(3_000);
        assert_eq!(!got.is_empty(), found, "{what}: {got:#?}");
        assert!(got.iter().all(|f| f.severity == Severity::Info && f.processes.is_empty()), "{what}: {got:#?}");
    }
}

#[test]
fn several_of_one_owner_are_one_finding() {
    let queues = [sent(1, 2), sent(2, 16), MsgQueue { lrpid: 4_100, rtime: START_S - 200, ..sent(3, 0) }];
    let found = stays(&[], &queues).findings(3_000);
    let f = one(&found);
    assert_eq!((f.severity, number(f, "instances"), number(f, "messages")), (Severity::Warning, Some(3.0), Some(18.0)));
    assert_eq!((number(f, "full"), number(f, "queued_bytes")), (Some(1.0), Some(18_432.0)));
    assert_eq!((role(f, "sender"), role(f, "receiver")), (vec![4001, 4002, 4003], vec![4100]));
    assert_eq!(f.evidence["pids"], serde_json::json!([4001, 4002, 4003, 4100]));
    assert_eq!(f.remedy.first().and_then(|r| r.command.as_deref()), Some("ipcrm -q 1 -q 2 -q 3"));
    assert!(f.title.contains("1 of them full") && f.title.contains("6.72 min old"), "{}", f.title);
    let limit = f.limit.as_ref().map(|l| (l.name.as_str(), l.used, l.max));
    assert_eq!(limit, Some(("MSGMNI", Some(3), Some(32_000))));
}

#[test]
fn most_of_the_limit_is_critical() {
    for (queue, severity) in
        [(sent as fn(i32, u64) -> MsgQueue, Severity::Critical), (|i, _| unused(i), Severity::Warning)]
    {
        let queues: Vec<MsgQueue> = (0..8).map(|i| queue(i, 1)).collect();
        let mut s = Stream::new();
        s.record(Record::Closing(inventory(3_000, vec![INIT.row('S')], queues, 10)));
        let found = s.findings(3_000);
        assert_eq!((one(&found).severity, one(&found).origin), (severity, Origin::Observed));
    }
}

#[test]
fn what_appears_and_stays_is_observed() {
    let client = P(710, "client");
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory(0, vec![INIT.row('S')], vec![], 32_000)));
    s.fork(1_000, INIT, client).gone(2_000, client);
    let row = MsgQueue { lspid: client.0, ctime: START_S + 1, stime: START_S + 1, ..sent(5, 16) };
    s.record(Record::Closing(inventory(5_000, vec![INIT.row('S')], vec![row], 32_000)));
    let found = s.findings(5_000);
    let f = one(&found);
    assert_eq!((f.origin, f.severity, role(f, "sender")), (Origin::Observed, Severity::Warning, vec![710]));
    assert!(f.title.contains("client (710)") && f.title.contains("full"), "{}", f.title);
}

#[test]
fn the_creation_of_a_queue_was_recorded() {
    let client = P(710, "client");
    for (what, exact, made_s_ago, creator_dies, want) in [
        ("its creator is dead", 1, 0, true, Some(vec![710])),
        ("its creator lives, and may come back", 1, 0, false, None),
        ("the call had opened an old one", 0, 100, true, Some(vec![])),
        ("the call may have made it", 0, 0, true, Some(vec![710])),
    ] {
        let mut s = Stream::new();
        s.record(Record::Baseline(inventory(0, vec![INIT.row('S')], vec![], 32_000)));
        s.fork(900, INIT, client);
        let body = SysvCreate { kind: kind::MSG, id: 5, key: 0, flags: 0o1600, ns: NS, exact, size: 0 };
        s.stack = 3;
        s.event(1_000, client, Body::SysvCreate(body)).frames(3, &[("/usr/bin/client", 0x5510, 0x510)]);
        if creator_dies {
            s.gone(2_000, client);
        }
        // Others have sent to it and have exited.
        let row = MsgQueue { ctime: START_S + 1 - made_s_ago, stime: START_S + 1, ..sent(5, 2) };
        let rows = if creator_dies { vec![INIT.row('S')] } else { vec![INIT.row('S'), client.row('S')] };
        s.record(Record::Closing(inventory(5_000, rows, vec![row], 32_000)));
        let found = s.findings(5_000);
        assert_eq!(found.first().map(|f| role(f, "creator")), want, "{what}: {found:#?}");
        let stacks = found.first().map_or(0, |f| f.stacks.len());
        assert_eq!(stacks, want.map_or(0, |creators| creators.len()), "{what}");
    }
}

#[test]
fn a_living_creator_may_have_a_pool() {
    for (number, apart_s, found) in [(7, 2, 0), (8, 2, 1), (8, 1, 0), (100, 0, 0)] {
        let mut s = Stream::new();
        s.record(Record::Baseline(inventory(0, vec![INIT.row('S'), owner(SERVER)], vec![], 32_000)));
        for id in 0..number {
            let body = SysvCreate { kind: kind::MSG, id, key: 0, flags: 0o1600, ns: NS, exact: 1, size: 0 };
            s.event(1_000, SERVER, Body::SysvCreate(body));
        }
        let queues = (0..number)
            .map(|id| MsgQueue { ctime: START_S + 1 + u64::from(id.unsigned_abs()) * apart_s, ..unused(id) })
            .collect();
        s.record(Record::Closing(inventory(20_000, vec![INIT.row('S'), owner(SERVER)], queues, 32_000)));
        assert_eq!(s.findings(20_000).len(), found, "{number} in {apart_s} s each");
    }
}

#[test]
fn the_closing_table_is_believed() {
    let mut s = Stream::new();
    s.record(Record::Baseline(inventory(10, vec![INIT.row('S')], vec![sent(5, 1)], 32_000)));
    assert_eq!(s.findings(2_000).len(), 1);
    s.record(Record::Closing(inventory(3_000, vec![INIT.row('S')], vec![], 32_000)));
    assert!(s.findings(3_000).is_empty());
}
