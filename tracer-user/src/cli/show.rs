//! `show`: everything about one object, or what a process uses.

use anyhow::Result;

use super::args::{Format, Show};
use super::census::{self, Parts};
use super::{Fail, exit, output};
use crate::inventory;
use crate::record::FileRef;
use crate::report::listing::{self, Id, KINDS, Model, Query, Subject, Table, kind};

/// Runs the command.
///
/// # Errors
/// There is no such object.
pub fn main(args: &Show) -> Result<u8> {
    let subject = &args.object;
    let all: Vec<&str> = KINDS.iter().map(|k| k.name).collect();
    let parts = if subject.kind == "pid" { Parts::of(&all) } else { Parts::of(&[subject.kind]) };
    let pids: Vec<u32> = match subject.id {
        Id::Number(n) if subject.kind == "pid" => u32::try_from(n).into_iter().collect(),
        Id::Number(_) | Id::Name(_) => Vec::new(),
    };
    let facts = census::read(parts, &pids);
    let model = Model::new(&facts);
    let files = files_of_users(&model, subject);
    let Some(shown) = listing::show(&model, subject, &files) else {
        output::problems(&facts.all_problems());
        let message =
            format!("{subject} does not exist, or cannot be seen from here; `ipctrace ls` lists what there is");
        return Err(Fail { code: exit::RUNTIME, message }.into());
    };
    match args.format {
        Format::Text => {
            output::print(&listing::text::render_shown(&shown, output::terminal_width()))?;
            output::problems(&facts.all_problems());
        }
        Format::Json => output::print(&listing::json::render_shown(&model, &shown, true)?)?,
        Format::Jsonl => output::print(&listing::json::render_shown(&model, &shown, false)?)?,
    }
    Ok(0)
}

/// The files among which the one of the key may be.
fn files_of_users(model: &Model<'_>, subject: &Subject) -> Vec<FileRef> {
    let query = Query { subject: Some(subject), ..Query::default() };
    let table: Option<Table> = kind(subject.kind).map(|k| (k.table)(model, &query));
    let rows = table.iter().flat_map(|t| &t.rows);
    rows.flat_map(|r| &r.users).filter(|u| u.alive()).flat_map(|u| inventory::files_of(u.pid)).collect()
}
