//! Payloads as JSON: the named fields of a kernel event, or of a row that was read.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;
use tracer_common::event::{Body, Field, UNKNOWN};

use super::table::Json;
use crate::json;
use tracer_record::ObjKey;

/// Payload fields in which 0 means "none" or "not read"; they become null.
const ZERO_IS_NONE: &[&str] = &[
    "reader",
    "reader_start_ns",
    "read_ns",
    "gap_ns",
    "gap_end_ns",
    "peer",
    "parent",
    "parent_start_ns",
    "child_start_ns",
    "start_ns",
    "opener_start_ns",
    "last_pid",
    "last_wait_ns",
    "pid",
    "cpid",
    "lpid",
    "lspid",
    "lrpid",
    "notify_pid",
    "owner_tid",
    "otime",
    "atime",
    "dtime",
    "stime",
    "rtime",
    "qbytes",
    "pid_max",
    "threads_max",
    "pipe_max_size",
    "pipe_user_pages_soft",
];

/// The payload of a kernel event.
pub(super) fn kernel(body: &Body) -> io::Result<Json> {
    json_of(&Fields(body))
}

/// The payload of a row that was read.
pub(super) fn read(record: &impl Serialize) -> io::Result<Json> {
    let mut value = serde_json::to_value(record)?;
    zeros_to_null(&mut value);
    json_of(&value)
}

/// Any value as safe JSON.
pub(super) fn json_of(value: &(impl Serialize + ?Sized)) -> io::Result<Json> {
    let mut out = Vec::with_capacity(128);
    json::compact(&value, &mut out)?;
    String::from_utf8(out).map(Json).map_err(io::Error::other)
}

fn zeros_to_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if value.as_u64() == Some(0) && ZERO_IS_NONE.contains(&name.as_str()) {
                    *value = Value::Null;
                }
                zeros_to_null(value);
            }
        }
        Value::Array(all) => all.iter_mut().for_each(zeros_to_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A number of a payload; `None`: unknown.
fn known(name: &str, n: u64) -> Option<u64> {
    (n != UNKNOWN && (n != 0 || !ZERO_IS_NONE.contains(&name))).then_some(n)
}

/// The payload of a kernel event, as the table of events names its fields.
struct Fields<'a>(&'a Body);

impl Serialize for Fields<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut failed = None;
        self.0.fields(|name, field| {
            let done = match field {
                Field::Unsigned(n) => map.serialize_entry(name, &known(name, n)),
                Field::Signed(n) => map.serialize_entry(name, &n),
                Field::Bytes(bytes) => map.serialize_entry(name, &name_of(bytes)),
                Field::Object(o) => map.serialize_entry(name, &ObjKey::from(o)),
                Field::State(s) => {
                    let [a, b, c] = [s.a, s.b, s.c].map(|n| known("", n));
                    map.serialize_entry(name, &serde_json::json!({ "a": a, "b": b, "c": c }))
                }
            };
            if let Err(e) = done {
                failed.get_or_insert(e);
            }
        });
        match failed {
            Some(e) => Err(e),
            None => map.end(),
        }
    }
}

/// A name in a field of fixed length. An abstract address begins with a zero byte and may contain more; other names end
/// at a zero byte.
pub(super) fn name_of(bytes: &[u8]) -> Cow<'_, str> {
    let whole = bytes.iter().rposition(|b| *b != 0).and_then(|last| bytes.get(..=last)).unwrap_or_default();
    let end = if whole.first() == Some(&0) { None } else { whole.iter().position(|b| *b == 0) };
    String::from_utf8_lossy(end.and_then(|end| whole.get(..end)).unwrap_or(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::event::Stall;

    #[test]
    fn names_in_fields_of_fixed_length() {
        for (bytes, want) in
            [(&b"abc\0def\0"[..], "abc"), (b"\0abs\0t\0\0", "\0abs\0t"), (b"\0\0", ""), (&[0xff, 0], "\u{fffd}")]
        {
            assert_eq!(name_of(bytes), want);
        }
    }

    #[test]
    fn unknown_values_are_null() {
        let stall = Body::Stall(Stall { reader_running_ns: UNKNOWN, since_ns: 5, ..Stall::default() });
        let payload: Value = serde_json::from_str(&kernel(&stall).expect("JSON").0).expect("JSON");
        assert!(payload["reader"].is_null() && payload["reader_running_ns"].is_null(), "{payload}");
        assert_eq!((payload["since_ns"].as_u64(), payload["ret"].as_i64()), (Some(5), Some(0)));
        assert!(payload.get("_pad").is_none());
        let limits = tracer_record::SystemLimits { pid_max: 7, ..Default::default() };
        let payload: Value = serde_json::from_str(&read(&limits).expect("JSON").0).expect("JSON");
        assert_eq!((payload["pid_max"].as_u64(), &payload["threads_max"]), (Some(7), &Value::Null));
    }
}
