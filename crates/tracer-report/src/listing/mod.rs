//! What exists now, as tables: the model of `ls`, `show` and `rm`.
//!
//! Each kind of object is one file with one list of columns; header, `--columns`, `--sort`, help and JSON come from it.
//! A new kind is a new file and a row in [`KINDS`].
//! Nothing here reads anything: a [`Model`] is made from what the inventory found.

mod cell;
mod ftok;
mod ipc;
pub mod json;
mod limit;
mod model;
mod msg;
mod open;
mod posix;
mod sem;
mod shm;
mod show;
mod socket;
mod subject;
mod table;
pub mod text;
mod zombie;

#[cfg(test)]
mod tests;

pub use cell::Cell;
pub use ftok::{Key, hint};
pub use model::{Facts, Model, Names, Orphan, User};
pub use show::{Shown, Surroundings, show};
pub use subject::{Id, Subject};
pub use table::{Head, Query, Row, Shows, Table};

use table::{Kind, heads, table};

/// One kind of object.
pub struct Entry {
    pub name: &'static str,
    /// Another word for it.
    pub alias: &'static str,
    pub help: &'static str,
    pub heads: fn() -> Vec<Head>,
    pub table: fn(&Model<'_>, &Query<'_>) -> Table,
}

const fn entry<K: Kind>() -> Entry {
    Entry { name: K::NAME, alias: K::ALIAS, help: K::HELP, heads: heads::<K>, table: table::<K> }
}

/// All kinds, in the order of printing.
pub const KINDS: &[Entry] = &[
    entry::<sem::Sem>(),
    entry::<shm::Shm>(),
    entry::<msg::Msg>(),
    entry::<posix::Mq>(),
    entry::<posix::PosixSem>(),
    entry::<posix::PosixShm>(),
    entry::<open::Pipe>(),
    entry::<open::Eventfd>(),
    entry::<socket::Socket>(),
    entry::<zombie::Zombie>(),
    LIMITS,
];

/// The limits; listed only when asked for.
pub const LIMITS: Entry = entry::<limit::Limits>();

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Entry> {
    KINDS.iter().find(|k| k.name == name || k.alias == name)
}

/// All columns of all kinds, for the help.
pub fn help() -> String {
    let mut out =
        String::from("Columns (* = shown unless --columns is given; + = shown if it differs from our own):\n");
    for entry in KINDS {
        out.push_str(&format!("\n{}: {}\n", entry.name, entry.help));
        for head in (entry.heads)() {
            let mark = match head.shows {
                Shows::Always => '*',
                Shows::Foreign => '+',
                Shows::OnRequest => ' ',
            };
            out.push_str(&format!("  {mark} {:<11} {}\n", head.name, head.help));
        }
    }
    out
}
