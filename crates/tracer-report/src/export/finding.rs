//! Findings as rows of their table.

use std::io;

use super::payload::json_of;
use super::table::{FindingRow, Wall};
use tracer_analysis::finding::Finding;
use tracer_analysis::finding::time::parse_rfc3339;
use tracer_record::Session;

/// The row of a finding.
pub(super) fn row<'a>(session: &Session, f: &'a Finding) -> io::Result<FindingRow<'a>> {
    let object = f.object.as_ref();
    let first = f.processes.first();
    let limit = f.limit.as_ref();
    Ok(FindingRow {
        code: Some(f.code.as_str().into()),
        severity: word(&f.severity)?,
        confidence: word(&f.confidence)?,
        origin: word(&f.origin)?,
        title: Some(f.title.as_str().into()),
        object_kind: object.map(|o| o.kind.as_str().into()),
        object_id: object.map(|o| o.id.as_str().into()),
        object_ns: object.and_then(|o| o.ns).map(u64::from),
        object_key: object.and_then(|o| o.key.as_deref()).map(Into::into),
        object_name: object.and_then(|o| o.name.as_deref()).map(Into::into),
        pid: first.map(|p| p.pid.into()),
        tid: first.and_then(|p| p.tid).map(u64::from),
        comm: first.and_then(|p| p.comm.as_deref()).map(Into::into),
        exe: first.and_then(|p| p.exe.as_deref()).map(Into::into),
        site: f.stacks.first().and_then(|s| s.site.as_deref()).map(Into::into),
        processes: Some(json_of(&f.processes)?),
        evidence: Some(json_of(&f.evidence)?),
        limit_name: limit.map(|l| l.name.as_str().into()),
        limit_used: limit.and_then(|l| l.used),
        limit_max: limit.and_then(|l| l.max),
        limit_eta_s: limit.and_then(|l| l.eta_s),
        stacks: Some(json_of(&f.stacks)?),
        chain: Some(json_of(&f.chain)?),
        remedy: Some(json_of(&f.remedy)?),
        docs: Some(f.docs.as_str().into()),
        first_seen: wall(session, f.first_seen.as_deref()),
        last_seen: wall(session, f.last_seen.as_deref()),
    })
}

/// The time at which it was first seen, by the boot clock, to a millisecond.
pub(super) fn first_ns(session: &Session, f: &Finding) -> Option<u64> {
    let wall_ns = f.first_seen.as_deref().and_then(parse_rfc3339)?;
    u64::try_from(wall_ns - i128::from(session.wall_ns) + i128::from(session.start_ns)).ok()
}

/// The JSON string of an enum value without fields.
fn word(value: &impl serde::Serialize) -> io::Result<Option<std::borrow::Cow<'static, str>>> {
    Ok(serde_json::to_value(value)?.as_str().map(|word| word.to_owned().into()))
}

/// The calendar time; `None` if the session does not map the boot clock to it.
fn wall(session: &Session, text: Option<&str>) -> Option<Wall> {
    let ns = text.and_then(parse_rfc3339).filter(|_| session.wall_ns > 0)?;
    i64::try_from(ns).ok().map(Wall)
}
