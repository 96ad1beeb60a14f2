//! Tables for people: aligned columns, one object per line.
//!
//! Every value is escaped here; newlines are the only control characters in the output.

use std::borrow::Cow;

use super::super::escape::escape;
use super::cell::Cell;
use super::show::Shown;
use super::table::Table;
use super::{kind, table};

/// Minimum width of a column that is cut.
const CUT_MIN: usize = 12;
/// Maximum padding without a width. A longer word or list widens its own line only: a pipe may have thousands of users.
const PAD_MAX: usize = 60;
/// Spaces between columns.
const GAP: usize = 2;

/// Prints tables one below the other. With a width, long words and lists are cut so that lines fit if possible.
pub fn render(tables: &[Table], width: Option<usize>) -> String {
    let mut out = String::new();
    for table in tables {
        if !out.is_empty() {
            out.push('\n');
        }
        // A single table needs no title.
        if tables.len() > 1 {
            let help = kind(table.kind).map_or(table.kind, |k| k.help);
            let help = help.split_once(" (").map_or(help, |(first, _)| first);
            let many = if table.collected { table.rows.len().to_string() } else { "not collected".to_owned() };
            out.push_str(&format!("{help}: {many}\n"));
        }
        if tables.len() == 1 || !table.rows.is_empty() {
            out.push_str(&one(table, width));
        }
    }
    out
}

/// Prints one object: its facts, then its tables.
pub fn render_shown(shown: &Shown, width: Option<usize>) -> String {
    let mut out = format!("{}\n", escape(&shown.subject.to_string()));
    let names = shown.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in &shown.facts {
        out.push_str(&format!("  {name:<names$}  {}\n", escape(&value.print())));
    }
    for table in &shown.tables {
        out.push_str(&format!("\n{}: {}\n", table.kind, table.rows.len()));
        if !table.rows.is_empty() {
            out.push_str(&one(table, width));
        }
    }
    out
}

fn one(table: &Table, width: Option<usize>) -> String {
    let heads: Vec<String> = table.heads.iter().map(|h| h.name.to_uppercase()).collect();
    let mut columns: Vec<Layout> = heads
        .iter()
        .enumerate()
        .map(|(at, head)| {
            let cells = || table.rows.iter().filter_map(|r| r.cells.get(at));
            // Cells are printed twice rather than kept: a host may have very many pipes.
            let widest = cells().map(|c| printed(c).chars().count()).max().unwrap_or(0);
            Layout {
                width: widest.max(head.len()),
                least: if cells().any(Cell::may_be_cut) { head.len().max(CUT_MIN) } else { usize::MAX },
                right: cells().any(Cell::is_number) && cells().all(|c| c.is_number() || c.is_absent()),
            }
        })
        .collect();
    match width {
        Some(width) => fit(&mut columns, width),
        None => columns.iter_mut().filter(|c| c.least != usize::MAX).for_each(|c| c.width = c.width.min(PAD_MAX)),
    }
    let mut out = String::new();
    write_line(&mut out, &columns, &heads, width.is_some());
    for row in &table.rows {
        let cells: Vec<String> = row.cells.iter().map(printed).collect();
        write_line(&mut out, &columns, &cells, width.is_some());
    }
    out
}

fn printed(cell: &Cell) -> String {
    match escape(&cell.print()) {
        // An empty cell would shift the columns for programs that split lines at spaces.
        text if text.is_empty() => "-".to_owned(),
        text => text.into_owned(),
    }
}

struct Layout {
    width: usize,
    /// It may be cut down to this width.
    least: usize,
    right: bool,
}

/// Cuts the widest column that may be cut, until the line fits or nothing more can be cut.
fn fit(columns: &mut [Layout], width: usize) {
    loop {
        let total: usize = columns.iter().map(|c| c.width + GAP).sum::<usize>().saturating_sub(GAP);
        let Some(over) = total.checked_sub(width).filter(|o| *o > 0) else { return };
        let Some(widest) = columns.iter_mut().filter(|c| c.width > c.least).max_by_key(|c| c.width) else { return };
        widest.width = widest.width.saturating_sub(over).max(widest.least);
    }
}

fn write_line(out: &mut String, columns: &[Layout], cells: &[String], cuts: bool) {
    let last = columns.len().saturating_sub(1);
    for (at, (column, text)) in columns.iter().zip(cells).enumerate() {
        let length = text.chars().count();
        let text: Cow<'_, str> = if cuts && length > column.width {
            Cow::Owned(text.chars().take(column.width.saturating_sub(1)).chain(['…']).collect())
        } else {
            Cow::Borrowed(text)
        };
        let pad = column.width.saturating_sub(length);
        if column.right {
            out.extend(std::iter::repeat_n(' ', pad));
        }
        out.push_str(&text);
        if at < last {
            out.extend(std::iter::repeat_n(' ', GAP + if column.right { 0 } else { pad }));
        }
    }
    out.push('\n');
}

/// A row in one line, for `rm`: the name of the object, and the values that show whether it is in use.
pub fn summary(table: &Table, row: &table::Row) -> String {
    let value = |name: &str| table.value(row, name).map(Cell::print);
    let mut out = row.subject.to_string();
    for name in ["key", "name", "owner", "nsems", "size", "messages", "nattch", "idle", "orphan", "users", "could-use"]
    {
        if let Some(text) = value(name).filter(|t| !t.is_empty()) {
            out.push_str(&format!("  {name} {text}"));
        }
    }
    escape(&out).into_owned()
}
