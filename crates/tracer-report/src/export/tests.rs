//! Exports one stream of hostile names to every format and reads the output back with readers of the format.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::RowAccessor;
use prost::Message;
use serde_json::Value;
use tracer_common::event::{Body, EventfdCreate, Header, PosixCreate, Stall, UNKNOWN};
use tracer_common::map::{ObjRef, kind};
use tracer_common::site::Site;
use tracer_common::state::PipeState;
use tracer_common::syscall::Syscall;

use super::proto::{Argument, Data, EventType, Trace, TrackDescriptor, TrackEvent};
use super::*;
use crate::escape::unsafe_to_show;
use tracer_analysis::analyst::Analyst;
use tracer_analysis::fixture::{MS, S, START};
use tracer_record::decode::header_bytes;
use tracer_record::{BlockedThread, Frame, ObjKey, Place, ProcessRow, Record, Releaser, ThreadRow, WaitRow, Way};

const EVIL: &str = "=1;\u{1b}[2J\"\r\n<b>";
const SCRIPT: &str = "<script>alert(\"1\")</script>,';|\u{202e}\u{2028}\0\u{7f}";

/// A sink whose contents can be read afterwards.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink whose reader closes after some bytes.
struct Gone(usize);

impl Write for Gone {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn kernel(at_ms: u64, tid: u32, comm: &[u8], site: Site, stack: i32, body: Body) -> Record {
    let mut payload = Vec::new();
    let kind = body.encode(|b| payload.extend_from_slice(b));
    let mut name = [0; 16];
    name.iter_mut().zip(comm).for_each(|(to, from)| *to = *from);
    let header = Header {
        ts_ns: START + at_ms * MS,
        start_ns: START - S,
        kind,
        site: site as u16,
        tgid: 100,
        tid,
        stack,
        comm: name,
        ..Header::default()
    };
    let mut bytes = header_bytes(&header);
    bytes.extend(payload);
    Record::Kernel(bytes)
}

fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    out
}

/// Pipe 7, which 100 fills and 200 does not read.
const PIPE: ObjKey = ObjKey { kind: kind::PIPE, ns: 0, id: 7 };

fn stream() -> Vec<Record> {
    let session = Session {
        tool_version: "0.1.0".into(),
        host: SCRIPT.into(),
        kernel: "6.18".into(),
        arch: "x86_64".into(),
        start_ns: START,
        wall_ns: 1_700_000_000 * S,
        min_stall_ns: 100 * MS,
        target: "all".into(),
        ..Session::default()
    };
    let row = |tgid, comm: &str| ProcessRow {
        tgid,
        start_ns: START - S,
        comm: comm.into(),
        state: 'S',
        ..ProcessRow::default()
    };
    let state = PipeState { capacity_slots: 16, used_slots: 4, used_bytes: 9000 };
    let stall = Stall {
        obj: ObjRef { kind: PIPE.kind, ns: PIPE.ns, id: PIPE.id },
        state: state.into(),
        since_ns: START + 100 * MS,
        until_ns: START + 400 * MS,
        ret: -11,
        fd: 5,
        call: Syscall::Write as u16,
        reader_running_ns: UNKNOWN,
        ..Stall::default()
    };
    let wait = WaitRow {
        obj: PIPE,
        way: Way::Give,
        fd: 5,
        name: "pipe:[7]".into(),
        releasers: vec![Releaser { tgid: 200, start_ns: START - S }],
        complete: true,
        ..WaitRow::default()
    };
    let thread = |tgid, waits| ThreadRow {
        tgid,
        start_ns: START - S,
        tid: tgid,
        comm: EVIL.into(),
        state: 'S',
        waits,
        ..ThreadRow::default()
    };
    let named = |name: &str| Place { function: Some(name.into()), ..Place::default() };
    vec![
        Record::Session(session),
        // A kernel never reports this, but a trace may contain it.
        Record::Process { ts_ns: START, row: row(200, &"x".repeat(255)) },
        Record::Process { ts_ns: START, row: row(100, EVIL) },
        kernel(
            1,
            100,
            EVIL.as_bytes(),
            Site::EventfdCreate,
            1,
            Body::EventfdCreate(EventfdCreate { id: 3, initial: u64::MAX - 1, fd: 4, flags: 0 }),
        ),
        kernel(
            2,
            101,
            b"\xff\xfe;\n",
            Site::PosixCreate,
            2,
            Body::PosixCreate(PosixCreate {
                obj: ObjRef { kind: kind::MQ, ns: 1, id: 9 },
                exact: 1,
                _pad: 0,
                name: padded(SCRIPT.as_bytes()),
            }),
        ),
        Record::Stack {
            id: 1,
            frames: vec![Frame { addr: 1, module: Some("/bin/a;b\n".into()), offset: Some(2) }; 2],
            unwound: 2,
        },
        Record::SameStack { id: 2, of: 1 },
        Record::Symbols { id: 1, places: vec![vec![named(SCRIPT)], vec![named("f;g h\n")]] },
        Record::Threads { ts_ns: START + 300 * MS, rows: vec![thread(100, vec![wait]), thread(200, vec![])] },
        kernel(400, 100, EVIL.as_bytes(), Site::PipeWrite, 1, Body::Stall(stall)),
        Record::Kernel(vec![1, 2, 3]),
        Record::Blocked {
            ts_ns: START + S,
            threads: vec![BlockedThread {
                obj: PIPE,
                state: state.into(),
                tgid: 100,
                tid: 100,
                start_ns: START - S,
                since_ns: START + 500 * MS,
                comm: EVIL.into(),
                call: Syscall::Write as u8,
                fd: 5,
                estimated: false,
                reader: None,
                stack: None,
            }],
        },
        Record::Lost { ts_ns: START + S, site: Site::PipeWrite as u16, count: 3 },
        Record::Tick { ts_ns: START + S },
        Record::End { ts_ns: START + 2 * S },
    ]
}

fn run(format: Format, table: Table, weight: Weight, out: Box<dyn Write + Send>) -> io::Result<()> {
    let mut analyst = Analyst::default();
    let records = stream();
    let Some(Record::Session(session)) = records.first() else { unreachable!("the first is the session") };
    let mut export = begin(format, table, weight, session, out)?;
    for record in &records {
        let mut done = Ok(());
        analyst.take_and(record, |model, event| done = export.record(model, record, event));
        done?;
    }
    let findings = analyst.findings();
    assert!(findings.iter().any(|f| f.title.contains("=1;")), "{findings:?}");
    export.finish(analyst.model().expect("model"), &findings)
}

fn exported(format: Format, table: Table, weight: Weight) -> Vec<u8> {
    let out = Shared::default();
    run(format, table, weight, Box::new(out.clone())).expect("export");
    let bytes = out.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(!bytes.is_empty());
    bytes
}

fn text_of(format: Format, table: Table) -> String {
    let text = String::from_utf8(exported(format, table, Weight::Events)).expect("UTF-8");
    let raw: String = text.chars().filter(|c| *c != '\n' && *c != '\r' && unsafe_to_show(*c)).collect();
    assert!(raw.is_empty(), "{raw:?} in {text}");
    text
}

#[test]
fn json_lines_have_all_columns_and_unchanged_names() {
    let rows: Vec<Value> =
        text_of(Format::Jsonl, Table::Events).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    for row in &rows {
        assert_eq!(row.as_object().map(serde_json::Map::len), Some(EventRow::COLUMNS.len()));
    }
    let kind = |kind: &str| rows.iter().find(|r| r["kind"] == kind).expect("a row of this kind");
    assert_eq!(kind("eventfd_create")["comm"], EVIL);
    assert_eq!(kind("posix_create")["comm"], "\u{fffd}\u{fffd};\n");
    assert_eq!(kind("process")["comm"], "x".repeat(255));
    assert_eq!(kind("posix_create")["payload"]["name"], format!("{}\u{fffd}", &SCRIPT[..31]));
    let stall = kind("stall");
    for (column, want) in [
        ("time_ns", (START + 400 * MS).into()),
        ("time", Value::from("2023-11-14T22:13:20.400000000Z")),
        ("source", "kernel".into()),
        ("mechanism", "pipe".into()),
        ("site", "pipe_write".into()),
        ("call", "write".into()),
        ("result", (-11).into()),
        ("errno", 11.into()),
        ("duration_ns", (300 * MS).into()),
        ("fill", 4.into()),
        ("capacity", 16.into()),
        ("object_id", 7.into()),
        ("object_ns", Value::Null),
        ("stack", 1.into()),
    ] {
        assert_eq!(stall[column], want, "{column}");
    }
    assert!(kind("stack")["time_ns"].is_null() && kind("eventfd_create")["duration_ns"].is_null());
    let findings = text_of(Format::Jsonl, Table::Findings);
    let first: Value = serde_json::from_str(findings.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&first["code"], &first["pid"], first["processes"].is_array()),
        (&"pipe-stall".into(), &100.into(), true)
    );
}

#[test]
fn csv_can_be_read_back_and_contains_no_formula() {
    for table in [Table::Events, Table::Findings] {
        let text = text_of(Format::Csv, table);
        assert!(text.ends_with("\r\n"));
        // Names cannot add lines.
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let names: Vec<String> = reader.headers().expect("names").iter().map(str::to_owned).collect();
        assert_eq!(names, table.columns().iter().map(|c| c.name).collect::<Vec<_>>());
        let rows: Vec<::csv::StringRecord> = reader.records().map(|r| r.expect("a row")).collect();
        assert_eq!(text.lines().count(), rows.len() + 1);
        for row in &rows {
            for (cell, column) in row.iter().zip(table.columns()) {
                let number = matches!(column.kind, ColumnType::Signed | ColumnType::Unsigned);
                assert!(!cell.starts_with(['=', '+', '@']) && (number || !cell.starts_with('-')), "{cell}");
            }
        }
        if table == Table::Events {
            assert!(rows.iter().any(|r| r.iter().any(|cell| cell.starts_with("'=1;\\x1b[2J\"\\x0d\\x0a"))));
            let fd = names.iter().position(|n| n == "fd").expect("fd");
            assert!(rows.iter().any(|r| &r[fd] == "5") && rows.iter().any(|r| r[fd].is_empty()));
        }
    }
}

#[test]
fn parquet_can_be_read_back() {
    let bytes = ::bytes::Bytes::from(exported(Format::Parquet, Table::Events, Weight::Events));
    let reader = SerializedFileReader::new(bytes).expect("a file");
    let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|r| r.expect("a row")).collect();
    let at = |name: &str| EventRow::COLUMNS.iter().position(|c| c.name == name).expect("a column");
    let (kind, comm, id) = (at("kind"), at("comm"), at("object_id"));
    let row = |wanted: &str| rows.iter().find(|r| r.get_string(kind).is_ok_and(|k| k == wanted)).expect("a row");
    assert_eq!(row("eventfd_create").get_string(comm).expect("a name"), EVIL);
    assert_eq!(row("process").get_string(comm).expect("a name").len(), 255);
    assert_eq!(row("stall").get_ulong(id).expect("a number"), 7);
    assert!(row("stack").get_ulong(at("time_ns")).is_err(), "null");
    assert_eq!(rows.len(), text_of(Format::Jsonl, Table::Events).lines().count());
    let metadata = reader.metadata().file_metadata().key_value_metadata().expect("metadata");
    assert!(metadata.iter().any(|m| m.key == "host.name" && m.value.as_deref() == Some(SCRIPT)));
}

#[test]
fn parquet_row_groups_are_bounded() {
    let out = Shared::default();
    let mut sink = parquet::Parquet::new(FindingRow::COLUMNS, &Session::default(), Box::new(out.clone())).expect("new");
    let row = FindingRow { title: Some("x".repeat(1 << 20).into()), ..FindingRow::default() };
    for _ in 0..40 {
        sink.row(&row.cells()).expect("row");
    }
    sink.end().expect("end");
    let bytes = ::bytes::Bytes::from(out.0.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let reader = SerializedFileReader::new(bytes).expect("a file");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 40);
    assert_eq!(reader.num_row_groups(), 3);
}

#[test]
fn folded_lines_are_frames_and_a_number() {
    let lines = |weight| {
        let text = String::from_utf8(exported(Format::Folded, Table::Events, weight)).expect("UTF-8");
        assert!(!text.chars().any(|c| c != '\n' && unsafe_to_show(c)), "{text}");
        let lines: Vec<(String, u64)> = text
            .lines()
            .map(|l| {
                l.rsplit_once(' ').map(|(frames, n)| (frames.to_owned(), n.parse().expect("a number"))).expect("two")
            })
            .collect();
        lines
    };
    let events = lines(Weight::Events);
    let creators: Vec<_> = events.iter().filter(|(frames, _)| frames.starts_with("creator;")).collect();
    // Role, program, two functions: a name cannot add frames.
    assert!(creators.iter().all(|(frames, n)| frames.split(';').count() == 4 && *n == 1), "{events:?}");
    assert_eq!(creators.len(), 2);
    assert!(
        creators.iter().all(|(frames, _)| frames.contains(";f:g h\\x0a;<script>")),
        "outermost first: {creators:?}"
    );
    let ns = lines(Weight::Ns);
    assert_eq!(ns.iter().map(|(_, n)| n).sum::<u64>(), (300 + 500) * MS, "{ns:?}");
    assert!(ns.iter().all(|(frames, _)| frames.starts_with("blocked;")));
}

#[test]
fn otlp_follows_the_json_mapping() {
    let text = text_of(Format::Otlp, Table::Events);
    let requests: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let resource = &requests[0]["resourceLogs"][0];
    let attribute = |of: &Value, key: &str| {
        let all = of["attributes"].as_array().expect("attributes");
        all.iter().find(|a| a["key"] == key).map(|a| a["value"].clone())
    };
    assert_eq!(attribute(&resource["resource"], "host.name").expect("host")["stringValue"], SCRIPT);
    assert_eq!(attribute(&resource["resource"], "host.arch").expect("arch")["stringValue"], "amd64");
    assert_eq!(resource["scopeLogs"][0]["scope"]["name"], "ipctrace");
    let logs = resource["scopeLogs"][0]["logRecords"].as_array().expect("records");
    let named = |name: &str| logs.iter().find(|l| l["eventName"] == name).expect("a record");
    let stall = named("ipctrace.stall");
    assert_eq!(stall["timeUnixNano"], "1700000000400000000");
    assert_eq!(stall["severityNumber"], 9);
    assert_eq!(attribute(stall, "process.pid").expect("pid")["intValue"], "100");
    assert_eq!(attribute(stall, "thread.name").expect("comm")["stringValue"], EVIL);
    assert_eq!(attribute(stall, "ipctrace.result").expect("result")["intValue"], "-11");
    assert_eq!(attribute(stall, "ipctrace.object.ns"), None, "no null");
    assert!(named("ipctrace.stack").get("timeUnixNano").is_none());
    assert_eq!(named("ipctrace.lost")["severityText"], "WARN");
    let finding = named("ipctrace.finding");
    assert!(finding["body"]["stringValue"].as_str().is_some_and(|title| title.contains("blocked")));
}

#[test]
fn otlp_requests_are_bounded() {
    let out = Shared::default();
    let mut otlp: Box<dyn Export> = Box::new(otlp::Otlp::new(&Session::default(), Box::new(out.clone())).expect("new"));
    let model = Model::new(&Session::default());
    for ts_ns in 0..2000 {
        otlp.record(&model, &Record::Tick { ts_ns }, None).expect("event");
    }
    otlp.finish(&model, &[]).expect("finish");
    let bytes = out.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let counts: Vec<usize> = String::from_utf8(bytes)
        .expect("UTF-8")
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"))
        .map(|r| r["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(counts, [512, 512, 512, 464]);
}

type TimedEvent<'a> = (u64, &'a TrackEvent);

/// The tracks and events of a trace. Each track must be described before its use.
fn tracks_and_events(trace: &Trace) -> (Vec<&TrackDescriptor>, Vec<TimedEvent<'_>>) {
    let (mut tracks, mut events): (Vec<&TrackDescriptor>, Vec<TimedEvent<'_>>) = (Vec::new(), Vec::new());
    for packet in &trace.packet {
        assert_eq!(packet.trusted_packet_sequence_id, Some(1));
        match packet.data.as_ref().expect("data") {
            Data::ClockSnapshot(c) => {
                assert_eq!(
                    c.clocks.iter().map(|c| (c.clock_id, c.timestamp)).collect::<Vec<_>>(),
                    [(Some(6), Some(START)), (Some(1), Some(1_700_000_000 * S)),]
                );
            }
            Data::TrackDescriptor(t) => tracks.push(t),
            Data::TrackEvent(e) => {
                assert_eq!(packet.timestamp_clock_id, Some(6), "BOOTTIME");
                let described = tracks.iter().any(|t| t.uuid == e.track_uuid);
                assert!(described, "a track is described before its use: {e:?}");
                events.push((packet.timestamp.expect("a time"), e));
            }
        }
    }
    (tracks, events)
}

#[test]
fn perfetto_has_tracks_slices_flows_counters_and_findings() {
    let bytes = exported(Format::Perfetto, Table::Events, Weight::Events);
    let trace = Trace::decode(bytes.as_slice()).expect("a trace");
    let (tracks, events) = tracks_and_events(&trace);
    let thread = |tid| tracks.iter().find(|t| t.thread.as_ref().is_some_and(|t| t.tid == Some(tid))).expect("a track");
    let (writer, reader) = (thread(100), thread(200));
    assert_eq!(writer.thread.as_ref().and_then(|t| t.thread_name.as_deref()), Some("=1;\\x1b[2J\"\\x0d\\x0a<b>"));
    let process =
        tracks.iter().find(|t| t.uuid == writer.parent_uuid).and_then(|t| t.process.as_ref()).expect("process");
    assert_eq!((process.pid, process.process_name.is_some()), (Some(100), true));

    let is = |e: &TrackEvent, kind: EventType| e.r#type == Some(kind.into());
    let begins: Vec<_> = events.iter().filter(|(_, e)| is(e, EventType::SliceBegin)).collect();
    let ends: Vec<_> = events.iter().filter(|(_, e)| is(e, EventType::SliceEnd)).collect();
    // The second wait is ongoing.
    assert_eq!(begins.iter().map(|(ts, _)| *ts).collect::<Vec<_>>(), [START + 100 * MS, START + 500 * MS]);
    assert_eq!(ends.iter().map(|(ts, _)| *ts).collect::<Vec<_>>(), [START + 400 * MS]);
    for (_, e) in &begins {
        assert_eq!((e.track_uuid, e.categories.as_slice()), (writer.uuid, &["pipe".to_owned()][..]));
        let argument = |name: &str| e.debug_annotations.iter().find(|a| a.name.as_deref() == Some(name));
        let object = argument("object").and_then(|a| a.value.clone());
        assert_eq!(object, Some(Argument::Text("pipe:[7]".into())));
        assert!(argument("call").is_some());
        let [flow] = e.flow_ids.as_slice() else { panic!("one flow: {e:?}") };
        let (_, end) = events.iter().find(|(_, e)| e.terminating_flow_ids == [*flow]).expect("the flow's end");
        assert_eq!(end.track_uuid, reader.uuid);
    }
    let counter = tracks.iter().find(|t| t.name.as_deref() == Some("pipe:[7] fill")).expect("a counter");
    assert_eq!(counter.counter.as_ref().and_then(|c| c.unit_name.as_deref()), Some("slots"));
    let values = events.iter().filter(|(_, e)| e.track_uuid == counter.uuid).map(|(_, e)| e.counter_value);
    assert_eq!(values.collect::<Vec<_>>(), [Some(4), Some(4)]);
    let findings = tracks.iter().find(|t| t.name.as_deref() == Some("ipctrace findings")).expect("a track");
    let found = events.iter().find(|(_, e)| e.track_uuid == findings.uuid).expect("a finding");
    assert_eq!((found.1.name.as_deref(), found.0 >= START), (Some("pipe-stall"), true));

    // No string in it could mislead a terminal.
    let strings = events.iter().flat_map(|(_, e)| {
        e.name.iter().cloned().chain(
            e.debug_annotations
                .iter()
                .filter_map(|a| if let Some(Argument::Text(text)) = &a.value { Some(text.clone()) } else { None }),
        )
    });
    assert!(strings.into_iter().all(|s| !s.chars().any(unsafe_to_show)));
}

#[test]
fn a_closed_reader_is_a_broken_pipe_and_nothing_panics() {
    for format in [Format::Perfetto, Format::Parquet, Format::Jsonl, Format::Csv, Format::Folded, Format::Otlp] {
        for bytes in [0, 3, 100] {
            let end = run(format, Table::Events, Weight::Events, Box::new(Gone(bytes)));
            let kind = end.map_err(|e| e.kind());
            assert!(matches!(kind, Err(io::ErrorKind::BrokenPipe)), "{format:?} {bytes}: {kind:?}");
        }
    }
}
