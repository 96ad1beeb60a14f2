//! `ls`: what exists now.

use anyhow::Result;

use super::args::{Format, Ls, Namespace};
use super::snapshot::{self, Parts};
use super::{Fail, exit, output};
use tracer_report::listing::{self, Entry, KINDS, LIMITS, Model, Query};

/// Runs the command.
///
/// # Errors
/// A column that none of the kinds has, a process that does not exist.
pub fn main(args: &Ls) -> Result<u8> {
    let kinds = chosen(args);
    let sort = args.sort.as_deref().map(|s| s.strip_prefix('-').map_or((s, false), |name| (name, true)));
    check_columns(&kinds, args.columns.iter().flatten().map(String::as_str).chain(sort.map(|(name, _)| name)))?;
    let names: Vec<&str> = kinds.iter().map(|k| k.name).collect();
    let facts = snapshot::read(Parts::of(&names), &args.pid);
    let model = Model::new(&facts);
    if let Some(pid) = args.pid.iter().find(|p| !facts.inventory.processes.iter().any(|r| r.tgid == **p)) {
        return Err(usage(format!("no process with pid {pid} exists (in this pid namespace); `ps -e` lists them")));
    }
    let query = Query {
        columns: args.columns.as_deref(),
        everything: args.format != Format::Text,
        sort,
        orphans: args.orphans,
        pids: &args.pid,
        ns: match args.ns {
            Some(Namespace::Own) => facts.own_ns,
            Some(Namespace::Inode(ns)) => Some(ns),
            None => None,
        },
        subject: None,
    };
    let tables: Vec<_> = kinds.iter().map(|k| (k.table)(&model, &query)).collect();
    match args.format {
        Format::Text => {
            output::print(&listing::text::render(&tables, output::terminal_width()))?;
            output::problems(&facts.all_problems());
        }
        Format::Json => output::print(&listing::json::render(&model, &tables)?)?,
        Format::Jsonl => output::print(&listing::json::render_lines(&model, &tables)?)?,
    }
    Ok(0)
}

/// The kinds that were named, in their usual order; `--limits` alone lists limits only.
fn chosen(args: &Ls) -> Vec<&'static Entry> {
    let is_limits = |k: &Entry| k.name == LIMITS.name;
    let wanted = |k: &Entry| match args.kinds.as_slice() {
        _ if is_limits(k) && args.limits => true,
        [] => !args.limits && !is_limits(k),
        named => named.contains(&k.name),
    };
    KINDS.iter().filter(|k| wanted(k)).collect()
}

fn check_columns<'a>(kinds: &[&Entry], names: impl Iterator<Item = &'a str>) -> Result<()> {
    for name in names {
        if !kinds.iter().any(|k| (k.heads)().iter().any(|h| h.name == name)) {
            let mut all: Vec<&str> = kinds.iter().flat_map(|k| (k.heads)()).map(|h| h.name).collect();
            all.sort_unstable();
            all.dedup();
            return Err(usage(format!("no column {name:?}; there are {}", all.join(", "))));
        }
    }
    Ok(())
}

fn usage(message: String) -> anyhow::Error {
    Fail { code: exit::USAGE, message }.into()
}
