//! Tables of facts, and the listings of them.

use serde_json::Value;

use super::*;
use tracer_record::listed::{DescriptorSnapshot, OpenObject, Peer, SocketState, UnixSocket};
use tracer_record::{
    Holder, Inventory, MsgQueue, PosixHolder, PosixKind, PosixObject, ProcessRow, SemLimitRow, SemSetRow, SemValue,
    ShmSegment,
};

const NS: u32 = 4_026_531_839;
/// Boot clock and calendar of the inventory.
const NOW_NS: u64 = 1_000_000_000_000;
const NOW_S: u64 = 1_700_000_000;

/// A process of uid 1000 that started `age_s` before now.
fn process(tgid: u32, comm: &str, age_s: u64) -> ProcessRow {
    ProcessRow {
        tgid,
        ppid: 1,
        comm: comm.into(),
        state: 'S',
        uid: 1000,
        start_ns: NOW_NS - age_s * 1_000_000_000,
        ipc_ns: Some(NS),
        ..ProcessRow::default()
    }
}

/// A set last changed `idle_s` before now, with (value, last pid, ncnt) of each semaphore.
fn set(id: i32, idle_s: u64, values: &[(u32, u32, u32)]) -> SemSetRow {
    SemSetRow {
        ns: NS,
        id,
        nsems: values.len() as u32,
        uid: 1000,
        cuid: 1000,
        perms: 0o600,
        ctime: NOW_S - idle_s,
        values: values
            .iter()
            .map(|(value, pid, ncnt)| SemValue { value: *value, pid: *pid, ncnt: *ncnt, zcnt: 0 })
            .collect(),
        ..SemSetRow::default()
    }
}

fn facts(processes: Vec<ProcessRow>) -> Facts {
    Facts {
        inventory: Inventory { ts_ns: NOW_NS, processes, ..Inventory::default() },
        wall_ns: NOW_S * 1_000_000_000,
        own_ns: Some(NS),
        own_pid: 1,
        ..Facts::default()
    }
}

fn list(facts: &Facts, name: &str, query: &Query<'_>) -> Table {
    let model = Model::new(facts);
    (kind(name).expect("kind").table)(&model, query)
}

fn orphan_of(facts: &Facts, name: &str) -> Orphan {
    list(facts, name, &Query::default()).rows[0].orphan
}

#[test]
fn the_registry_is_consistent() {
    for (at, entry) in KINDS.iter().enumerate() {
        let heads = (entry.heads)();
        assert!(heads.iter().any(|h| h.shows == Shows::Always), "{}", entry.name);
        for (n, head) in heads.iter().enumerate() {
            assert!(
                !head.help.is_empty() && head.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                head.name
            );
            assert!(heads[..n].iter().all(|h| h.name != head.name), "{} twice in {}", head.name, entry.name);
            assert!(help().contains(head.help));
        }
        assert!(KINDS[..at].iter().all(|k| k.name != entry.name && k.alias != entry.alias));
        assert_eq!(kind(entry.alias).map(|k| k.name), Some(entry.name));
    }
    assert!(kind("nothing").is_none());
}

#[test]
fn orphaned_sets() {
    let user = || vec![process(10, "worker", 500)];
    for (what, row, processes, want) in [
        ("last user lives", set(1, 100, &[(0, 10, 0)]), user(), Orphan::No),
        ("last user is dead, no running process could use it", set(1, 5, &[(0, 9, 0)]), vec![], Orphan::Likely),
        ("last user is dead, long idle", set(1, 100, &[(0, 9, 0)]), user(), Orphan::Likely),
        ("last user is dead, used just now", set(1, 5, &[(0, 9, 0)]), user(), Orphan::Maybe),
        ("another process has the pid now", set(1, 100, &[(0, 10, 0)]), vec![process(10, "new", 50)], Orphan::Likely),
        (
            "a zombie uses nothing",
            set(1, 5, &[(0, 10, 0)]),
            vec![ProcessRow { state: 'Z', ..process(10, "z", 500) }],
            Orphan::Likely,
        ),
        ("a thread waits", set(1, 100, &[(0, 9, 1)]), vec![], Orphan::No),
        ("never used, a possible creator lives", set(1, 100, &[(0, 0, 0)]), user(), Orphan::Maybe),
        (
            "never used, no running process could use it",
            set(1, 100, &[(0, 0, 0)]),
            vec![process(10, "late", 50)],
            Orphan::Likely,
        ),
        (
            "never used, the namespace of a possible creator is unknown",
            set(1, 100, &[(0, 0, 0)]),
            vec![ProcessRow { ipc_ns: None, ..process(10, "hidden", 500) }],
            Orphan::Maybe,
        ),
        ("values unread", SemSetRow { nsems: 100, ..set(1, 100, &[]) }, vec![], Orphan::Unknown),
        ("used by an invisible process", SemSetRow { otime: 5, ..set(1, 100, &[(0, 0, 0)]) }, vec![], Orphan::Unknown),
    ] {
        let mut facts = facts(processes);
        facts.inventory.sem_sets = vec![row];
        assert_eq!(orphan_of(&facts, "sem"), want, "{what}");
    }
}

#[test]
fn no_orphan_is_likely_where_processes_are_hidden() {
    let mut facts = facts(Vec::new());
    facts.inventory.sem_sets = vec![set(1, 100, &[(0, 9, 0)])];
    facts.hidden = true;
    assert_eq!(orphan_of(&facts, "sem"), Orphan::Maybe);
}

#[test]
fn orphaned_segments_and_queues() {
    let shm = ShmSegment { ns: NS, cpid: 9, ctime: NOW_S - 100, ..ShmSegment::default() };
    for (what, row, want) in [
        ("creator dead", shm.clone(), Orphan::Likely),
        ("attached", ShmSegment { nattch: 1, ..shm.clone() }, Orphan::No),
        ("removed already", ShmSegment { dest: true, ..shm.clone() }, Orphan::No),
        ("creator lives", ShmSegment { cpid: 10, ..shm.clone() }, Orphan::No),
        ("last user lives", ShmSegment { lpid: 10, atime: NOW_S - 100, ..shm.clone() }, Orphan::No),
        ("creator invisible", ShmSegment { cpid: 0, ..shm }, Orphan::Unknown),
    ] {
        let mut facts = facts(vec![process(10, "worker", 500)]);
        facts.inventory.shm_segments = vec![row];
        assert_eq!(orphan_of(&facts, "shm"), want, "{what}");
    }
    let msg = MsgQueue {
        ns: NS,
        lspid: 9,
        stime: NOW_S - 100,
        ctime: NOW_S - 200,
        waiting_complete: true,
        ..MsgQueue::default()
    };
    for (what, row, want) in [
        ("sender dead", msg.clone(), Orphan::Likely),
        ("receiver lives", MsgQueue { lrpid: 10, rtime: NOW_S - 100, ..msg.clone() }, Orphan::No),
        ("a thread waits", MsgQueue { waiting: vec![10], ..msg.clone() }, Orphan::No),
        ("waiters not known", MsgQueue { waiting_complete: false, ..msg }, Orphan::Maybe),
    ] {
        let mut facts = facts(vec![process(10, "worker", 500)]);
        facts.inventory.msg_queues = vec![row];
        assert_eq!(orphan_of(&facts, "msg"), want, "{what}");
    }
}

fn posix(name: &str, holders: Vec<PosixHolder>, complete: bool) -> PosixObject {
    PosixObject {
        kind: PosixKind::Sem,
        name: name.into(),
        path: format!("/dev/shm/sem.{name}"),
        dev: 1,
        device: 1,
        ino: 2,
        size_bytes: 32,
        uid: 7,
        gid: 7,
        mode: 0o600,
        mtime: NOW_S,
        ctime: NOW_S,
        queue: None,
        holders,
        complete,
    }
}

#[test]
fn posix_names() {
    let mut facts = facts(vec![process(10, "worker", 500)]);
    let mapped = PosixHolder { tgid: 10, start_ns: facts.inventory.processes[0].start_ns, open: false, mapped: true };
    facts.posix = vec![posix("/a", vec![mapped], true), posix("/b", vec![], true), posix("/c", vec![], false)];
    let table = list(&facts, "posix-sem", &Query::default());
    let orphans: Vec<Orphan> = table.rows.iter().map(|r| r.orphan).collect();
    assert_eq!(orphans, [Orphan::No, Orphan::Likely, Orphan::Maybe]);
    assert!(list(&facts, "mq", &Query::default()).rows.is_empty());
}

/// A stream socket that is established, held by this process.
fn socket(ino: u64, holder: Option<&ProcessRow>) -> UnixSocket {
    let held = |p: &ProcessRow| Holder {
        tgid: p.tgid,
        start_ns: p.start_ns,
        comm: p.comm.clone(),
        fd: 3,
        reads: None,
        writes: None,
    };
    UnixSocket {
        ino,
        kind: 1,
        state: SocketState::Established,
        shutdown: Some(0),
        holders: holder.map(held).into_iter().collect(),
        ..UnixSocket::default()
    }
}

#[test]
fn ends_of_sockets() {
    let (server, client) = (process(10, "server", 500), process(11, "client", 400));
    let mut facts = facts(vec![server.clone(), client.clone()]);
    facts.open.complete = true;
    facts.open.sockets = Some(vec![
        UnixSocket { peer: Peer::Socket(2), ..socket(1, Some(&server)) },
        UnixSocket { peer: Peer::Socket(1), ..socket(2, Some(&client)) },
        UnixSocket {
            peer: Peer::None,
            state: SocketState::Listen,
            pending: Some(vec![4, 99]),
            ..socket(3, Some(&server))
        },
        // It shut itself down while it waits.
        UnixSocket { peer: Peer::Fileless, shutdown: Some(3), ..socket(4, Some(&client)) },
        UnixSocket { peer: Peer::Fileless, ..socket(5, Some(&client)) },
        UnixSocket { peer: Peer::Fileless, shutdown: Some(3), ..socket(6, Some(&client)) },
        UnixSocket { peer: Peer::Fileless, kind: 2, ..socket(7, Some(&client)) },
        UnixSocket { peer: Peer::Socket(98), state: SocketState::Other(2), ..socket(8, None) },
    ]);
    let table = list(&facts, "sockets", &Query { everything: true, ..Query::default() });
    let rows: Vec<String> = table
        .rows
        .iter()
        .map(|r| {
            let columns = ["inode", "state", "peer", "holders", "peers", "listener", "clients", "orphan"];
            columns.map(|c| table.value(r, c).expect("column").print()).join(" ")
        })
        .collect();
    assert_eq!(
        rows,
        [
            "1 established 2 10 11 - - no",
            "2 established 1 11 10 - - no",
            "3 listen - 10 11 - 4, 99 no",
            "4 queued - 11 10 3 - no",
            "5 queued - 11 - - - no",
            "6 closed - 11 - - - no",
            "7 closed - 11 - - - no",
            "8 2 98 - - - - maybe",
        ]
    );
    let inodes = |query: &Query<'_>| {
        let rows = list(&facts, "socket", query).rows;
        rows.into_iter().map(|r| r.subject.to_string().replace("socket:", "")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(inodes(&Query { pids: &[10], ..Query::default() }), "1 3", "the other end is not used");
    assert_eq!(inodes(&Query { orphans: true, ..Query::default() }), "8");
    assert_eq!(inodes(&Query { sort: Some(("peer", false)), ..Query::default() }), "2 1 8 3 4 5 6 7");
    facts.open.complete = false;
    assert_eq!(list(&facts, "socket", &Query::default()).rows[7].orphan, Orphan::Unknown);
    facts.open.sockets = None;
    assert!(!list(&facts, "socket", &Query::default()).collected);
}

#[test]
fn columns_sorting_and_filters() {
    let mut facts = facts(vec![process(10, "worker", 500)]);
    facts.inventory.sem_sets = vec![
        set(3, 100, &[(0, 10, 0)]),
        set(1, 50, &[(1, 9, 0), (2, 0, 0)]),
        SemSetRow { ns: 7, ..set(1, 70, &[(0, 9, 0)]) },
    ];
    let columns = ["id".to_owned(), "nsems".to_owned(), "capacity".to_owned()];
    let ids = |q: Query<'_>| list(&facts, "sem", &q).rows.iter().map(|r| r.subject.to_string()).collect::<Vec<_>>();
    let (a, b, c) = (format!("sem:3@{NS}"), format!("sem:1@{NS}"), "sem:1@7".to_owned());
    for (query, want) in [
        (Query::default(), vec![&a, &b, &c]),
        (Query { sort: Some(("nsems", true)), ..Query::default() }, vec![&b, &a, &c]),
        (Query { sort: Some(("idle", false)), ..Query::default() }, vec![&b, &c, &a]),
        (Query { orphans: true, ..Query::default() }, vec![&b, &c]),
        (Query { ns: Some(7), ..Query::default() }, vec![&c]),
        (Query { pids: &[10], ..Query::default() }, vec![&a]),
        (Query { pids: &[9], ..Query::default() }, vec![]),
        (Query { subject: Some(&"sem:1".parse().expect("subject")), ..Query::default() }, vec![&b]),
        (Query { subject: Some(&"sem:1@7".parse().expect("subject")), ..Query::default() }, vec![&c]),
    ] {
        assert_eq!(ids(query).iter().collect::<Vec<_>>(), want, "{query:?}");
    }
    let table = list(&facts, "sem", &Query { columns: Some(&columns), ..Query::default() });
    assert_eq!(table.heads.iter().map(|h| h.name).collect::<Vec<_>>(), ["id", "nsems"], "capacity is a pipe's");
    // Another namespace is shown, our own is not.
    assert!(list(&facts, "sem", &Query::default()).heads.iter().any(|h| h.name == "ns"));
    assert!(!list(&facts, "sem", &Query { ns: Some(NS), ..Query::default() }).heads.iter().any(|h| h.name == "ns"));
}

#[test]
fn hostile_names_reach_no_terminal() {
    let name = "a\u{1b}[2J\n\u{202e}b";
    let mut facts = facts(vec![process(10, name, 500)]);
    facts.inventory.sem_sets = vec![set(1, 100, &[(0, 10, 0)])];
    facts.posix = vec![posix(name, vec![], true)];
    facts.problems = vec![name.into()];
    let model = Model::new(&facts);
    let tables: Vec<Table> =
        ["sem", "posix-sem"].iter().map(|k| list(&facts, k, &Query { everything: true, ..Query::default() })).collect();
    let shown = show(&model, &"sem:1".parse().expect("subject"), &Surroundings::default()).expect("shown");
    for text in [
        text::render(&tables, None),
        text::render(&tables, Some(60)),
        text::render_shown(&shown, Some(60)),
        text::summary(&tables[1], &tables[1].rows[0]),
        json::render(&model, &tables).expect("json"),
        json::render_lines(&model, &tables).expect("json"),
        json::render_shown(&model, &shown, true).expect("json"),
    ] {
        assert!(!text.chars().any(|c| c != '\n' && super::super::escape::unsafe_to_show(c)), "{text:?}");
    }
    let read: Value = serde_json::from_str(&json::render(&model, &tables).expect("json")).expect("JSON");
    assert_eq!(read["sem"][0]["users"][0]["comm"], name);
    assert_eq!(read["problems"][0], name);
}

#[test]
fn lines_are_aligned_and_cut_to_the_width() {
    let mut facts = facts(vec![process(10, "a-very-long-name-of-a-process-that-uses-it", 500)]);
    facts.inventory.sem_sets = vec![set(3, 100, &[(0, 10, 0)]), set(123_456, 100, &[(0, 9, 0)])];
    let columns = ["id", "key", "users"].map(str::to_owned);
    let table = list(&facts, "sem", &Query { columns: Some(&columns), ..Query::default() });
    let whole = "    ID  KEY         USERS\n     \
                 3  0x00000000  a-very-long-name-of-a-process-that-uses-it(10)\n\
                 123456  0x00000000  9(dead)\n";
    assert_eq!(text::render(std::slice::from_ref(&table), None), whole);
    let cut = text::render(std::slice::from_ref(&table), Some(40));
    assert!(cut.lines().all(|l| l.chars().count() <= 40) && cut.contains("a-very-long-name-of…"), "{cut}");
    // Nothing more can be cut.
    assert!(text::render(&[table], Some(1)).contains("123456  0x00000000"));
}

#[test]
fn an_object_with_many_users_does_not_widen_the_lines_of_others() {
    let holder =
        |tgid| Holder { tgid, start_ns: 0, comm: String::new(), fd: 1, reads: Some(false), writes: Some(true) };
    let held_by = |id, pids: std::ops::Range<u32>| OpenObject {
        id,
        holders: pids.map(holder).collect(),
        ..OpenObject::default()
    };
    let mut facts = facts(Vec::new());
    facts.open.pipes = vec![held_by(7, 1..2), held_by(8, 1..5_000), held_by(9, 1..2)];
    let text = text::render(&[list(&facts, "pipe", &Query::default())], None);
    let lengths: Vec<usize> = text.lines().map(str::len).collect();
    assert!(matches!(lengths[..], [_, short, long, last] if short < 200 && last < 200 && long > 20_000), "{lengths:?}");
    assert!(text.contains("4999(dead)"), "nothing is cut where there is no terminal");
}

#[test]
fn json_types_are_the_contract() {
    let mut facts = facts(vec![process(10, "worker", 500)]);
    let row = SemSetRow { key: -1, otime: 0, ..set(32768, 100, &[(5, 10, 0)]) };
    facts.inventory.sem_sets = vec![row, SemSetRow { nsems: 100, ..set(2, 1, &[]) }];
    let holder = Holder {
        tgid: 10,
        start_ns: NOW_NS - 500_000_000_000,
        comm: String::new(),
        fd: 3,
        reads: Some(true),
        writes: None,
    };
    let object = OpenObject { id: 8812, counter: Some(u64::MAX - 1), fill: None, holders: vec![holder] };
    facts.open =
        DescriptorSnapshot { pipes: vec![object.clone()], eventfds: vec![object], ..DescriptorSnapshot::default() };
    let model = Model::new(&facts);
    let all = Query { everything: true, ..Query::default() };
    let tables: Vec<Table> = ["sem", "pipe", "eventfd"].iter().map(|k| list(&facts, k, &all)).collect();
    let v: Value = serde_json::from_str(&json::render(&model, &tables).expect("json")).expect("JSON");
    assert_eq!(v["schema"], 1);
    let set = &v["sem"][0];
    assert_eq!((&set["id"], &set["key"], &set["perms"]), (&32768.into(), &"0xffffffff".into(), &"0600".into()));
    assert_eq!((&set["otime"], &set["ctime"]), (&Value::Null, &"2023-11-14T22:11:40.000Z".into()));
    assert_eq!((&set["values"][0], &set["idle"], &set["last_pids"][0]), (&5.into(), &100.into(), &10.into()));
    assert_eq!((&set["users"][0]["role"], &set["users"][0]["alive"]), (&"last-op".into(), &true.into()));
    let unread = &v["sem"][1];
    assert!(unread["values"].is_null() && unread["ncnt"].is_null() && unread["orphan"].is_null());
    assert_eq!(v["eventfd"][0]["counter"], "18446744073709551614");
    let pipe = &v["pipe"][0];
    assert_eq!((&pipe["readers"][0], pipe["writers"].as_array().map(Vec::len)), (&10.into(), Some(0)));
    assert!(pipe["capacity"].is_null() && pipe["fill"].is_null());
    let lines = json::render_lines(&model, &tables).expect("json");
    let kinds: Vec<String> = lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["kind"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(kinds, ["sem", "sem", "pipe", "eventfd"]);
}

#[test]
fn limits_with_their_use() {
    let mut facts = facts(vec![]);
    facts.inventory.sem_limits = vec![SemLimitRow {
        ns: NS,
        semmsl: 32_000,
        semmns: 1_000,
        semopm: 500,
        semmni: 128,
        used_sets: 64,
        used_sems: 0,
    }];
    facts.inventory.sem_sets = vec![set(1, 1, &[(0, 0, 0), (0, 0, 0)])];
    let table = list(&facts, "limits", &Query::default());
    let value = |limit: &str, column: &str| {
        let row = table.rows.iter().find(|r| table.value(r, "limit") == Some(&Cell::text(limit))).expect("limit");
        table.value(row, column).cloned()
    };
    assert_eq!(value("SEMMNI", "percent"), Some(Cell::Number(50)));
    assert_eq!((value("SEMMSL", "used"), value("SEMOPM", "used")), (Some(Cell::Number(2)), Some(Cell::Unknown)));
    // 0 means "not read", not a limit of 0.
    assert_eq!(value("pid_max", "max"), Some(Cell::Unknown));
}

#[test]
fn names_of_objects() {
    for (text, want) in [
        ("sem:32768", Some("sem:32768")),
        ("sems:0", Some("sem:0")),
        ("shm:655370@4026531839", Some("shm:655370@4026531839")),
        ("mq:jobs", Some("mq:/jobs")),
        ("posix-sem:/a b", Some("posix-sem:/a b")),
        ("pid:4121", Some("pid:4121")),
        ("pipe:8812", Some("pipe:8812")),
        ("pipe:8812@1", None),
        ("sem:-1", None),
        ("sem:2147483648", None),
        ("sem:1@x", None),
        ("mq:/", None),
        ("mq:../x", None),
        ("posix-shm:a/b", None),
        ("limits:SEMMNI", None),
        ("nothing:1", None),
        ("32768", None),
        ("", None),
    ] {
        assert_eq!(text.parse::<Subject>().ok().map(|s| s.to_string()).as_deref(), want, "{text}");
    }
}

#[test]
fn ftok_in_reverse() {
    // ftok of a file with st_dev 0x801, st_ino 0x1234567 and project id 'A' (glibc, sysvipc/ftok.c).
    let key = Key::of(0x4101_4567).expect("key");
    assert_eq!(key, Key { proj: b'A', dev: 1, ino: 0x4567 });
    assert!(key.fits(0x801, 0x123_4567) && !key.fits(0x802, 0x123_4567) && !key.fits(0x801, 0x123_4568));
    assert!(hint(key).contains("project id 65 ('A')"));
    assert_eq!(Key::of(-1).map(|k| k.proj), Some(255));
    assert_eq!(Key::of(0), None);
}
