//! Tables for programs: one JSON document, or one object per line.

use std::io;

use serde_json::{Map, Value, json};

use super::super::json::document;
use super::model::{Model, User};
use super::show::Shown;
use super::table::{Row, Table};

/// Version of the document; the same as the report's.
const SCHEMA: u32 = 1;

/// All tables in one document: an array for each kind, and the problems of reading.
///
/// # Errors
/// A value that JSON cannot hold; tables have none.
pub fn render(model: &Model<'_>, tables: &[Table]) -> io::Result<String> {
    let mut top = Map::new();
    top.insert("schema".into(), SCHEMA.into());
    for table in tables {
        let rows = table.collected.then(|| rows(model, table));
        top.insert(table.kind.into(), rows.into());
    }
    top.insert("problems".into(), model.facts.all_problems().into());
    document(&top, true)
}

/// One object per line, with its kind; at the end a line of kind `problem` for everything that could not be read.
///
/// # Errors
/// As [`render`].
pub fn render_lines(model: &Model<'_>, tables: &[Table]) -> io::Result<String> {
    let mut out = String::new();
    for table in tables {
        for row in &table.rows {
            let mut object = Map::new();
            object.insert("kind".into(), table.kind.into());
            object.append(&mut cells(model, table, row));
            out.push_str(&document(&object, false)?);
        }
    }
    for problem in model.facts.all_problems() {
        out.push_str(&document(&json!({"kind": "problem", "problem": problem}), false)?);
    }
    Ok(out)
}

/// One object as a document.
///
/// # Errors
/// As [`render`].
pub fn render_shown(model: &Model<'_>, shown: &Shown, indented: bool) -> io::Result<String> {
    let mut top = Map::new();
    top.insert("schema".into(), SCHEMA.into());
    top.insert("object".into(), shown.subject.to_string().into());
    for (name, value) in &shown.facts {
        top.insert(key(name), value.json());
    }
    for table in &shown.tables {
        top.insert(key(table.kind), rows(model, table).into());
    }
    top.insert("problems".into(), model.facts.all_problems().into());
    document(&top, indented)
}

fn rows(model: &Model<'_>, table: &Table) -> Vec<Value> {
    table.rows.iter().map(|r| cells(model, table, r).into()).collect()
}

fn cells(model: &Model<'_>, table: &Table, row: &Row) -> Map<String, Value> {
    let value = |name: &str, cell: &super::Cell| match name {
        "users" => row.users.iter().map(|u| user(model, u)).collect(),
        _ => cell.json(),
    };
    table.heads.iter().zip(&row.cells).map(|(h, c)| (key(h.name), value(h.name, c))).collect()
}

/// JSON names have underscores instead of hyphens.
fn key(name: &str) -> String {
    name.replace('-', "_")
}

/// A process, with the field names of findings.
fn user(model: &Model<'_>, user: &User) -> Value {
    let p = model.process(user);
    json!({
        "role": user.role,
        "pid": user.pid,
        "alive": user.alive(),
        "comm": p.map(|p| p.comm.as_str()),
        "exe": p.and_then(|p| p.exe.as_deref()),
        "ns_pid": p.and_then(|p| p.ns_pid),
        "container": p.and_then(Model::container_of),
        "pod": p.and_then(Model::pod_of),
        "unit": p.and_then(Model::unit_of),
    })
}
