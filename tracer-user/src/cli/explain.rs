//! `explain`: whom each thread of a process waits for, from /proc alone.

use anyhow::Result;
use serde_json::json;

use super::args::{Explain, Format};
use super::{Fail, exit, output};
use crate::decode::decode;
use crate::detect::chain::{Explained, explain};
use crate::inventory;
use crate::record::{Record, Session};
use crate::report::escape;
use crate::world::World;

/// Runs the command.
///
/// # Errors
/// There is no such process, or its threads cannot be read.
pub fn main(args: &Explain) -> Result<u8> {
    let threads = look(args.pid);
    if threads.is_empty() {
        let message = format!("process {} does not exist, or its threads cannot be read from here", args.pid);
        return Err(Fail { code: exit::RUNTIME, message }.into());
    }
    match args.format {
        Format::Text => output::print(&text(&threads))?,
        Format::Json => output::print(&format!("{:#}\n", document(args.pid, &threads)))?,
        Format::Jsonl => output::print(&format!("{}\n", document(args.pid, &threads)))?,
    }
    Ok(0)
}

fn look(pid: u32) -> Vec<Explained> {
    let session = Session { arch: std::env::consts::ARCH.to_owned(), ..Session::default() };
    let mut world = World::new(&session);
    for look in 0..2 {
        if look > 0 {
            std::thread::sleep(inventory::BETWEEN_LOOKS);
        }
        let record = Record::Threads { ts_ns: inventory::boot_ns(), rows: inventory::waits(&[pid]) };
        if let Ok(Some(event)) = decode(&record) {
            world.apply(&event);
        }
    }
    explain(&world, pid)
}

fn text(threads: &[Explained]) -> String {
    let mut out = String::new();
    for (at, thread) in threads.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        for (depth, line) in thread.chain.iter().enumerate() {
            let arrow = if depth == 0 { "" } else { "-> " };
            out.push_str(&format!("{:indent$}{arrow}{}\n", "", escape(line), indent = 2 * depth));
        }
        if thread.deadlock {
            out.push_str("deadlock: nobody living can end this wait\n");
        }
    }
    out
}

fn document(pid: u32, threads: &[Explained]) -> serde_json::Value {
    let rows: Vec<_> = threads
        .iter()
        .map(|t| {
            json!({
                "tid": t.tid, "comm": t.comm, "state": t.state.to_string(), "call": t.call, "chain": t.chain,
                "deadlock": t.deadlock,
            })
        })
        .collect();
    json!({ "schema": 1, "pid": pid, "threads": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(chain: &[&str], deadlock: bool) -> Explained {
        Explained {
            tid: 7,
            comm: "a\u{1b}".to_owned(),
            state: 'S',
            call: Some("write".to_owned()),
            chain: chain.iter().map(|line| (*line).to_owned()).collect(),
            deadlock,
        }
    }

    #[test]
    fn chains_are_indented_and_escaped() {
        let threads = [thread(&["a\u{1b} (7) is blocked in write (pipe:[1])", "b (8) has its read end"], true)];
        let got = text(&threads);
        assert!(got.starts_with("a\\x1b (7) is blocked"), "{got}");
        assert!(got.contains("\n  -> b (8) has its read end\ndeadlock: nobody"), "{got}");
        let document = document(7, &threads);
        assert_eq!(document["threads"][0]["deadlock"], true);
    }

    #[test]
    fn a_process_that_is_not_there() {
        assert!(look(u32::MAX >> 2).is_empty());
    }
}
