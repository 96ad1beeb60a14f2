//! `show`: everything about one object, or everything that a process uses.

use std::collections::BTreeSet;

use anyhow::Result;

use super::args::Format;
use super::exit::Fail;
use super::snapshot::{self, Parts};
use super::{message, output};
use tracer_collector::inventory;
use tracer_report::listing::{self, Id, KINDS, Model, Query, Subject, Surroundings, kind};

/// Options of `show`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// sem:32768, shm:655370@NAMESPACE, msg:0, mq:/name, posix-sem:/name, posix-shm:/name, pipe:8812, eventfd:41, socket:9913, pid:4121
    object: Subject,
    /// Format of the output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Runs the command.
///
/// # Errors
/// The object does not exist, or is not visible from here.
pub fn main(args: &Args) -> Result<u8> {
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
        message::print_unknown(&facts.all_problems());
        return Err(Fail::runtime(format!(
            "{subject} does not exist, or is not visible from here; `ipctrace ls` lists the objects"
        )));
    };
    match args.format {
        Format::Text => {
            output::print(&listing::text::render_shown(&shown, output::terminal_width()))?;
            message::print_unknown(&facts.all_problems());
        }
        Format::Json => output::print(&listing::json::render_shown(&model, &shown, true)?)?,
        Format::Jsonl => output::print(&listing::json::render_shown(&model, &shown, false)?)?,
    }
    Ok(0)
}

/// The files that the object's key may come from (ftok), and the packages of the programs that use it.
/// `pids`: the process itself, if the subject is one.
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
