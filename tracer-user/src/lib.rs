//! ipctrace, the library: from kernel records to verdicts.
//!
//! Data flows one way: `kernel` and `inventory` feed `source`, which yields [`record::Record`]s;
//! `decode` turns them into events, `world` keeps the model, `detect` judges it, `report` shows the findings.
//! `symbol` finds functions and lines for the addresses of stacks.
//! `trace` stores records and reads them back; `newfile` makes its files and those of reports.
//! `export` writes what a trace holds in the formats of other tools.
//! `redact` takes the names out of records.
//! `analyst`, `decode`, `world`, `detect`, `report`, `export` and `redact` are pure: no clock, no file, no system call,
//! no terminal.

pub mod analyst;
pub mod cli;
pub mod decode;
pub mod detect;
pub mod export;
pub mod inventory;
pub mod kernel;
pub mod listed;
pub mod newfile;
pub mod object;
pub mod record;
pub mod redact;
pub mod report;
pub mod source;
pub mod symbol;
pub mod trace;
pub mod world;
