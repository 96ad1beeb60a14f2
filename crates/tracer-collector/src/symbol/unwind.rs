//! Unwinds copies of user stacks to return addresses, with the unwind tables of the mapped programs (`.eh_frame`).
//!
//! It works on a thread of its own, because it reads tables from files. It must not store a copy, which is memory of
//! other processes: it drops the copy as soon as the addresses are known.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder,
    UnwinderNative,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracer_common::event::{COPY_PAGE, StackCopy};

use super::elf::{Elf, ElfError, Section, Source, address};
use super::process::{FileKey, Process};

/// Most frames of a stack.
const FRAMES_MAX: usize = 127;
/// Largest table that is read, in bytes.
const TABLE_MAX: u64 = 64 << 20;
/// At most this many bytes of cached tables; beyond that all are dropped at once.
const CACHE_MAX: usize = 128 << 20;
/// At most this many copies of 16 KiB wait at once.
const QUEUE_MAX: usize = 1024;

/// Identifies a copy: its number and the tid.
pub type CopyKey = (u32, u32);

/// A copy to unwind.
pub struct CopyRequest {
    pub key: CopyKey,
    pub process: Arc<Process>,
    pub copy: Box<StackCopy>,
}

/// An unwound stack. At least the first address is right: it is the instruction pointer.
#[derive(Debug, PartialEq, Eq)]
pub struct Unwound {
    pub key: CopyKey,
    pub addrs: Vec<u64>,
    /// Number of addresses found by tables; the others were found by frame pointers.
    pub by_tables: usize,
    /// Why callers may be missing that tables would have found.
    pub cut: Option<Cut>,
}

/// Why unwinding stopped before the end of the stack.
#[derive(Debug, PartialEq, Eq)]
pub enum Cut {
    /// Pages of the stack were not in memory when it was copied.
    Memory,
    /// A file of the process could not be read.
    File { path: String, why: String },
}

/// A handle to the thread that unwinds stacks.
pub struct Unwinding {
    requests: Option<SyncSender<CopyRequest>>,
    answers: UnboundedReceiver<Unwound>,
}

impl Unwinding {
    pub fn start() -> Self {
        let (requests, todo) = sync_channel(QUEUE_MAX);
        let (done, answers) = unbounded_channel();
        let started = std::thread::Builder::new().name("unwind".into()).spawn(move || work(&todo, &done));
        if let Err(e) = &started {
            tracing::warn!("cannot unwind stacks, only frame pointers are followed: {e}");
        }
        Self { requests: started.ok().map(|_| requests), answers }
    }

    /// A handle without a thread: unwinds nothing.
    pub fn off() -> Self {
        Self { requests: None, answers: unbounded_channel().1 }
    }

    /// Whether stacks are unwound at all.
    pub fn is_on(&self) -> bool {
        self.requests.is_some()
    }

    /// Requests a stack. Returns false if the queue is full or the thread has ended.
    pub fn ask(&self, request: CopyRequest) -> bool {
        self.requests.as_ref().is_some_and(|r| r.try_send(request).is_ok())
    }

    /// The next unwound stack; never completes without a thread. May be cancelled at any time.
    pub async fn next(&mut self) -> Unwound {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// The next unwound stack, if one is ready.
    pub fn ready(&mut self) -> Option<Unwound> {
        self.answers.try_recv().ok()
    }
}

fn work(todo: &Receiver<CopyRequest>, done: &UnboundedSender<Unwound>) {
    super::go_behind();
    let mut tables = Tables::default();
    while let Ok(CopyRequest { key, process, copy }) = todo.recv() {
        // Tables are untrusted input, too: a panic costs this stack and the cached tables, not the run.
        let found = catch_unwind(AssertUnwindSafe(|| tables.unwind(&process, &copy)));
        let (addrs, by_tables, cut) = found.unwrap_or_else(|_| {
            tables = Tables::default();
            let frame = process.frame(copy.ip);
            let path = frame.module.unwrap_or_default();
            (vec![copy.ip], 1, Some(Cut::File { path, why: "its tables are broken".to_owned() }))
        });
        if done.send(Unwound { key, addrs, by_tables, cut }).is_err() {
            return;
        }
    }
}

type Bytes = Arc<[u8]>;
type Frames = UnwinderNative<Bytes, MayAllocateDuringUnwind>;

/// The tables of one file.
#[derive(Clone)]
struct Table {
    info: ExplicitModuleSectionInfo<Bytes>,
    /// Segments: (offset in the file, length, linked address).
    segments: Vec<super::elf::Segment>,
}

/// Cached tables, by file.
#[derive(Default)]
pub struct Tables {
    files: HashMap<FileKey, Option<Table>>,
    bytes: usize,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Tables {
    /// The return addresses of a copied stack, how many of them tables found, and why unwinding stopped.
    pub fn unwind(&mut self, process: &Process, copy: &StackCopy) -> (Vec<u64>, usize, Option<Cut>) {
        let mut unwinder = Frames::new();
        let mut regs = registers(copy);
        let (mut addrs, mut by_tables, mut cut) = (vec![copy.ip], 0, None);
        let mut absent = false;
        let mut read = |addr| word(copy, addr).map_err(|why| absent |= why == Unread::Absent);
        let mut added: HashMap<usize, bool> = HashMap::new();
        let mut at = FrameAddress::from_instruction_pointer(copy.ip);
        loop {
            let pc = at.address_for_lookup();
            let module = process.locate(pc);
            let covered = module.is_some_and(|(m, offset)| {
                *added.entry(m).or_insert_with(|| {
                    self.add(process, m, (pc, offset), &mut unwinder).unwrap_or_else(|e| {
                        let path = process.frame(pc).module.unwrap_or_default();
                        cut.get_or_insert(Cut::File { path, why: e.to_string() });
                        false
                    })
                })
            });
            if by_tables == 0 && !covered {
                by_tables = addrs.len();
            }
            match unwinder.unwind_frame(at, &mut regs, &mut self.cache, &mut read) {
                Ok(Some(next)) if addrs.len() < FRAMES_MAX => {
                    // A frame pointer led to an address outside of code, which is no caller.
                    if !covered && process.locate(next).is_none() && module.is_some() {
                        break;
                    }
                    addrs.push(next);
                    let Some(next) = FrameAddress::from_return_address(next) else { break };
                    at = next;
                }
                Ok(_) | Err(_) => break,
            }
        }
        let by_tables = if by_tables == 0 { addrs.len() } else { by_tables };
        (addrs, by_tables, cut.or(absent.then_some(Cut::Memory)))
    }

    /// Bytes of the cached tables.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the tables of a module to an unwinder, given one address and its offset in the file; returns false if it has
    /// none.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    fn add(
        &mut self,
        process: &Process,
        module: usize,
        known: (u64, u64),
        unwinder: &mut Frames,
    ) -> Result<bool, ElfError> {
        let Some(m) = process.modules.get(module) else { return Ok(false) };
        let (file, key) = match process.open(module) {
            Ok(opened) => opened,
            // The vDSO, and files that are never read.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        if !self.files.contains_key(&key) {
            let table = match Elf::open(Source::file(file)?).and_then(|elf| read(&elf)) {
                Ok(table) => table,
                // Not cached: the next attempt may succeed.
                Err(e @ ElfError::Io(_)) => return Err(e),
                Err(_) => None,
            };
            self.bytes += table.as_ref().map_or(0, size);
            if self.bytes > CACHE_MAX {
                self.files.clear();
                self.bytes = table.as_ref().map_or(0, size);
            }
            self.files.insert(key, table);
        }
        let Some(Some(table)) = self.files.get(&key) else { return Ok(false) };
        let base = table.info.base_svma;
        // Not the mapping's start, which is rounded down to a page and may lie in the segment before.
        let Some(linked) = address(&table.segments, known.1).and_then(|a| a.checked_sub(base)) else {
            return Ok(false);
        };
        let Some(base_avma) = known.0.checked_sub(linked) else { return Ok(false) };
        unwinder.add_module(Module::new(String::new(), m.start..m.end, base_avma, table.info.clone()));
        Ok(true)
    }
}

/// The tables of a file; `None` if it has none.
fn read(elf: &Elf) -> Result<Option<Table>, ElfError> {
    let range = |s: &Section| s.addr..s.addr.saturating_add(s.size);
    let contents = |s: &Section| match elf.contents(s, TABLE_MAX) {
        Ok(bytes) => Ok(Some(Bytes::from(bytes)).filter(|b| !b.is_empty())),
        Err(e @ ElfError::Io(_)) => Err(e),
        Err(_) => Ok(None),
    };
    let Some(frames) = elf.section(".eh_frame") else { return Ok(None) };
    let Some(bytes) = contents(frames)? else { return Ok(None) };
    let index = elf.section(".eh_frame_hdr");
    let Some(first) = elf.segments.iter().map(|s| s.addr).min() else { return Ok(None) };
    let base_svma = first & !(COPY_PAGE as u64 - 1);
    let info = ExplicitModuleSectionInfo {
        base_svma,
        text_svma: elf.section(".text").map(range),
        got_svma: elf.section(".got").map(range),
        eh_frame_svma: Some(range(frames)),
        eh_frame: Some(bytes),
        eh_frame_hdr_svma: index.map(range),
        eh_frame_hdr: index.map(contents).transpose()?.flatten(),
        ..ExplicitModuleSectionInfo::default()
    };
    Ok(Some(Table { info, segments: elf.segments.clone() }))
}

fn size(table: &Table) -> usize {
    [&table.info.eh_frame, &table.info.eh_frame_hdr].into_iter().flatten().map(|b| b.len()).sum()
}

#[cfg(target_arch = "x86_64")]
fn registers(copy: &StackCopy) -> UnwindRegsNative {
    UnwindRegsNative::new(copy.ip, copy.sp, copy.fp)
}

#[cfg(target_arch = "aarch64")]
fn registers(copy: &StackCopy) -> UnwindRegsNative {
    UnwindRegsNative::new(copy.lr, copy.sp, copy.fp)
}

/// Why a word of a stack is missing.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    /// It lies outside of the copy.
    Outside,
    /// Its page could not be copied.
    Absent,
}

/// The eight bytes at an address of the stack, if they were copied.
fn word(copy: &StackCopy, addr: u64) -> Result<u64, Unread> {
    let base = copy.sp & !(COPY_PAGE as u64 - 1);
    let at = addr.checked_sub(base).and_then(|at| usize::try_from(at).ok()).ok_or(Unread::Outside)?;
    let word = copy.bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Unread::Outside)?;
    let absent = |at: usize| copy.unread >> (at / COPY_PAGE) & 1 == 1;
    if absent(at) || absent(at + 7) {
        return Err(Unread::Absent);
    }
    Ok(u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use tracer_common::event::COPY_PAGES;

    use super::*;

    fn copy(sp: u64, unread: u64, bytes: &[u8]) -> Box<StackCopy> {
        let mut out = Box::new(StackCopy {
            ts_ns: 1,
            id: 1,
            tid: 1,
            ip: 0,
            sp,
            fp: 0,
            lr: 0,
            unread,
            bytes: [0; COPY_PAGES * COPY_PAGE],
        });
        out.bytes[..bytes.len()].copy_from_slice(bytes);
        out
    }

    #[test]
    fn only_what_was_copied_is_read() {
        let copy = copy(0x7fff_0010, 0b0010, &7_u64.to_ne_bytes());
        assert_eq!(word(&copy, 0x7fff_0000), Ok(7));
        assert_eq!(word(&copy, 0x7fff_0ff8), Ok(0));
        for addr in [0, 0x7ffe_fff8, 0x7fff_4000, 0x7fff_3ff9, u64::MAX] {
            assert_eq!(word(&copy, addr), Err(Unread::Outside), "{addr:#x}");
        }
        for addr in [0x7fff_0ff9, 0x7fff_1000, 0x7fff_1ff9] {
            assert_eq!(word(&copy, addr), Err(Unread::Absent), "{addr:#x}");
        }
        assert_eq!(word(&copy, 0x7fff_2000), Ok(0));
    }

    /// Whatever the registers and the memory are, it ends, and the first address is the instruction pointer.
    #[test]
    fn garbage_ends() {
        let process = Process::read(std::process::id());
        let mut tables = Tables::default();
        let text = process.modules.first().map_or(0, |m| m.start);
        let mut seed = 1_u64;
        for _ in 0..200 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let words: Vec<u8> =
                (0..512_u64).flat_map(|n| (text + (seed >> (n % 40)) % 0x10_0000).to_ne_bytes()).collect();
            let mut copy = copy(0x7fff_0000 + seed % 4096, seed % 16, &words);
            copy.ip = text + seed % 0x10_0000;
            copy.fp = 0x7fff_0000 + seed % 8192;
            let (addrs, by_tables, _) = tables.unwind(&process, &copy);
            assert!(addrs.first() == Some(&copy.ip) && addrs.len() <= FRAMES_MAX && by_tables <= addrs.len());
        }
        let (addrs, ..) = tables.unwind(&process, &copy(u64::MAX, 0, &[]));
        assert_eq!(addrs, [0]);
    }
}
