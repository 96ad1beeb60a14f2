//! Names for addresses: functions, files and lines of the code that user stacks lead through.
//!
//! Part of the collector: what is found becomes a record, so that a trace reads the same on another machine.
//! It reads files that strangers own, as root: so nothing is mapped or trusted, everything is bounded, and all of it
//! happens on a thread of its own that nobody waits for longer than [`PATIENCE`].
//! It must not guess: a file that is not certainly the mapped one, or not its debug file, is not read.

mod debug_file;
mod elf;
mod image;
mod name;
mod perf_map;
mod process;
mod resolver;
mod unwind;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use process::Process;
pub use resolver::Resolver;
use tracer_record::{Place, Record};
pub use unwind::{CopyKey, CopyRequest, Cut, Tables, Unwinding, Unwound};

/// How long the end of a run waits for names that are still looked up.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How much less than others the threads of this room want of a processor.
const NICE: i32 = 10;
/// Stacks that wait for their names at once.
const QUEUE_MAX: usize = 4096;

/// A stack whose names are wanted.
pub struct Request {
    pub id: i32,
    pub process: Arc<Process>,
    /// Innermost first, as they came: return addresses, and the instruction behind the system call.
    pub addrs: Vec<u64>,
}

struct Answer {
    id: i32,
    places: Vec<Vec<Place>>,
}

/// The thread that looks names up, and the way to it. Dropped, it leaves the thread to end by itself.
pub struct Symbolizer {
    requests: Option<SyncSender<Request>>,
    answers: UnboundedReceiver<Answer>,
    waiting: HashSet<i32>,
    left_out: u64,
}

impl Symbolizer {
    /// Starts the thread; debug files are looked for in `dirs`, then where the system has them.
    pub fn start(dirs: Vec<PathBuf>) -> Self {
        let (requests, todo) = sync_channel(QUEUE_MAX);
        let (done, answers) = unbounded_channel();
        let started = std::thread::Builder::new().name("symbols".into()).spawn(move || work(&todo, &done, dirs));
        if let Err(e) = &started {
            tracing::warn!("functions and lines are not looked up: {e}");
        }
        Self { requests: started.ok().map(|_| requests), answers, waiting: HashSet::new(), left_out: 0 }
    }

    /// Nobody looks anything up.
    pub fn off() -> Self {
        Self { requests: None, answers: unbounded_channel().1, waiting: HashSet::new(), left_out: 0 }
    }

    /// True if names are looked up at all.
    pub fn is_on(&self) -> bool {
        self.requests.is_some()
    }

    /// Asks for the names of a stack; never blocks, and leaves out what does not fit into the queue.
    pub fn ask(&mut self, request: Request) {
        let Some(requests) = &self.requests else { return };
        let id = request.id;
        match requests.try_send(request) {
            Ok(()) => {
                self.waiting.insert(id);
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.left_out += 1,
        }
    }

    /// The names of a stack, when there are some; waits for ever while nothing is asked. May be cancelled at any time.
    pub async fn next(&mut self) -> Record {
        loop {
            let Some(answer) = self.answers.recv().await else { return std::future::pending().await };
            self.waiting.remove(&answer.id);
            if answer.places.iter().any(|p| !p.is_empty()) {
                return Record::Symbols { id: answer.id, places: answer.places };
            }
        }
    }

    /// Gives out what is still to come, and waits for it no longer than [`PATIENCE`].
    pub async fn finish(&mut self, sink: &mut dyn FnMut(Record)) {
        // A thread that has failed drops its end, and nothing comes any more.
        let rest = async {
            while !self.waiting.is_empty() {
                let Some(answer) = self.answers.recv().await else { return };
                self.waiting.remove(&answer.id);
                if answer.places.iter().any(|p| !p.is_empty()) {
                    sink(Record::Symbols { id: answer.id, places: answer.places });
                }
            }
        };
        // What times out stays in `waiting`, and is told.
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }

    /// What was not looked up, as a sentence.
    pub fn problem(&self) -> Option<String> {
        let n = self.left_out + u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        (n > 0).then(|| format!("functions and lines of {n} user stacks: there were too many, or a file took too long"))
    }
}

/// Lets everybody else go first: what is watched, and the thread that drains the ring buffers.
///
/// A task that was preempted in a program of ours keeps the kernel from running that program for others on its processor.
fn go_behind() {
    // On Linux this is the calling thread alone.
    if let Err(e) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("a thread keeps its priority: {e}");
    }
}

fn work(todo: &Receiver<Request>, done: &UnboundedSender<Answer>, dirs: Vec<PathBuf>) {
    go_behind();
    let mut resolver = Resolver::new(dirs);
    while let Ok(request) = todo.recv() {
        let places = resolver.places(&request.process, &request.addrs);
        if done.send(Answer { id: request.id, places }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
