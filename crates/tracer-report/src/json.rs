//! The report as JSON, and its findings as JSON lines.
//!
//! Strings are escaped beyond what JSON requires: characters that could mislead a terminal become `\uXXXX`, so that a
//! report is safe to print with cat. A parser reads the same value.

use std::io::{self, Write};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter};

use super::escape::unsafe_to_show;
use super::model::{self, Report};

/// The JSON Schema of the report; `tests/schema.rs` validates reports against it.
pub const SCHEMA: &str = include_str!("../../../docs/report.schema.json");

/// The report as one indented JSON document with a trailing newline.
///
/// # Errors
/// A value that JSON cannot hold; there is none in a report.
pub fn render(report: &Report) -> io::Result<String> {
    let mut out = Vec::new();
    serialize(report, &mut out, Safe(PrettyFormatter::new()))?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// Why a text cannot be read as a report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("it has one finding per line, without what was watched; write it with --format json")]
    Lines,
    #[error(
        "its schema is {found}, but this version of ipctrace reads {}; use the version that wrote it",
        model::SCHEMA
    )]
    Schema { found: String },
    #[error("it is not a report of ipctrace; write one with --format json")]
    Foreign,
    #[error("it does not match the schema that `report --schema` prints: {0}")]
    Form(serde_json::Error),
}

/// The fields that distinguish a report from other JSON, whatever its schema.
#[derive(Deserialize)]
struct Head {
    schema: Option<Value>,
    tool: Option<HeadTool>,
    code: Option<IgnoredAny>,
    findings: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct HeadTool {
    name: Option<String>,
}

/// Reads a report that [`render`] wrote. Unknown fields are ignored; a missing or invalid field is an error.
///
/// # Errors
/// The text is not a report, or has another schema.
pub fn read(text: &[u8]) -> Result<Report, ReadError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // Only the first value: JSON lines have several.
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Head>();
    let head = match values.next() {
        Some(Ok(head)) => head,
        Some(Err(e)) if e.is_data() => return Err(ReadError::Foreign),
        Some(Err(e)) => return Err(ReadError::NotJson(e)),
        None => return Err(ReadError::Foreign),
    };
    match (head.findings, head.tool.and_then(|t| t.name).as_deref()) {
        (None, _) if head.code.is_some() => return Err(ReadError::Lines),
        (Some(_), Some("ipctrace")) => {}
        (None | Some(_), _) => return Err(ReadError::Foreign),
    }
    match head.schema {
        Some(Value::Number(n)) if n.as_u64() == Some(model::SCHEMA.into()) => {}
        Some(Value::Number(found)) => return Err(ReadError::Schema { found: found.to_string() }),
        _ => return Err(ReadError::Schema { found: "missing".into() }),
    }
    serde_json::from_slice(text).map_err(ReadError::Form)
}

/// One finding per line (`--format jsonl`); empty if there are none.
///
/// # Errors
/// As [`render`].
pub fn render_lines(report: &Report) -> io::Result<String> {
    let mut out = Vec::new();
    for finding in &report.findings {
        serialize(finding, &mut out, Safe(CompactFormatter))?;
    }
    String::from_utf8(out).map_err(io::Error::other)
}

/// Any value as an indented JSON document or as one line, with a trailing newline.
///
/// # Errors
/// As [`render`].
pub(super) fn document(value: &impl Serialize, indented: bool) -> io::Result<String> {
    let mut out = Vec::new();
    if indented {
        serialize(value, &mut out, Safe(PrettyFormatter::new()))?;
    } else {
        serialize(value, &mut out, Safe(CompactFormatter))?;
    }
    String::from_utf8(out).map_err(io::Error::other)
}

/// Writes any value as JSON without a newline, as part of a larger text.
///
/// # Errors
/// As [`render`], or `out` cannot be written.
pub(crate) fn compact(value: &(impl Serialize + ?Sized), out: impl Write) -> io::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, Safe(CompactFormatter)))?;
    Ok(())
}

fn serialize(value: &impl Serialize, mut out: impl Write, formatter: impl Formatter) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value.serialize(&mut serializer)?;
    out.write_all(b"\n")
}

/// A formatter that also escapes characters that could mislead a terminal.
struct Safe<F>(F);

/// Forwards these calls to the inner formatter, which defines the layout.
macro_rules! inner {
    ($($name:ident($($arg:ident: $ty:ty),*);)*) => { $(
        fn $name<W: ?Sized + Write>(&mut self, out: &mut W $(, $arg: $ty)*) -> io::Result<()> {
            self.0.$name(out $(, $arg)*)
        }
    )* };
}

impl<F: Formatter> Formatter for Safe<F> {
    inner! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
        write_char_escape(c: CharEscape);
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(unsafe_to_show) {
            let (plain, tail) = rest.split_at(at);
            out.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            let mut units = [0; 2];
            for unit in chars.next().into_iter().flat_map(|c| c.encode_utf16(&mut units).to_vec()) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{finding, report};
    use super::*;
    use tracer_analysis::finding::{Finding, Severity};

    fn hostile() -> Report {
        let mut f = finding("sem-leak", Severity::Critical);
        f.title = "a\u{1b}[2J\u{9b}31m\u{202e}\u{e0041}\u{7f}\n\"quoted\" größe".into();
        report(vec![f, finding("fd-leak", Severity::Info)], &[("sem_op", 9)])
    }

    #[test]
    fn reads_back_and_is_safe_on_a_terminal() {
        let report = hostile();
        let text = render(&report).expect("render");
        assert!(!text.chars().any(|c| c != '\n' && unsafe_to_show(c)), "{text}");
        assert!(text.contains("größe") && text.contains("\\udb40\\udc41") && text.ends_with("}\n"));
        assert_eq!(serde_json::from_str::<Report>(&text).expect("JSON"), report);
    }

    #[test]
    fn a_text_that_is_not_a_report_is_an_error() {
        let good = render(&hostile()).expect("render");
        assert_eq!(read(good.as_bytes()).expect("report"), hostile());
        assert_eq!(read(format!("\u{feff}{good}").as_bytes()).expect("byte order mark"), hostile());
        let deep = "[".repeat(100_000);
        let lines = render_lines(&hostile()).expect("render");
        for (text, want) in [
            (String::new(), "not a report"),
            ("{".into(), "not JSON"),
            ("[1]".into(), "not a report"),
            ("{\"findings\": []}".into(), "not a report"),
            (deep, "not JSON"),
            (lines, "one finding per line"),
            (good.replacen("\"schema\": 1", "\"schema\": 2", 1), "its schema is 2"),
            (good.replacen("\"schema\": 1,", "", 1), "its schema is missing"),
            (good.replacen("\"critical\"", "\"fatal\"", 1), "unknown variant `fatal`"),
            (good.replacen("\"duration_s\"", "\"duration\"", 1), "missing field `duration_s`"),
            (good.replacen("\"page_bytes\": 4096", "\"page_bytes\": -1", 1), "invalid value"),
            (good.replacen("\"page_bytes\": 4096", "\"page_bytes\": 1e999", 1), "out of range"),
            (format!("{good}{good}"), "trailing characters"),
        ] {
            let got = read(text.as_bytes()).expect_err(want).to_string();
            assert!(got.contains(want), "{got:?} does not contain {want:?}");
        }
        assert!(read(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn the_contract_of_schema_1() {
        let value: Value = serde_json::from_str(&render(&hostile()).expect("render")).expect("JSON");
        let keys = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let top = ["schema", "tool", "host", "kernel", "plan", "window", "loss", "not_collected", "findings"];
        assert!(top.iter().all(|k| keys(&value).iter().any(|have| have == k)), "{:?}", keys(&value));
        assert_eq!(keys(&value["window"]), ["duration_s", "end", "start"]);
        assert_eq!(value["loss"]["sites"][0]["site"], "sem_op");
        let f = &value["findings"][0];
        let mut want = vec![
            "code",
            "severity",
            "confidence",
            "origin",
            "title",
            "object",
            "processes",
            "evidence",
            "limit",
            "stacks",
            "chain",
            "remedy",
            "docs",
            "first_seen",
            "last_seen",
        ];
        want.sort_unstable();
        assert_eq!(keys(f), want);
        assert_eq!((f["severity"].as_str(), f["evidence"]["rate_per_h"].is_null()), (Some("critical"), true));
        assert!(f["object"]["name"].is_null() && f["processes"][0]["container"].is_null());
    }

    #[test]
    fn one_finding_per_line() {
        let report = hostile();
        let text = render_lines(&report).expect("render");
        let back: Vec<Finding> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(back, report.findings);
        assert_eq!(render_lines(&super::super::model::tests::report(vec![], &[])).expect("render"), "");
    }
}
