//! Round trips, and every way in which a trace can be broken.

use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::format::{CHUNK_MAX, HEADER_LEN, TAG_MAX, tag};
use super::*;
use crate::output_file::OutputFileError;
use tracer_record::*;

fn samples() -> Vec<Record> {
    let obj = ObjKey { kind: 2, ns: 0, id: u64::MAX };
    let comm = "a\nb\u{1b}[2J\u{fffd}".to_owned();
    let row = ProcessRow { tgid: 7, comm: comm.clone(), state: 'Z', ns_pid: Some(1), ..ProcessRow::default() };
    let inventory = Inventory {
        ts_ns: 5,
        processes: vec![row.clone()],
        sem_sets: vec![SemSetRow {
            key: -1,
            values: vec![SemValue { value: 3, ..SemValue::default() }],
            ..SemSetRow::default()
        }],
        shm_segments: vec![ShmSegment { key: -1, dest: true, attached: vec![7], ..ShmSegment::default() }],
        shm_limits: vec![ShmLimitRow { shmall: u64::MAX, ..ShmLimitRow::default() }],
        msg_queues: vec![MsgQueue { waiting: vec![7], waiting_complete: true, ..MsgQueue::default() }],
        ..Inventory::default()
    };
    vec![
        Record::Session(Session { kernel: "6.18".into(), wall_ns: u64::MAX, ..Session::default() }),
        Record::Kernel(vec![0, 255, 1, 2, 3]),
        Record::Kernel(vec![]),
        Record::Baseline(inventory.clone()),
        Record::Blocked { ts_ns: 1, threads: vec![] },
        Record::Tick { ts_ns: 2 },
        Record::Lost { ts_ns: 3, site: 4, count: 5 },
        Record::Refused { ts_ns: 1, rows: vec![] },
        Record::Children { ts_ns: 1, rows: vec![ChildRow::new(9, &Default::default())] },
        Record::Holders {
            ts_ns: 1,
            obj,
            holders: vec![Holder { tgid: 1, start_ns: 2, comm, fd: 3, reads: None, writes: Some(true) }],
            complete: false,
        },
        Record::FdTable(FdTable { fds: vec![(3, "/tmp/x".into())], ..FdTable::default() }),
        Record::Process { ts_ns: 1, row },
        Record::ForkLimits { ts_ns: 1, tgid: 2, limits: vec![LimitRow { name: "pid_max".into(), used: 1, max: 2 }] },
        Record::PipeUser { ts_ns: 1, uid: 0, processes: vec![], soft_pages: 16384 },
        Record::Queues { ts_ns: 1, rows: vec![MsgQueue { qbytes: u64::MAX, ..MsgQueue::default() }] },
        Record::Stack { id: -1, frames: vec![Frame { addr: u64::MAX, ..Frame::default() }], unwound: 1 },
        Record::SameStack { id: i32::MAX, of: -1 },
        Record::Symbols {
            id: -1,
            places: vec![vec![], vec![Place { function: Some("a\u{1b}".into()), line: Some(1), ..Place::default() }]],
        },
        Record::Closing(inventory),
        Record::Sockets { ts_ns: 8, rows: vec![SocketRow { peer: Some(u64::MAX), ..SocketRow::default() }] },
        Record::Futexes { ts_ns: 8, rows: vec![FutexRow { owner_tid: 7, ..FutexRow::default() }] },
        Record::Threads { ts_ns: 8, rows: vec![ThreadRow { waits: vec![WaitRow::default()], ..ThreadRow::default() }] },
        Record::Readers { ts_ns: 8, rows: vec![ReaderSampleRow { state: 'D', ..ReaderSampleRow::default() }] },
        Record::End { ts_ns: 9 },
    ]
}

fn written(records: &[Record], flush_each: bool) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("t");
    let mut writer = Writer::create(&path, false).expect("create");
    for record in records {
        writer.push(record).expect("push");
        if flush_each {
            writer.flush().expect("flush");
        }
    }
    assert_eq!(writer.dropped(), 0);
    writer.finish().expect("finish");
    std::fs::read(path).expect("read")
}

/// (records, error, torn) of these bytes.
fn read(bytes: &[u8]) -> (Vec<Record>, Option<TraceError>, Option<u64>) {
    let mut reader = match Reader::new(Cursor::new(bytes)) {
        Ok(reader) => reader,
        Err(e) => return (vec![], Some(e), None),
    };
    let (mut records, mut error) = (vec![], None);
    for record in &mut reader {
        match record {
            Ok(record) => records.push(record),
            Err(e) => error = Some(e),
        }
    }
    assert!(reader.next().is_none(), "it ends after the end");
    (records, error, reader.torn())
}

fn chunk(raw: &[u8]) -> Vec<u8> {
    let data = zstd::bulk::compress(raw, 1).expect("compress");
    let mut out = (data.len() as u32).to_le_bytes().to_vec();
    out.extend(crc32fast::hash(&data).to_le_bytes());
    out.extend(data);
    out
}

fn record(tag: u8, len: u32, payload: &[u8]) -> Vec<u8> {
    [&[tag], &len.to_le_bytes()[..], payload].concat()
}

fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    [MAGIC.as_slice(), &VERSION.to_le_bytes(), &[0; 4], &chunks.concat()].concat()
}

#[test]
fn every_kind_of_record_comes_back() {
    let records = samples();
    let tags: std::collections::BTreeSet<u8> = records.iter().map(tag).collect();
    assert_eq!(tags, (1..=TAG_MAX).collect(), "samples cover every tag");
    for flush_each in [false, true] {
        let bytes = written(&records, flush_each);
        let mut reader = Reader::new(Cursor::new(bytes.as_slice())).expect("open");
        let back: Vec<Record> = (&mut reader).map(|r| r.expect("record")).collect();
        assert_eq!(back, records);
        assert_eq!((reader.torn(), reader.ended(), reader.unknown()), (None, true, 0));
    }
}

#[test]
fn an_unknown_field_is_ignored() {
    let session = Session { kernel: "6.18".into(), ..Session::default() };
    let now = serde_json::to_string(&Record::Session(session.clone())).expect("JSON");
    let then = now.replace("\"self_pid\":", "\"truncated\":false,\"self_pid\":");
    assert_ne!(then, now);
    let bytes = file(&[chunk(&record(2, then.len() as u32, then.as_bytes()))]);
    let (records, error, torn) = read(&bytes);
    assert!(error.is_none() && torn.is_none(), "{error:?}");
    assert_eq!(records, [Record::Session(session)]);
}

#[test]
fn cut_at_every_byte() {
    let records = samples();
    let bytes = written(&records, true);
    let mut ends = vec![16];
    while let Some(len) = bytes.get(ends[ends.len() - 1]..).filter(|b| !b.is_empty()) {
        let len = u32::from_le_bytes(len[..4].try_into().expect("4 bytes")) as usize;
        ends.push(ends[ends.len() - 1] + 8 + len);
    }
    assert_eq!(ends.len(), records.len() + 1);
    for cut in 0..=bytes.len() {
        let (got, error, torn) = read(&bytes[..cut]);
        if cut == 0 {
            assert!(matches!(error, Some(TraceError::NotATrace { .. })));
            continue;
        }
        assert!(error.is_none(), "cut at {cut}: {error:?}");
        let whole = ends.iter().filter(|e| **e <= cut).count().saturating_sub(1);
        assert_eq!(got, records[..whole], "cut at {cut}");
        let want = if ends.contains(&cut) { None } else { Some(if cut < 16 { 0 } else { ends[whole] as u64 }) };
        assert_eq!(torn, want, "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_is_never_read_as_something_else() {
    let records = samples();
    let bytes = written(&records, true);
    for at in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let (got, error, torn) = read(&bad);
            assert_eq!(got, records[..got.len()], "byte {at}");
            let reserved = (12..16).contains(&at);
            // The version before is read as well.
            let older = (at, bit) == (8, 0);
            assert!(reserved || older || error.is_some() || torn.is_some(), "byte {at} bit {bit} unnoticed");
            match error {
                Some(TraceError::NotATrace { .. }) => assert!(at < 8),
                Some(TraceError::Version { .. }) => assert!((8..12).contains(&at)),
                Some(TraceError::Corrupt { offset, .. }) => assert!(offset <= at as u64),
                None => {}
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn hostile_lengths() {
    let tick = record(5, 0, b"");
    for (name, bytes, want) in [
        ("chunk of 4 GiB, then more", file(&[vec![0xff; 8], vec![1; 100]]), "impossible length"),
        ("record beyond its chunk", file(&[chunk(&record(1, u32::MAX, b"abc"))]), "longer than its chunk"),
        ("half a record header", file(&[chunk(&[1, 0, 0])]), "longer than its chunk"),
        ("no JSON", file(&[chunk(&tick)]), "cannot be read"),
        ("wrong tag", file(&[chunk(&record(5, 17, br#"{"End":{"ts_ns":1"#))]), "cannot be read"),
        ("other tag", file(&[chunk(&record(5, 19, br#"{"End":{"ts_ns":1}}"#))]), "tagged 5"),
        ("deep JSON", file(&[chunk(&record(5, 9000, &[b'['; 9000]))]), "cannot be read"),
        ("bomb", file(&[chunk(&vec![0; CHUNK_MAX + 1])]), "more than"),
        ("no zstd", file(&[vec![3, 0, 0, 0, 0x48, 0x13, 0x5d, 0x35, 1, 2, 3], chunk(&tick)]), "checksum"),
    ] {
        let (got, error, _) = read(&bytes);
        let error = error.map(|e| e.to_string()).unwrap_or_default();
        assert!(got.is_empty() && error.contains(want) && error.contains("offset 16"), "{name}: {error}");
    }
    let cut = file(&[vec![0xff, 0xff, 0xff, 3, 0, 0, 0, 0, 1, 2, 3]]);
    assert_eq!(read(&cut).2, Some(16), "a long chunk that is not there is a torn tail");
}

#[test]
fn unknown_kinds_are_skipped_and_counted() {
    let known = serde_json::to_vec(&Record::Tick { ts_ns: 1 }).expect("json");
    let raw = [record(200, 3, b"xyz"), record(0, 0, b""), record(5, known.len() as u32, &known)].concat();
    let bytes = file(&[chunk(&raw)]);
    let mut reader = Reader::new(Cursor::new(bytes)).expect("open");
    assert_eq!(reader.next().map(|r| r.expect("tick")), Some(Record::Tick { ts_ns: 1 }));
    assert!(reader.next().is_none());
    assert_eq!((reader.unknown(), reader.ended()), (2, false));
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let mut bytes = written(&samples(), true);
    let whole = bytes.len() as u64;
    bytes.extend(vec![0; 200_000]);
    let (got, error, torn) = read(&bytes);
    assert_eq!((got.len(), error.is_none(), torn), (samples().len(), true, Some(whole)));
}

#[test]
fn other_versions_and_files_are_refused_with_offset() {
    let mut newer = written(&[], false);
    newer[8..12].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let message = |bytes: &[u8]| read(bytes).1.map(|e| e.to_string()).unwrap_or_default();
    assert!(message(&newer).contains(&format!("format {} at offset 8", VERSION + 1)));
    assert!(message(b"#!/bin/sh\necho\n").contains("not an ipctrace trace"));
    assert!(message(b"").contains("offset 0"));
}

#[test]
fn files_are_private_and_never_overwritten() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("t");
    Writer::create(&path, false).expect("create").finish().expect("finish");
    assert_eq!(path.metadata().expect("stat").permissions().mode() & 0o777, 0o600);
    assert!(matches!(Writer::create(&path, false), Err(TraceError::Create(OutputFileError::Exists { .. }))));
    std::fs::write(&path, "old").expect("write");
    let old = std::fs::File::open(&path).expect("open");
    Writer::create(&path, true).expect("replace");
    assert_ne!(old.metadata().expect("stat").ino(), path.metadata().expect("stat").ino(), "replaced, not truncated");
    assert_eq!(std::fs::read(&path).expect("read").len(), HEADER_LEN);
    assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary is left");

    let link = dir.path().join("link");
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").expect("write");
    std::os::unix::fs::symlink(&victim, &link).expect("link");
    let dangling = dir.path().join("dangling");
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &dangling).expect("link");
    for force in [false, true] {
        assert!(matches!(Writer::create(&link, force), Err(TraceError::Create(OutputFileError::Symlink { .. }))));
        assert!(matches!(Writer::create(&dangling, force), Err(TraceError::Create(OutputFileError::Symlink { .. }))));
        assert!(matches!(
            Writer::create(dir.path(), force),
            Err(TraceError::Create(OutputFileError::NotRegular { .. }))
        ));
        assert!(matches!(
            Writer::create(&dir.path().join("no/such"), force),
            Err(TraceError::Create(OutputFileError::Create { .. }))
        ));
    }
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "precious");
}

#[test]
fn a_full_disk_is_reported_once() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("open");
    let mut writer = Writer::on(full);
    writer.push(&Record::Kernel(vec![1])).expect("buffered");
    let error = writer.push(&Record::Tick { ts_ns: 1 }).expect_err("full").to_string();
    assert!(error.contains("No space left") && error.contains("recording stopped"), "{error}");
    writer.push(&Record::Tick { ts_ns: 2 }).expect("silent");
    assert_eq!(writer.dropped(), 3);
    writer.finish().expect("silent");
}

#[test]
fn records_are_on_disk_after_a_tick_or_256_kib() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("t");
    let mut writer = Writer::create(&path, false).expect("create");
    let records = || Reader::open(&path).expect("open").filter(Result::is_ok).count();
    writer.push(&Record::Kernel(vec![7; 1000])).expect("push");
    assert_eq!(records(), 0);
    writer.push(&Record::Tick { ts_ns: 1 }).expect("push");
    assert_eq!(records(), 2);
    for _ in 0..3 {
        writer.push(&Record::Kernel(vec![7; 100_000])).expect("push");
    }
    assert_eq!(records(), 5);
    writer.push(&Record::Kernel(vec![7])).expect("push");
    std::thread::sleep(std::time::Duration::from_millis(1010));
    writer.push(&Record::Kernel(vec![7])).expect("push");
    assert_eq!(records(), 7, "the age of the first record");
    assert_eq!(writer.len_bytes(), path.metadata().expect("stat").len());
}

#[test]
fn huge_records() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("t");
    let mut writer = Writer::create(&path, false).expect("create");
    writer.push(&Record::Kernel(vec![1; 1000])).expect("push");
    writer.push(&Record::Kernel(vec![2; CHUNK_MAX - 500])).expect("its own chunk");
    writer.push(&Record::Kernel(vec![3])).expect("push");
    assert!(matches!(writer.push(&Record::Kernel(vec![4; CHUNK_MAX])), Err(TraceError::TooLarge { .. })));
    writer.push(&Record::Kernel(vec![5])).expect("silent");
    assert_eq!(writer.dropped(), 2);
    writer.finish().expect("finish");
    let lens: Vec<usize> = Reader::open(&path)
        .expect("open")
        .map(|r| if let Record::Kernel(b) = r.expect("record") { b.len() } else { 0 })
        .collect();
    assert_eq!(lens, [1000, CHUNK_MAX - 500, 1]);
}

#[test]
fn an_inventory_from_before_shared_memory_and_queues() {
    let mut json = serde_json::to_value(Inventory { ts_ns: 5, ..Inventory::default() }).expect("write");
    for name in ["shm_segments", "shm_limits", "msg_queues", "msg_limits"] {
        assert!(json.as_object_mut().and_then(|o| o.remove(name)).is_some(), "{name}");
    }
    let read: Inventory = serde_json::from_value(json).expect("read");
    assert_eq!(read, Inventory { ts_ns: 5, ..Inventory::default() });
}
