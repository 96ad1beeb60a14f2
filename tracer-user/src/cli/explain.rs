//! `explain`: what each thread of a process is blocked on, down to the root cause, from /proc alone.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::args::{Format, Symbols};
use super::exit::Fail;
use super::output;
use tracer_analysis::model::Model;
use tracer_analysis::waits::chain::{Explained, explain};
use tracer_collector::inventory;
use tracer_collector::symbol::{CopyKey, CopyRequest, Process, Request, Symbolizer, Unwinding};
use tracer_record::{Record, Session, ThreadRow};
use tracer_report::escape;

/// At most this many threads have their stacks read.
const STACKS_MAX: usize = 64;
/// Time for unwinding the stacks and resolving their functions and lines.
const STACKS_TIMEOUT: Duration = Duration::from_millis(500);

/// Options of `explain`.
#[derive(Debug, clap::Args, Clone)]
pub struct Args {
    /// The process
    #[arg(value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// Format of the output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    symbols: Symbols,
}

/// Runs the command.
///
/// # Errors
/// The process does not exist, or its threads cannot be read.
pub fn main(args: &Args) -> Result<u8> {
    let Sampled { threads, not_collected } = sample(args.pid, args.symbols.dirs());
    if threads.is_empty() {
        return Err(Fail::runtime(format!(
            "process {} does not exist, or its threads cannot be read from here",
            args.pid
        )));
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

/// The waits of a process's threads, and what could not be read.
struct Sampled {
    threads: Vec<Explained>,
    not_collected: Vec<String>,
}

/// Samples the threads twice: a thread that sleeps in both samples without a context switch slept in between.
fn sample(pid: u32, debug_dirs: Option<Vec<PathBuf>>) -> Sampled {
    let session = Session { arch: std::env::consts::ARCH.to_owned(), ..Session::default() };
    let mut model = Model::new(&session);
    let mut apply = |record: &Record| {
        // Only kernel records can fail to decode, and none of these is one.
        let _ = model.apply(record);
    };
    apply(&Record::Threads { ts_ns: inventory::boot_ns(), rows: inventory::waits(&[pid]) });
    std::thread::sleep(inventory::SAMPLE_INTERVAL);
    let mut rows = inventory::waits(&[pid]);
    let mut not_collected = Vec::new();
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => {
            let records = runtime.block_on(stacks(&mut rows, debug_dirs, &mut not_collected));
            records.iter().for_each(&mut apply);
        }
        Err(e) => tracing::warn!("cannot read stacks: {e}"),
    }
    apply(&Record::Threads { ts_ns: inventory::boot_ns(), rows });
    Sampled { threads: explain(&model, pid), not_collected }
}

/// Reads the stacks of sleeping threads and sets their numbers in the rows. Returns the stacks unwound and the
/// functions resolved in time; adds sentences on the rest to `not_collected`.
async fn stacks(
    rows: &mut [ThreadRow],
    debug_dirs: Option<Vec<PathBuf>>,
    not_collected: &mut Vec<String>,
) -> Vec<Record> {
    let until = Instant::now() + STACKS_TIMEOUT;
    let mut unwinding = Unwinding::start();
    let mut symbols = debug_dirs.map_or_else(Symbolizer::off, Symbolizer::start);
    let mut processes: BTreeMap<u32, Arc<Process>> = BTreeMap::new();
    let mut waiting: HashMap<CopyKey, (i32, Arc<Process>)> = HashMap::new();
    let asleep = rows.iter_mut().filter(|row| row.state == 'S').take(STACKS_MAX);
    for (id, row) in (0..).zip(asleep) {
        let Some(copy) = inventory::stack_asleep(row.tgid, row.tid) else { continue };
        let process = processes.entry(row.tgid).or_insert_with(|| {
            let mut process = Process::read(row.tgid);
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
    // Frames that are not resolved in time keep file and offset.
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
            out.push_str("deadlock: no process can end this wait\n");
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
        assert!(got.contains("\n  -> b (8) has its read end\ndeadlock: no process"), "{got}");
        let document = document(7, &threads, &[]);
        assert_eq!(document["threads"][0]["deadlock"], true);
    }

    #[test]
    fn a_process_that_does_not_exist() {
        assert!(sample(u32::MAX >> 2, None).threads.is_empty());
    }
}
