//! `explain`: whom each thread of a process waits for, from /proc alone.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::args::{Explain, Format};
use super::{Fail, exit, output};
use tracer_analysis::model::Model;
use tracer_analysis::waits::chain::{Explained, explain};
use tracer_collector::inventory;
use tracer_collector::symbol::{CopyKey, CopyRequest, Process, Request, Symbolizer, Unwinding};
use tracer_record::{Record, Session, ThreadRow};
use tracer_report::escape;

/// Threads whose stacks are read.
const STACKS_MAX: usize = 64;
/// How long stacks and the names of their lines are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs the command.
///
/// # Errors
/// There is no such process, or its threads cannot be read.
pub fn main(args: &Explain) -> Result<u8> {
    let Looked { threads, not_collected } = look(args.pid, args.symbols.dirs());
    if threads.is_empty() {
        let message = format!("process {} does not exist, or its threads cannot be read from here", args.pid);
        return Err(Fail { code: exit::RUNTIME, message }.into());
    }
    match args.format {
        Format::Text => {
            output::print(&text(&threads))?;
            not_collected.iter().for_each(|line| eprintln!("not collected: {line}"));
        }
        Format::Json => output::print(&format!("{:#}\n", document(args.pid, &threads, &not_collected)))?,
        Format::Jsonl => output::print(&format!("{}\n", document(args.pid, &threads, &not_collected)))?,
    }
    Ok(0)
}

/// What was seen, and what not.
struct Looked {
    threads: Vec<Explained>,
    not_collected: Vec<String>,
}

fn look(pid: u32, debug_dirs: Option<Vec<PathBuf>>) -> Looked {
    let session = Session { arch: std::env::consts::ARCH.to_owned(), ..Session::default() };
    let mut model = Model::new(&session);
    let mut tell = |record: &Record| {
        // None of them is a kernel record, which alone can fail.
        let _ = model.apply(record);
    };
    tell(&Record::Threads { ts_ns: inventory::boot_ns(), rows: inventory::waits(&[pid]) });
    std::thread::sleep(inventory::BETWEEN_LOOKS);
    let mut rows = inventory::waits(&[pid]);
    let mut not_collected = Vec::new();
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => {
            let records = runtime.block_on(stacks(&mut rows, debug_dirs, &mut not_collected));
            records.iter().for_each(&mut tell);
        }
        Err(e) => tracing::warn!("stacks are not read: {e}"),
    }
    tell(&Record::Threads { ts_ns: inventory::boot_ns(), rows });
    Looked { threads: explain(&model, pid), not_collected }
}

/// The stacks of the threads that sleep, numbered in the rows, with what is unwound and named in time; what is not is
/// told in sentences.
async fn stacks(
    rows: &mut [ThreadRow],
    debug_dirs: Option<Vec<PathBuf>>,
    not_collected: &mut Vec<String>,
) -> Vec<Record> {
    let until = Instant::now() + PATIENCE;
    let mut unwinding = Unwinding::start();
    let mut symbols = debug_dirs.map_or_else(Symbolizer::off, Symbolizer::start);
    let mut processes: BTreeMap<u32, Arc<Process>> = BTreeMap::new();
    let mut waiting: HashMap<CopyKey, (i32, Arc<Process>)> = HashMap::new();
    let asleep = rows.iter_mut().filter(|row| row.state == 'S').take(STACKS_MAX);
    for (id, row) in (0..).zip(asleep) {
        let Some(copy) = inventory::stack_asleep(row.tgid, row.tid) else { continue };
        let process = processes.entry(row.tgid).or_insert_with(|| {
            let mut process = Process::look(row.tgid);
            process.hold_all();
            Arc::new(process)
        });
        let key = (copy.id, copy.tid);
        if unwinding.ask(CopyRequest { key, process: process.clone(), copy }) {
            waiting.insert(key, (id, process.clone()));
            row.stack = Some(id);
        }
    }
    let mut out = Vec::new();
    while !waiting.is_empty()
        && let Ok(found) = timeout_at(until, unwinding.next()).await
    {
        let Some((id, process)) = waiting.remove(&found.key) else { continue };
        let frames = found.addrs.iter().map(|addr| process.frame(*addr)).collect();
        out.push(Record::Stack { id, frames, unwound: found.by_tables });
        symbols.ask(Request { id, process, addrs: found.addrs });
    }
    // What is not named by then keeps its file and offset.
    let _ = timeout_at(until, symbols.finish(&mut |named| out.push(named))).await;
    if !waiting.is_empty() {
        not_collected.push(format!("the stacks of {} threads: unwinding them took too long", waiting.len()));
    }
    not_collected.extend(symbols.problem());
    out
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

fn document(pid: u32, threads: &[Explained], not_collected: &[String]) -> serde_json::Value {
    let rows: Vec<_> = threads
        .iter()
        .map(|t| {
            json!({
                "tid": t.tid, "comm": t.comm, "state": t.state.to_string(), "call": t.call, "chain": t.chain,
                "deadlock": t.deadlock,
            })
        })
        .collect();
    json!({ "schema": 1, "pid": pid, "threads": rows, "not_collected": not_collected })
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
        let document = document(7, &threads, &[]);
        assert_eq!(document["threads"][0]["deadlock"], true);
    }

    #[test]
    fn a_process_that_is_not_there() {
        assert!(look(u32::MAX >> 2, None).threads.is_empty());
    }
}
