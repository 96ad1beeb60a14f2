//! `ls`: what exists now.

use anyhow::Result;

use super::args::Format;
use super::exit::Fail;
use super::snapshot::{self, Parts};
use super::value::{Namespace, listed_kind, namespace};
use super::{message, output};
use tracer_report::listing::{self, Entry, KINDS, LIMITS, Model, Query};

/// Options of `ls`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = listing::help())]
pub struct Args {
    /// Kinds to list; all of them by default
    #[arg(value_name = "MECH", value_parser = listed_kind)]
    kinds: Vec<&'static str>,
    /// List only what these processes use, where the kernel shows it
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pid: Vec<u32>,
    /// List only what no process seems to use any more
    #[arg(long)]
    orphans: bool,
    /// List System V objects of this IPC namespace only: its inode number, or `own`; all accessible ones by default
    #[arg(long, value_name = "NS", value_parser = namespace)]
    ns: Option<Namespace>,
    /// List the limits and how much of each is used
    #[arg(long)]
    limits: bool,
    /// Show these columns, in this order (--help lists them)
    #[arg(long, value_name = "COL,...", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Sort by this column; `-COL` sorts in descending order
    #[arg(long, value_name = "COL", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Format of the output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Runs the command.
///
/// # Errors
/// No listed kind has a chosen column, or a process does not exist.
pub fn main(args: &Args) -> Result<u8> {
    let kinds = chosen(args);
    let sort = args.sort.as_deref().map(|s| s.strip_prefix('-').map_or((s, false), |name| (name, true)));
    check_columns(&kinds, args.columns.iter().flatten().map(String::as_str).chain(sort.map(|(name, _)| name)))?;
    let names: Vec<&str> = kinds.iter().map(|k| k.name).collect();
    let facts = snapshot::read(Parts::of(&names), &args.pid);
    let model = Model::new(&facts);
    if let Some(pid) = args.pid.iter().find(|p| !facts.inventory.processes.iter().any(|r| r.tgid == **p)) {
        return Err(Fail::usage(format!("no process has pid {pid} in this pid namespace; `ps -e` lists the pids")));
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
            message::print_unknown(&facts.all_problems());
        }
        Format::Json => output::print(&listing::json::render(&model, &tables)?)?,
        Format::Jsonl => output::print(&listing::json::render_lines(&model, &tables)?)?,
    }
    Ok(0)
}

/// The kinds that the user chose, in their usual order; `--limits` alone lists limits only.
fn chosen(args: &Args) -> Vec<&'static Entry> {
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
            return Err(Fail::usage(format!("no column {name:?}; the columns are {}", all.join(", "))));
        }
    }
    Ok(())
}
