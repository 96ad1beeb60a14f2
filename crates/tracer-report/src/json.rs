//! The report as JSON, and its findings as JSON lines.
//!
//! Strings are escaped beyond what JSON asks: characters that could mislead a terminal become `\uXXXX`, so that a
//! report is safe to look at with cat. The value that a parser reads is the same.

use std::io::{self, Write};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, PrettyFormatter};

use super::escape::unsafe_to_show;
use super::model::{self, Report};

/// The form of the report, as a JSON Schema; `tests/schema.rs` holds both against each other.
pub const SCHEMA: &str = include_str!("../../../docs/report.schema.json");

/// The report as one JSON document, indented, with a newline at its end.
///
/// # Errors
/// A value that JSON cannot hold; there is none in a report.
pub fn render(report: &Report) -> io::Result<String> {
    let mut out = Vec::new();
    serialize(report, &mut out, Safe(PrettyFormatter::new()))?;
    String::from_utf8(out).map_err(io::Error::other)
}

/// Why something is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it is no JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("it is one finding a line, without what was watched; write it with --format json")]
    Lines,
    #[error("its schema is {found}, this version of ipctrace reads {}; use the version that wrote it", model::SCHEMA)]
    Schema { found: String },
    #[error("it is no report of ipctrace; one is written with --format json")]
    Foreign,
    #[error("it is no report of ipctrace as `report --schema` has it: {0}")]
    Form(serde_json::Error),
}

/// What tells a report from other JSON, whatever its schema.
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

/// Reads what [`render`] wrote. Names that are not known are passed over; what is missing or wrong is an error.
///
/// # Errors
/// It is no report, or one of another schema.
pub fn read(text: &[u8]) -> Result<Report, ReadError> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    // The first value alone: lines of findings are several.
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
        _ => return Err(ReadError::Schema { found: "not told".into() }),
    }
    serde_json::from_slice(text).map_err(ReadError::Form)
}

/// One finding a line (`--format jsonl`); nothing if there is none.
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

/// Any value as an indented JSON document, or as one line, with a newline at its end.
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

/// Any value as JSON without a line's end, to be part of a larger text.
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

/// A formatter that also escapes what could mislead a terminal.
struct Safe<F>(F);

/// Passes these calls on: the layout is the inner formatter's.
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
    fn what_is_no_report_is_told() {
        let good = render(&hostile()).expect("render");
        assert_eq!(read(good.as_bytes()).expect("report"), hostile());
        assert_eq!(read(format!("\u{feff}{good}").as_bytes()).expect("a mark at the beginning"), hostile());
        let deep = "[".repeat(100_000);
        let lines = render_lines(&hostile()).expect("render");
        for (text, want) in [
            (String::new(), "no report"),
            ("{".into(), "no JSON"),
            ("[1]".into(), "no report"),
            ("{\"findings\": []}".into(), "no report"),
            (deep, "no JSON"),
            (lines, "one finding a line"),
            (good.replacen("\"schema\": 1", "\"schema\": 2", 1), "its schema is 2"),
            (good.replacen("\"schema\": 1,", "", 1), "its schema is not told"),
            (good.replacen("\"critical\"", "\"fatal\"", 1), "unknown variant `fatal`"),
            (good.replacen("\"duration_s\"", "\"duration\"", 1), "missing field `duration_s`"),
            (good.replacen("\"page_bytes\": 4096", "\"page_bytes\": -1", 1), "invalid value"),
            (good.replacen("\"page_bytes\": 4096", "\"page_bytes\": 1e999", 1), "out of range"),
            (format!("{good}{good}"), "trailing characters"),
        ] {
            let got = read(text.as_bytes()).expect_err(want).to_string();
            assert!(got.contains(want), "{got:?} does not say {want:?}");
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
    fn one_finding_a_line() {
        let report = hostile();
        let text = render_lines(&report).expect("render");
        let back: Vec<Finding> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!(back, report.findings);
        assert_eq!(render_lines(&super::super::model::tests::report(vec![], &[])).expect("render"), "");
    }
}
