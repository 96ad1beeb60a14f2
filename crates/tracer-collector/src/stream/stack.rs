//! User stacks: reads each with the mappings of its process as soon as its event arrives, has it unwound, and has its
//! frames resolved.
//!
//! An event carries the key of a stack that the kernel followed by frame pointers, and often a copy of the stack's top.
//! An event with a copy gets a number of its own and is sent at once; the stack of that number follows when the copy was
//! unwound. Equal stacks, by files and offsets, are sent once, wherever their programs are mapped; later ones refer to
//! the first.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tracer_common::event::{Body, HEADER_LEN, Header, StackCopy};

use crate::inventory;
use crate::kernel::probes::Probes;
use crate::symbol::{CopyKey, CopyRequest, Cut, Process, Request, Symbolizer, Unwinding, Unwound};
use tracer_record::{BlockedThread, ReaderSampleRow, Record, ThreadRow};

/// At most this many processes have their mappings remembered, for stacks that are read after the process exited.
pub(super) const KNOWN_MAX: usize = 16;
/// At most this many children are remembered with the parent that they are a copy of.
const TWINS_MAX: usize = 4096;
/// At most this many forks are followed to a process that still exists.
const FORKS_MAX: usize = 9;
/// Numbers of stacks that were copied start here, above the keys of the kernel's map.
const FIRST: i32 = 1 << 24;
/// At most this many different unwound stacks.
const UNWOUND_MAX: usize = 16_384;
/// At most this many events wait for their copy or for its unwinding.
const WAITING_MAX: usize = 2048;
/// At most this many copies wait for their events, of which some were lost.
const UNCLAIMED_MAX: usize = 256;
/// At most this many unreadable files are counted by name.
const UNREADABLE_MAX: usize = 16;
/// At most this many stacks of sleeping threads are read at once.
const SLEEPERS_MAX: usize = 64;
/// Offsets of fields in [`Header`].
const STACK_AT: usize = std::mem::offset_of!(Header, stack);
const COPY_AT: usize = std::mem::offset_of!(Header, copy);

/// Turns stacks of the kernel's maps, and of sleeping threads, into records.
#[derive(Default)]
pub(super) struct Stacks {
    seen: HashSet<i32>,
    /// Stacks to read, by process.
    new: BTreeMap<u32, Vec<NewStack>>,
    /// How many numbers were assigned.
    assigned: i32,
    /// How many stacks of sleeping threads were read.
    reads: u32,
    blocked: Sleepers,
    sampled: Sleepers,
    waiting: HashMap<CopyKey, Waiting>,
    /// In order of arrival.
    unclaimed: VecDeque<Box<StackCopy>>,
    /// Numbers of the stacks sent, by their places and by how many of these unwind tables led to.
    numbers: HashMap<(Vec<Spot>, usize), i32>,
    ready: Vec<Record>,
    left_out: u64,
    not_unwound: u64,
    /// Events whose stacks end early because pages of the stack were not in memory.
    absent: u64,
    /// Events of processes that exited before their mappings were read.
    gone: u64,
    /// Events whose stacks end early because a file was unreadable, by file, with the reason.
    unreadable: BTreeMap<String, (u64, String)>,
    /// The processes read last, the newest at the end.
    known: VecDeque<Arc<Process>>,
    /// Parents of children that have not called exec since their fork: both have the same mappings.
    twins: HashMap<u32, u32>,
}

/// Sleeping threads by tid: which sleep it is, and the number of the stack, if it could be read.
type Sleepers = HashMap<u32, (u64, Option<i32>)>;

/// A sleeping thread, and where to put the number of its stack.
struct Sleeper<'a> {
    tgid: u32,
    tid: u32,
    /// Distinguishes this sleep from the thread's others.
    sleep: u64,
    stack: &'a mut Option<i32>,
}

/// A stack to read.
struct NewStack {
    id: i32,
    /// Key of the stack that frame pointers led to; negative: none.
    frames: i32,
    copy: Option<CopyKey>,
}

/// A stack that waits for its copy, or for the unwinding of that.
struct Waiting {
    id: i32,
    /// The frames that frame pointers led to.
    addrs: Vec<u64>,
    process: Arc<Process>,
}

/// A file (device, inode) and an offset in it, or an address outside of files.
type Spot = (Option<((u32, u32), u64)>, u64);

impl Stacks {
    /// Takes a record that has just arrived, and writes the number of its stack into it.
    pub(super) fn note(&mut self, bytes: &mut [u8]) {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return };
        let mut push = |id, copy| {
            self.new.entry(header.tgid).or_default().push(NewStack { id, frames: header.stack, copy });
        };
        if header.copy != 0 {
            let id = number(&mut self.assigned);
            push(id, Some((header.copy, header.tid)));
            let mut put = |at: usize, value: [u8; 4]| {
                if let Some(field) = bytes.get_mut(at..at + 4) {
                    field.copy_from_slice(&value);
                }
            };
            put(STACK_AT, id.to_ne_bytes());
            put(COPY_AT, [0; 4]);
        } else if header.stack >= 0 && self.seen.insert(header.stack) {
            push(header.stack, None);
        }
        match Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()) {
            Ok(Body::Fork(f)) => {
                self.known.retain(|p| p.tgid() != f.child);
                if self.twins.len() < TWINS_MAX {
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

    /// Sets the numbers of the stacks of blocked threads, and reads the stacks of new sleeps.
    pub(super) fn number_blocked(&mut self, threads: &mut [BlockedThread]) {
        let known = std::mem::take(&mut self.blocked);
        let asleep =
            threads.iter_mut().map(|t| Sleeper { tgid: t.tgid, tid: t.tid, sleep: t.since_ns, stack: &mut t.stack });
        self.blocked = self.number_sleepers(&known, asleep);
    }

    /// As [`Self::number_blocked`], for sampled threads that are held up, and threads of processes that these wait for,
    /// directly or through others.
    pub(super) fn number_threads(&mut self, rows: &mut [ThreadRow]) {
        let known = std::mem::take(&mut self.sampled);
        let on_chains = on_chains(rows);
        let asleep = rows.iter_mut().filter(|row| row.state == 'S' && row.syscall.is_some());
        let asleep = asleep.filter(|row| on_chains.contains(&row.tgid));
        let (held_up, others): (Vec<_>, Vec<_>) = asleep.partition(|row| row.is_held_up());
        let asleep = held_up.into_iter().chain(others);
        let asleep = asleep.map(|t| Sleeper { tgid: t.tgid, tid: t.tid, sleep: t.switches, stack: &mut t.stack });
        self.sampled = self.number_sleepers(&known, asleep);
    }

    /// As [`Self::number_blocked`], for the reader that a blocked thread waits for.
    pub(super) fn number_reader(&mut self, sample: &mut ReaderSampleRow) {
        if sample.syscall.is_some() {
            sample.stack = self.read(sample.tgid, sample.tid);
        }
    }

    fn number_sleepers<'a>(&mut self, known: &Sleepers, asleep: impl Iterator<Item = Sleeper<'a>>) -> Sleepers {
        let mut sleepers = Sleepers::new();
        let mut read = 0;
        for t in asleep {
            let id = match known.get(&t.tid).filter(|(sleep, _)| *sleep == t.sleep) {
                Some((_, id)) => *id,
                None if read >= SLEEPERS_MAX => continue,
                None => {
                    read += 1;
                    self.read(t.tgid, t.tid)
                }
            };
            *t.stack = id;
            sleepers.insert(t.tid, (t.sleep, id));
        }
        sleepers
    }

    /// Reads the stack of a sleeping thread, to be unwound like a copy.
    fn read(&mut self, tgid: u32, tid: u32) -> Option<i32> {
        let mut copy = inventory::stack_asleep(tgid, tid)?;
        // The kernel half's numbers of copies start above 65535, and a sleeping thread makes no copy.
        self.reads = self.reads.wrapping_add(1);
        copy.id = self.reads;
        let id = number(&mut self.assigned);
        self.new.entry(tgid).or_default().push(NewStack { id, frames: -1, copy: Some((copy.id, tid)) });
        self.unclaimed.push_back(copy);
        Some(id)
    }

    /// Takes a copy. Its event may arrive before or after it, or was lost.
    pub(super) fn copied(&mut self, bytes: &[u8]) {
        if let Ok(copy) = tracer_common::event::read::<StackCopy>(bytes) {
            self.unclaimed.push_back(Box::new(copy));
        }
    }

    /// Reads the new stacks, and sends them to be unwound and resolved.
    pub(super) fn read_new(&mut self, maps: &Probes, symbols: &mut Symbolizer, unwinding: &Unwinding) {
        for (tgid, new) in std::mem::take(&mut self.new) {
            let addrs = |h: &NewStack| u32::try_from(h.frames).map(|key| maps.stack(key)).unwrap_or_default();
            let addrs: Vec<Vec<u64>> = new.iter().map(addrs).collect();
            let unwinds = new.iter().any(|h| h.copy.is_some());
            let process = self.process(tgid, addrs.iter().flatten(), symbols.is_on(), unwinds);
            if process.is_gone() {
                self.gone += u64::try_from(new.len()).unwrap_or(u64::MAX);
            }
            for (NewStack { id, copy, .. }, addrs) in new.into_iter().zip(addrs) {
                let waiting = Waiting { id, addrs, process: process.clone() };
                match copy {
                    None => self.send(waiting, 0, symbols),
                    Some(_) if !unwinding.is_on() => self.intern(waiting, 0, symbols),
                    Some(_) if self.waiting.len() >= WAITING_MAX => self.give_up_on(waiting, symbols),
                    Some(key) => {
                        // Numbers of copies repeat, but only long after the older event's copy was lost.
                        if let Some(older) = self.waiting.insert(key, waiting) {
                            self.give_up_on(older, symbols);
                        }
                    }
                }
            }
        }
        for copy in std::mem::take(&mut self.unclaimed) {
            let key = (copy.id, copy.tid);
            let Some(waiting) = self.waiting.get(&key) else {
                self.unclaimed.push_back(copy);
                continue;
            };
            if !unwinding.ask(CopyRequest { key, process: waiting.process.clone(), copy })
                && let Some(waiting) = self.waiting.remove(&key)
            {
                self.give_up_on(waiting, symbols);
            }
        }
        let excess = self.unclaimed.len().saturating_sub(UNCLAIMED_MAX);
        self.unclaimed.drain(..excess);
    }

    /// Takes the frames found in a copy.
    pub(super) fn unwound(&mut self, found: Unwound, symbols: &mut Symbolizer) {
        let Some(waiting) = self.waiting.remove(&found.key) else { return };
        match found.cut {
            None => {}
            Some(Cut::Memory) => self.absent += 1,
            Some(Cut::File { path, why }) => {
                let room = self.unreadable.len() < UNREADABLE_MAX;
                let path = if room || self.unreadable.contains_key(&path) { path } else { "other files".to_owned() };
                self.unreadable.entry(path).or_insert((0, why)).0 += 1;
            }
        }
        let code = |addrs: &[u64]| addrs.iter().filter(|a| waiting.process.locate(**a).is_some()).count();
        // Keep the frames of frame pointers if they lead further: in code without tables, and in stacks larger than the copy.
        if code(&found.addrs) >= code(&waiting.addrs) {
            self.intern(Waiting { addrs: found.addrs, ..waiting }, found.by_tables, symbols);
        } else {
            self.intern(waiting, 0, symbols);
        }
    }

    /// Whether stacks are still being unwound.
    pub(super) fn are_pending(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Stops waiting: stacks not unwound by now keep the frames of frame pointers.
    pub(super) fn give_up(&mut self, symbols: &mut Symbolizer) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            self.give_up_on(waiting, symbols);
        }
    }

    fn give_up_on(&mut self, waiting: Waiting, symbols: &mut Symbolizer) {
        self.not_unwound += 1;
        self.intern(waiting, 0, symbols);
    }

    /// Sends the stack of a number, or the number of an equal one that was sent before.
    fn intern(&mut self, stack: Waiting, by_tables: usize, symbols: &mut Symbolizer) {
        let process = &stack.process;
        let spot = |addr: &u64| match process.locate(*addr) {
            Some((at, offset)) => (process.modules.get(at).map(|m| (m.device, m.inode)), offset),
            None => (None, *addr),
        };
        let spots: Vec<Spot> = stack.addrs.iter().map(spot).collect();
        if spots.is_empty() || stack.id < 0 {
            return;
        }
        if let Some(of) = self.numbers.get(&(spots.clone(), by_tables)) {
            self.ready.push(Record::SameStack { id: stack.id, of: *of });
        } else if self.numbers.len() < UNWOUND_MAX {
            self.numbers.insert((spots, by_tables), stack.id);
            self.send(stack, by_tables, symbols);
        } else {
            self.left_out += 1;
        }
    }

    fn send(&mut self, stack: Waiting, unwound: usize, symbols: &mut Symbolizer) {
        let Waiting { id, addrs, process } = stack;
        let frames = addrs.iter().map(|addr| process.frame(*addr)).collect();
        self.ready.push(Record::Stack { id, frames, unwound });
        symbols.ask(Request { id, process, addrs });
    }

    /// Takes the records since the last call.
    pub(super) fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.ready)
    }

    /// What is missing in the stacks, one sentence each; `shed`: number of stacks that were not copied.
    pub(super) fn problem(&self, shed: u64) -> impl Iterator<Item = String> {
        let not_copied = (shed > 0).then(|| {
            format!(
                "the stacks of {shed} events were not copied, to keep tracing cheap: frame pointers may leave out callers"
            )
        });
        let too_many = (self.left_out > 0)
            .then(|| format!("the stacks of {} events: more than {UNWOUND_MAX} different ones", self.left_out));
        let not_unwound = (self.not_unwound > 0).then(|| {
            format!(
                "the stacks of {} events were not unwound in time: frame pointers may leave out callers",
                self.not_unwound
            )
        });
        let absent = (self.absent > 0)
            .then(|| format!("callers in the stacks of {} events: parts of them were not in memory", self.absent));
        let unreadable = self
            .unreadable
            .iter()
            .map(|(path, (n, why))| format!("callers in the stacks of {n} events: the unwind tables of {path}: {why}"));
        let gone = (self.gone > 0)
            .then(|| format!("the files in the stacks of {} events: their processes exited before", self.gone));
        let sentences = [not_copied, too_many, not_unwound, gone, absent];
        sentences.into_iter().flatten().chain(unreadable)
    }

    /// Remembers a process whose stacks will follow: it may exit before they are read.
    pub(super) fn expect(&mut self, tgid: u32, hold: bool) {
        self.process(tgid, std::iter::empty(), hold, true);
    }

    /// The mappings of a process, with handles on files if `hold`: those that `addrs` lie in, and with `all` the others
    /// that unwinding may need. If the process is gone, its mappings of before, or those of the parent that it is a copy
    /// of.
    fn process<'a>(
        &mut self,
        tgid: u32,
        addrs: impl Iterator<Item = &'a u64> + Clone,
        hold: bool,
        all: bool,
    ) -> Arc<Process> {
        let mut at = tgid;
        let mut rest = None;
        // Forks of forks; the bound also ends a loop of reused pids.
        for _ in 0..FORKS_MAX {
            let process = Arc::new(held(at, addrs.clone(), hold, all));
            if !process.is_gone() {
                self.known.retain(|p| p.tgid() != at);
                self.known.push_back(process.clone());
                if self.known.len() > KNOWN_MAX {
                    self.known.pop_front();
                }
                return process;
            }
            if let Some(known) = self.known.iter().rev().find(|p| p.tgid() == at) {
                return known.clone();
            }
            rest.get_or_insert(process);
            let Some(parent) = self.twins.get(&at) else { break };
            at = *parent;
        }
        rest.unwrap_or_else(|| Arc::new(Process::read(tgid)))
    }
}

/// A process as it is now. It is read again if its mappings changed meanwhile.
fn held<'a>(tgid: u32, addrs: impl Iterator<Item = &'a u64> + Clone, hold: bool, all: bool) -> Process {
    let open = || {
        let mut process = Process::read(tgid);
        if hold {
            for addr in addrs.clone() {
                if let Some((module, _)) = process.locate(*addr) {
                    process.hold(module);
                }
            }
            if all {
                process.hold_all();
            }
        }
        process
    };
    let first = open();
    if first.is_gone() && !first.modules.is_empty() { open() } else { first }
}

/// Processes with threads that are held up, and all processes that could end their waits, directly or through others.
fn on_chains(rows: &[ThreadRow]) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let mut fresh: BTreeSet<u32> = rows.iter().filter(|row| row.is_held_up()).map(|row| row.tgid).collect();
    while !fresh.is_empty() {
        let waits = rows.iter().filter(|row| fresh.contains(&row.tgid)).flat_map(|row| &row.waits);
        let next: BTreeSet<u32> = waits.flat_map(|w| &w.releasers).map(|r| r.tgid).collect();
        all.append(&mut fresh);
        fresh = next.difference(&all).copied().collect();
    }
    all
}

/// The next number of a copied stack; -1 if there is none left.
fn number(assigned: &mut i32) -> i32 {
    let id = FIRST.checked_add(*assigned).unwrap_or(-1);
    *assigned = assigned.saturating_add(1);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbol::Symbolizer;
    use tracer_record::decode::header_bytes;
    use tracer_record::{Releaser, WaitRow, Way};

    const KEY: CopyKey = (5, 8);

    fn event(stack: i32, copy: u32) -> Vec<u8> {
        header_bytes(&Header { tgid: std::process::id(), tid: KEY.1, stack, copy, ..Header::default() })
    }

    fn number(bytes: &[u8]) -> (i32, u32) {
        let header = tracer_common::event::read::<Header>(bytes).unwrap_or_default();
        (header.stack, header.copy)
    }

    fn waiting(id: i32, process: &Arc<Process>, addrs: &[u64]) -> Waiting {
        Waiting { id, addrs: addrs.to_vec(), process: process.clone() }
    }

    #[test]
    fn chains_of_waits_lead_through_processes() {
        let row = |tgid, way, to: u32| ThreadRow {
            tgid,
            waits: vec![WaitRow { way, releasers: vec![Releaser { tgid: to, start_ns: 0 }], ..WaitRow::default() }],
            ..ThreadRow::default()
        };
        // 1 blocks sending to 2, which waits for 3; 4 is idle.
        let rows = [row(1, Way::Give, 2), row(2, Way::Take, 3), row(4, Way::Take, 1)];
        assert_eq!(on_chains(&rows), BTreeSet::from([1, 2, 3]));
        // A cycle ends, too.
        assert_eq!(on_chains(&[row(1, Way::Lock, 2), row(2, Way::Lock, 1)]), BTreeSet::from([1, 2]));
    }

    #[test]
    fn each_event_with_a_copy_has_a_number_and_the_others_keep_theirs() {
        let mut s = Stacks::default();
        let (mut first, mut second, mut none) = (event(3, 5), event(-1, 6), event(3, 0));
        for bytes in [&mut first, &mut second, &mut none] {
            s.note(bytes);
        }
        assert_eq!([number(&first), number(&second), number(&none)], [(FIRST, 0), (FIRST + 1, 0), (3, 0)]);
    }

    #[test]
    fn equal_stacks_are_sent_once_and_abandoned_ones_are_counted() {
        let mut s = Stacks::default();
        let mut symbols = Symbolizer::off();
        let process = Arc::new(Process::read(std::process::id()));
        let code = process.modules.first().map_or(0, |m| m.start);
        // By frame pointers nothing, by tables twice the same; then frame pointers that lead further.
        for (id, addrs) in [(1, vec![]), (2, vec![code]), (3, vec![code, code])] {
            s.waiting.insert(KEY, waiting(id, &process, &addrs));
            s.unwound(Unwound { key: KEY, addrs: vec![code], by_tables: 1, cut: None }, &mut symbols);
        }
        // A result without a waiting event, and an empty stack.
        s.unwound(Unwound { key: KEY, addrs: vec![code], by_tables: 1, cut: None }, &mut symbols);
        s.waiting.insert(KEY, waiting(4, &process, &[]));
        assert!(s.are_pending());
        s.give_up(&mut symbols);
        assert!(!s.are_pending());
        let stack = |id, n: usize, unwound| {
            let frames = std::iter::repeat_n(process.frame(code), n).collect();
            Record::Stack { id, frames, unwound }
        };
        assert_eq!(s.take(), [stack(1, 1, 1), Record::SameStack { id: 2, of: 1 }, stack(3, 2, 0)]);
        assert_eq!(s.problem(0).filter(|p| p.starts_with("the stacks of 1 events were not unwound")).count(), 1);
    }
}
