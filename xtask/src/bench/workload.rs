//! The work that the bench measures: loops of IPC calls, each in a process of its own.
//!
//! The process prints `ready`, waits for a line, works, prints its time in nanoseconds, and ends when its standard input
//! closes. So it starts before the tracer and ends after it.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use rustix::pipe::pipe;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    PipePingpong,
    PipeBulk,
    Eventfd,
    SemopPingpong,
}

/// The size of the work: about half a second untraced, seconds with the slowest tracer.
const ROUND_TRIPS: u32 = 100_000;
const EVENTFD_PAIRS: u32 = 400_000;
const BULK_BLOCKS: u32 = 16_000;
const BULK_BLOCK_BYTES: usize = 65_536;

impl Work {
    pub(crate) const ALL: [Self; 4] = [Self::PipePingpong, Self::PipeBulk, Self::Eventfd, Self::SemopPingpong];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PipePingpong => "pipe-pingpong",
            Self::PipeBulk => "pipe-bulk",
            Self::Eventfd => "eventfd",
            Self::SemopPingpong => "semop-pingpong",
        }
    }
}

/// The bench's handle of a workload's process, which ends on drop.
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts the process and waits until it is ready. Without work the process idles.
    pub(crate) fn start(work: Option<Work>) -> Result<Self> {
        let name = work.map(Work::name);
        Self::start_command(std::iter::once("work").chain(name))
    }

    /// Starts a hidden command of this program and waits until it is ready.
    pub(crate) fn start_command<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(own)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a workload")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("a workload has no standard output")?;
        let mut running = Self { child, input, output: BufReader::new(output) };
        match running.line()?.as_str() {
            "ready" => Ok(running),
            other => bail!("a workload printed `{other}` instead of `ready`"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs the work and returns its nanoseconds. The process lives until drop.
    pub(crate) fn run(&mut self) -> Result<u64> {
        self.request("go")
    }

    /// Sends a line and returns the nanoseconds that the process needed for it.
    pub(crate) fn request(&mut self, line: &str) -> Result<u64> {
        let input = self.input.as_mut().context("a workload has no standard input")?;
        input.write_all(format!("{line}\n").as_bytes()).context("a workload ended early")?;
        let line = self.line()?;
        line.parse().with_context(|| format!("a workload printed `{line}` instead of its time"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("cannot read from a workload")?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // End of file ends the process.
        self.input.take();
        let _ = self.child.wait();
    }
}

/// The workload's own side: `cargo xtask work [NAME]`.
pub(crate) fn serve(work: Option<Work>) -> Result<()> {
    pin_to_one_processor()?;
    ignore_interrupts();
    // Objects are created before `ready`, so only their use is measured.
    let body = work.map(prepare).transpose()?;
    println!("ready");
    let mut line = String::new();
    let mut input = std::io::stdin().lock();
    input.read_line(&mut line)?;
    if let Some(body) = body
        && line.trim() == "go"
    {
        let started = Instant::now();
        body()?;
        println!("{}", started.elapsed().as_nanos());
        line.clear();
        input.read_line(&mut line)?;
    }
    Ok(())
}

type Body = Box<dyn FnOnce() -> Result<()>>;

fn prepare(work: Work) -> Result<Body> {
    Ok(match work {
        Work::PipePingpong => {
            let ((left_in, left_out), (right_in, right_out)) = (pipe()?, pipe()?);
            Box::new(move || {
                both(
                    move || ping(&right_in, &left_out, ROUND_TRIPS, true),
                    move || ping(&left_in, &right_out, ROUND_TRIPS, false),
                )
            })
        }
        Work::PipeBulk => {
            let (output, input) = pipe()?;
            Box::new(move || both(move || fill(&input), move || drain(&output)))
        }
        Work::Eventfd => {
            let counter = eventfd(0, EventfdFlags::empty())?;
            Box::new(move || {
                let mut value = [0; 8];
                for _ in 0..EVENTFD_PAIRS {
                    write(&counter, &1_u64.to_ne_bytes())?;
                    read(&counter, &mut value)?;
                }
                Ok(())
            })
        }
        Work::SemopPingpong => {
            let set = SemSet::new()?;
            Box::new(move || {
                let id = set.id;
                let result = both(move || exchange(id, 1, 0, true), move || exchange(id, 0, 1, false));
                // Moves the whole set into the closure; otherwise it would be removed before its use.
                drop(set);
                result
            })
        }
    })
}

/// Runs both functions at the same time.
fn both(
    left: impl FnOnce() -> Result<()> + Send + 'static,
    right: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let other = thread::spawn(right);
    left()?;
    match other.join() {
        Ok(result) => result,
        Err(_) => bail!("the workload's second thread panicked"),
    }
}

/// One side of a ping-pong of single bytes.
fn ping(from: &OwnedFd, to: &OwnedFd, times: u32, first: bool) -> Result<()> {
    let mut byte = [0];
    for _ in 0..times {
        if first {
            write(to, &byte)?;
        }
        read(from, &mut byte)?;
        if !first {
            write(to, &byte)?;
        }
    }
    Ok(())
}

fn fill(to: &OwnedFd) -> Result<()> {
    let block = vec![0; BULK_BLOCK_BYTES];
    for _ in 0..BULK_BLOCKS {
        let mut rest: &[u8] = &block;
        while !rest.is_empty() {
            let written = write(to.as_fd(), rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}

fn drain(from: &OwnedFd) -> Result<()> {
    let mut block = vec![0; BULK_BLOCK_BYTES];
    let mut left = BULK_BLOCK_BYTES * BULK_BLOCKS as usize;
    while left > 0 {
        match read(from, &mut block)? {
            0 => bail!("the writer ended early"),
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

/// A private set of two semaphores, removed on drop.
struct SemSet {
    id: i32,
}

impl SemSet {
    fn new() -> Result<Self> {
        // SAFETY: semget takes plain numbers and touches no memory of ours.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 2, 0o600) };
        if id < 0 {
            return Err(std::io::Error::last_os_error())
                .context("semget failed: compare `ipcs -s` with the limits in kernel.sem");
        }
        Ok(Self { id })
    }
}

impl Drop for SemSet {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no further argument.
        unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) };
    }
}

/// Posts one semaphore and waits for the other, in turns.
fn exchange(id: i32, take: u16, give: u16, first: bool) -> Result<()> {
    for _ in 0..ROUND_TRIPS {
        if first {
            semop(id, give, 1)?;
        }
        semop(id, take, -1)?;
        if !first {
            semop(id, give, 1)?;
        }
    }
    Ok(())
}

fn semop(id: i32, number: u16, change: i16) -> Result<()> {
    let mut operation = libc::sembuf { sem_num: number, sem_op: change, sem_flg: 0 };
    // SAFETY: points to one operation, as the count states, which lives through the call.
    let result = unsafe { libc::semop(id, &raw mut operation, 1) };
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context("semop failed");
    }
    Ok(())
}

/// Uses the last allowed CPU, because the first one serves most interrupts.
fn pin_to_one_processor() -> Result<()> {
    let allowed = sched_getaffinity(None).context("cannot read the CPU mask")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(last.context("no CPU is allowed")?);
    sched_setaffinity(None, &one).context("cannot pin the workload")
}

/// SIGINT ends the bench only; the workload's input then closes, and it removes its objects.
pub(super) fn ignore_interrupts() {
    // SAFETY: SIG_IGN installs no handler of ours, and no thread runs yet.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn workloads_are_named_as_the_command_line_does() {
        for work in Work::ALL {
            assert_eq!(Work::from_str(work.name(), false), Ok(work));
        }
        assert_eq!(Work::ALL.len(), Work::value_variants().len());
    }

    #[test]
    fn a_posted_semaphore_can_be_taken() -> Result<()> {
        let set = SemSet::new()?;
        for _ in 0..3 {
            semop(set.id, 0, 1)?;
            semop(set.id, 0, -1)?;
        }
        Ok(())
    }
}
