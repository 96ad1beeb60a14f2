//! User stacks: read with the files mapped in their processes as soon as they are heard of, unwound, and sent to be named.
//!
//! An event carries the key of a stack that the kernel followed by frame pointers, and often a copy of the stack's top.
//! The copy is unwound elsewhere; until that is done, or for [`DEADLINE_NS`] without progress, the event is held back, so
//! that it can name the stack that was found. Equal stacks, by files and offsets, get one number, wherever their programs
//! lie.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tracer_common::event::{Body, HEADER_LEN, Header, StackCopy};

use crate::inventory;
use crate::kernel::probes::Probes;
use crate::record::{Frame, Record};
use crate::symbol::{CopyKey, CopyRequest, Process, Request, Symbolizer, Unwinding, Unwound};

/// Processes whose mappings are remembered for stacks that are read after their end.
pub(super) const KNOWN_MAX: usize = 16;
/// Children of which it is remembered whose copy they are.
const COPIES_MAX: usize = 4096;
/// An event waits so long for its stack, and longer while others are unwound, but no longer than [`LIMIT_NS`].
const DEADLINE_NS: u64 = 1_000_000_000;
const LIMIT_NS: u64 = 5_000_000_000;
/// Numbers of unwound stacks start here, above the keys of the kernel's map.
const FIRST: i32 = 1 << 24;
/// Unwound stacks that are told apart.
const UNWOUND_MAX: usize = 16_384;
/// Where the fields are in [`Header`].
const STACK_AT: usize = std::mem::offset_of!(Header, stack);
const COPY_AT: usize = std::mem::offset_of!(Header, copy);

/// Stacks on their way from the kernel's maps to records.
#[derive(Default)]
pub(super) struct Stacks {
    seen: HashSet<i32>,
    /// Heard of since the last look: (tgid, stack).
    new: Vec<(u32, i32)>,
    ready: HashMap<i32, Record>,
    /// Events with a copy that were not given out.
    copied: HashMap<CopyKey, Copied>,
    copies: Vec<Box<StackCopy>>,
    /// When a stack was unwound last.
    progress_ns: u64,
    /// Stacks by their places.
    numbers: HashMap<Vec<Spot>, i32>,
    left_out: u64,
    /// Events that were given out before their stack was unwound.
    late: u64,
    /// Those looked at last, the newest at the end.
    known: VecDeque<Arc<Process>>,
    /// Children that have not executed a program since their fork: their code is where their parents' is.
    twins: HashMap<u32, u32>,
}

/// An event with a copy.
struct Copied {
    tgid: u32,
    ts_ns: u64,
    /// Key of the stack by frame pointers, and its addresses, once they were read.
    stack: i32,
    addrs: Vec<u64>,
    process: Option<Arc<Process>>,
    unwound: Option<(Vec<u64>, usize)>,
    /// Nothing more will come.
    done: bool,
}

/// What was heard of one process.
#[derive(Default)]
struct Heard {
    /// Keys and addresses of stacks without a copy.
    stacks: Vec<(i32, Vec<u64>)>,
    copies: Vec<Box<StackCopy>>,
}

/// A place in a file, or an address where there is none.
type Spot = (Option<((u32, u32), u64)>, u64);

impl Stacks {
    /// Takes note of a record that has just come.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return };
        if header.copy != 0 {
            let event = Copied {
                tgid: header.tgid,
                ts_ns: header.ts_ns,
                stack: header.stack,
                addrs: Vec::new(),
                process: None,
                unwound: None,
                done: false,
            };
            self.copied.insert((header.copy, header.tid), event);
        } else if header.stack >= 0 && self.seen.insert(header.stack) {
            self.new.push((header.tgid, header.stack));
        }
        match Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()) {
            Ok(Body::Fork(f)) => {
                self.known.retain(|p| p.tgid() != f.child);
                if self.twins.len() < COPIES_MAX {
                    self.twins.insert(f.child, header.tgid);
                }
            }
            Ok(Body::Exec(_)) => {
                self.known.retain(|p| p.tgid() != header.tgid);
                self.twins.remove(&header.tgid);
            }
            Ok(Body::Free(f)) => {
                self.twins.remove(&f.tgid);
            }
            _ => {}
        }
    }

    /// Takes a copy; those of events that were lost are dropped at the next look.
    pub(super) fn copied(&mut self, bytes: &[u8]) {
        if let Ok(copy) = tracer_common::event::read::<StackCopy>(bytes) {
            self.copies.push(Box::new(copy));
        }
    }

    /// Reads the stacks heard of, and sends them to be unwound and named.
    pub(super) fn look(&mut self, maps: &Probes, symbols: &mut Symbolizer, unwinding: &Unwinding) {
        let mut by: BTreeMap<u32, Heard> = BTreeMap::new();
        for (tgid, id) in std::mem::take(&mut self.new) {
            by.entry(tgid).or_default().stacks.push((id, maps.stack(id.cast_unsigned())));
        }
        for copy in std::mem::take(&mut self.copies) {
            if let Some(event) = self.copied.get_mut(&(copy.id, copy.tid)).filter(|e| e.process.is_none()) {
                if let Ok(key) = u32::try_from(event.stack) {
                    event.addrs = maps.stack(key);
                }
                by.entry(event.tgid).or_default().copies.push(copy);
            }
        }
        for (tgid, Heard { stacks, copies }) in by {
            let unwinds = !copies.is_empty();
            let process = self.process(tgid, stacks.iter().flat_map(|(_, addrs)| addrs), symbols.is_on(), unwinds);
            for (id, addrs) in stacks {
                self.tell(id, &process, addrs, 0, symbols);
            }
            for copy in copies {
                let key = (copy.id, copy.tid);
                let Some(event) = self.copied.get_mut(&key) else { continue };
                event.process = Some(process.clone());
                event.done = !unwinding.ask(CopyRequest { key, process: process.clone(), copy });
            }
        }
        // The copy of each event was there before it: where there is none now, none comes.
        for event in self.copied.values_mut().filter(|e| e.process.is_none()) {
            event.done = true;
        }
    }

    /// Takes what was found in a copy.
    pub(super) fn unwound(&mut self, found: Unwound) {
        self.progress_ns = inventory::boot_ns();
        if let Some(event) = self.copied.get_mut(&found.key) {
            event.unwound = Some((found.addrs, found.by_tables));
            event.done = true;
        }
    }

    /// Time of the oldest event that waits for its stack, and may.
    pub(super) fn since_ns(&self) -> Option<u64> {
        if self.copied.is_empty() {
            return None;
        }
        let now_ns = inventory::boot_ns();
        let waited_ns = if now_ns.saturating_sub(self.progress_ns) < DEADLINE_NS { LIMIT_NS } else { DEADLINE_NS };
        let oldest_ns = now_ns.saturating_sub(waited_ns);
        self.copied.values().filter(|e| !e.done && e.ts_ns > oldest_ns).map(|e| e.ts_ns).min()
    }

    /// Whether events up to this time wait.
    pub(super) fn holds(&self, until_ns: u64) -> bool {
        self.since_ns().is_some_and(|since_ns| since_ns <= until_ns)
    }

    /// Writes the number of its stack into an event that is given out.
    pub(super) fn number(&mut self, bytes: &mut [u8], symbols: &mut Symbolizer) {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return };
        if header.copy == 0 {
            return;
        }
        let mut id = header.stack;
        if let Some(event) = self.copied.remove(&(header.copy, header.tid))
            && let Some(process) = event.process
        {
            self.late += u64::from(!event.done);
            let code = |addrs: &[u64]| addrs.iter().filter(|a| process.locate(**a).is_some()).count();
            // Frame pointers where they lead further: code without tables, and stacks that are larger than the copy.
            let (addrs, by_tables) = match event.unwound {
                Some((addrs, n)) if code(&addrs) >= code(&event.addrs) => (addrs, n),
                Some(_) | None => (event.addrs, 0),
            };
            id = self.interned(&process, addrs, by_tables, symbols);
        }
        let mut put = |at: usize, value: [u8; 4]| {
            if let Some(field) = bytes.get_mut(at..at + 4) {
                field.copy_from_slice(&value);
            }
        };
        put(STACK_AT, id.to_ne_bytes());
        put(COPY_AT, [0; 4]);
    }

    /// The number of a stack; the first time it is told.
    fn interned(&mut self, process: &Arc<Process>, addrs: Vec<u64>, by_tables: usize, symbols: &mut Symbolizer) -> i32 {
        let spot = |addr: &u64| match process.locate(*addr) {
            Some((at, offset)) => (process.modules.get(at).map(|m| (m.device, m.inode)), offset),
            None => (None, *addr),
        };
        let spots: Vec<Spot> = addrs.iter().map(spot).collect();
        if spots.is_empty() {
            return -1;
        }
        if let Some(id) = self.numbers.get(&spots) {
            return *id;
        }
        if self.numbers.len() >= UNWOUND_MAX {
            self.left_out += 1;
            return -1;
        }
        let id = FIRST + i32::try_from(self.numbers.len()).unwrap_or(0);
        self.numbers.insert(spots, id);
        self.tell(id, process, addrs, by_tables, symbols);
        id
    }

    fn tell(&mut self, id: i32, process: &Arc<Process>, addrs: Vec<u64>, unwound: usize, symbols: &mut Symbolizer) {
        let frames = addrs.iter().map(|addr| frame(process, *addr)).collect();
        self.ready.insert(id, Record::Stack { id, frames, unwound });
        symbols.ask(Request { id, process: process.clone(), addrs });
    }

    /// The record of a stack, once.
    pub(super) fn take(&mut self, id: i32) -> Option<Record> {
        self.ready.remove(&id)
    }

    /// What of the stacks is not known, as a sentence; `shed` were not copied.
    pub(super) fn problem(&self, shed: u64) -> impl Iterator<Item = String> {
        let not_copied = (shed > 0).then(|| {
            format!(
                "the stacks of {shed} events were not copied, so that tracing stays cheap: they were followed by frame \
                 pointers, which may leave out callers"
            )
        });
        let too_many = (self.left_out > 0)
            .then(|| format!("the stacks of {} events: more than {UNWOUND_MAX} different ones", self.left_out));
        let late = (self.late > 0).then(|| {
            format!(
                "the stacks of {} events were not unwound in time: they were followed by frame pointers, which may leave \
                 out callers",
                self.late
            )
        });
        not_copied.into_iter().chain(too_many).chain(late)
    }

    /// Looks at a process that will be heard of: it may be gone by then.
    pub(super) fn expect(&mut self, tgid: u32, hold: bool) {
        self.process(tgid, std::iter::empty(), hold, true);
    }

    /// The mappings of a process, with files held: those that these addresses lead to, and with `all` the others that
    /// unwinding may lead to. If it is gone, as it was seen last, or those of the process that it is a copy of.
    fn process<'a>(&mut self, tgid: u32, addrs: impl Iterator<Item = &'a u64>, hold: bool, all: bool) -> Arc<Process> {
        let mut process = Process::look(tgid);
        if process.is_gone() {
            let mut ancestor = tgid;
            // Forks of forks; a loop of reused numbers ends, too.
            for _ in 0..8 {
                if let Some(known) = self.known.iter().rev().find(|p| p.tgid() == ancestor) {
                    return known.clone();
                }
                let Some(parent) = self.twins.get(&ancestor) else { break };
                ancestor = *parent;
                process = Process::look(ancestor);
                if !process.is_gone() {
                    break;
                }
            }
        }
        if hold {
            for addr in addrs {
                if let Some((module, _)) = process.locate(*addr) {
                    process.hold(module);
                }
            }
            if all {
                process.hold_all();
            }
        }
        let process = Arc::new(process);
        if !process.is_gone() {
            self.known.retain(|p| p.tgid() != process.tgid());
            self.known.push_back(process.clone());
            if self.known.len() > KNOWN_MAX {
                self.known.pop_front();
            }
        }
        process
    }
}

fn frame(process: &Process, addr: u64) -> Frame {
    let place = process.locate(addr).and_then(|(at, offset)| Some((process.modules.get(at)?.path.clone(), offset)));
    let (module, offset) = place.unzip();
    Frame { addr, module, offset }
}
