//! `show`: everything about one object, or what a process uses.

use std::collections::BTreeSet;

use anyhow::Result;

use super::args::{Format, Show};
use super::snapshot::{self, Parts};
use super::{Fail, exit, output};
use tracer_collector::inventory;
use tracer_report::listing::{self, Id, KINDS, Model, Query, Subject, Surroundings, kind};

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
    let facts = snapshot::read(parts, &pids);
    let model = Model::new(&facts);
    let around = surroundings(&model, subject, &pids);
    let Some(shown) = listing::show(&model, subject, &around) else {
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

/// The files among which the one of the key may be, and the packages of the programs; `pids` are those of a process.
fn surroundings(model: &Model<'_>, subject: &Subject, pids: &[u32]) -> Surroundings {
    let query = Query { subject: Some(subject), ..Query::default() };
    let table = kind(subject.kind).map(|k| (k.table)(model, &query));
    let users = table.iter().flat_map(|t| &t.rows).flat_map(|r| &r.users).filter(|u| u.alive()).map(|u| u.pid);
    let users: BTreeSet<u32> = users.collect();
    let programs: Vec<u32> = users.iter().chain(pids).copied().collect();
    Surroundings {
        files: users.into_iter().flat_map(inventory::files_of).collect(),
        packages: inventory::packages(&programs),
    }
}
