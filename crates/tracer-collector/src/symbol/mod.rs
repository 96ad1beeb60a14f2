//! Resolves the addresses of user stacks to functions, files and lines.
//!
//! The results become records, so that a trace reads the same on another machine.
//! It reads untrusted files as root: it maps none, bounds every read, and works on a thread of its own, for which the run
//! waits no longer than [`FINISH_TIMEOUT`].
//! It must not guess: it reads a file only if it is certainly the mapped one, or its debug file.

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

/// The end of a run waits this long for stacks that are still being resolved.
pub const FINISH_TIMEOUT: Duration = Duration::from_secs(10);
/// Nice value of the threads of this module.
const NICE: i32 = 10;
/// At most this many stacks wait to be resolved.
const QUEUE_MAX: usize = 4096;

/// A stack to resolve.
pub struct Request {
    pub id: i32,
    pub process: Arc<Process>,
    /// Innermost first: the instruction after the system call, then return addresses.
    pub addrs: Vec<u64>,
}

struct Answer {
    id: i32,
    places: Vec<Vec<Place>>,
}

/// A handle to the thread that resolves stacks. When it is dropped, the thread ends by itself.
pub struct Symbolizer {
    requests: Option<SyncSender<Request>>,
    answers: UnboundedReceiver<Answer>,
    waiting: HashSet<i32>,
    left_out: u64,
}

impl Symbolizer {
    /// Starts the thread. It searches `dirs` for debug files, then the system's directories.
    pub fn start(dirs: Vec<PathBuf>) -> Self {
        let (requests, todo) = sync_channel(QUEUE_MAX);
        let (done, answers) = unbounded_channel();
        let started = std::thread::Builder::new().name("symbols".into()).spawn(move || work(&todo, &done, dirs));
        if let Err(e) = &started {
            tracing::warn!("cannot resolve functions and lines: {e}");
        }
        Self { requests: started.ok().map(|_| requests), answers, waiting: HashSet::new(), left_out: 0 }
    }

    /// A handle without a thread: resolves nothing.
    pub fn off() -> Self {
        Self { requests: None, answers: unbounded_channel().1, waiting: HashSet::new(), left_out: 0 }
    }

    /// Whether stacks are resolved at all.
    pub fn is_on(&self) -> bool {
        self.requests.is_some()
    }

    /// Requests a stack. Never blocks: a stack that does not fit into the queue is left out.
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

    /// The next resolved stack; never completes while none is requested. May be cancelled at any time.
    pub async fn next(&mut self) -> Record {
        loop {
            let Some(answer) = self.answers.recv().await else { return std::future::pending().await };
            self.waiting.remove(&answer.id);
            if answer.places.iter().any(|p| !p.is_empty()) {
                return Record::Symbols { id: answer.id, places: answer.places };
            }
        }
    }

    /// Sends the remaining results, and waits for them no longer than [`FINISH_TIMEOUT`].
    pub async fn finish(&mut self, sink: &mut dyn FnMut(Record)) {
        // A thread that failed drops its end of the channel: no more results follow.
        let rest = async {
            while !self.waiting.is_empty() {
                let Some(answer) = self.answers.recv().await else { return };
                self.waiting.remove(&answer.id);
                if answer.places.iter().any(|p| !p.is_empty()) {
                    sink(Record::Symbols { id: answer.id, places: answer.places });
                }
            }
        };
        // Stacks that time out stay in `waiting`, and are counted as a problem.
        let _ = tokio::time::timeout(FINISH_TIMEOUT, rest).await;
    }

    /// How many stacks were not resolved, as a sentence.
    pub fn problem(&self) -> Option<String> {
        let n = self.left_out + u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        (n > 0).then(|| format!("functions and lines of {n} user stacks: too many, or a file took too long"))
    }
}

/// Lowers the priority of the calling thread below the traced processes and the thread that drains the ring buffers.
///
/// While a task is preempted in a BPF program, the kernel skips that program for other tasks on the same CPU.
fn go_behind() {
    // On Linux this affects only the calling thread.
    if let Err(e) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("cannot lower the priority of a thread: {e}");
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
