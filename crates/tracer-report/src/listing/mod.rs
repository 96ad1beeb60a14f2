//! The objects that exist now, as tables: the model of `ls`, `show` and `rm`.
//!
//! Each kind of object has one file with one list of columns, which defines header, `--columns`, `--sort`, help and JSON.
//! A new kind is a new file and a row in [`KINDS`].
//! Nothing here reads the system: a [`Model`] is built from the inventory.

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
    /// Another name for it.
    pub alias: &'static str,
    pub help: &'static str,
    pub heads: fn() -> Vec<Head>,
    pub table: fn(&Model<'_>, &Query<'_>) -> Table,
}

const fn entry<K: Kind>() -> Entry {
    Entry { name: K::NAME, alias: K::ALIAS, help: K::HELP, heads: heads::<K>, table: table::<K> }
}

/// All kinds, in the order in which they are printed.
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

/// The limits; listed only on request.
pub const LIMITS: Entry = entry::<limit::Limits>();

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Entry> {
    KINDS.iter().find(|k| k.name == name || k.alias == name)
}

/// The help text about all columns of all kinds.
pub fn help() -> String {
    let mut out =
        String::from("Columns (* = shown unless --columns is given; + = shown if it has values other than our own):\n");
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
