//! User stacks: read with the files mapped in their processes as soon as they are heard of, unwound, and sent to be named.
//!
//! An event carries the key of a stack that the kernel followed by frame pointers, and often a copy of the stack's top.
//! An event with a copy gets a number of its own and goes on: which stack that is, is told when the copy was unwound.
//! Equal stacks, by files and offsets, are told once, wherever their programs lie, and later ones as the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tracer_common::event::{Body, HEADER_LEN, Header, StackCopy};

use crate::inventory;
use crate::kernel::probes::Probes;
use crate::symbol::{CopyKey, CopyRequest, Cut, Process, Request, Symbolizer, Unwinding, Unwound};
use tracer_record::{BlockedThread, ReaderSampleRow, Record, ThreadRow};

/// Processes whose mappings are remembered for stacks that are read after their end.
pub(super) const KNOWN_MAX: usize = 16;
/// Children of which it is remembered whose copy they are.
const TWINS_MAX: usize = 4096;
/// Forks that are followed to a process that is still there.
const FORKS_MAX: usize = 9;
/// Numbers of stacks that were copied start here, above the keys of the kernel's map.
const FIRST: i32 = 1 << 24;
/// Unwound stacks that are told apart.
const UNWOUND_MAX: usize = 16_384;
/// Events whose copies are awaited or unwound at once.
const WAITING_MAX: usize = 2048;
/// Copies kept whose events have not come; those of lost events are among them.
const UNCLAIMED_MAX: usize = 256;
/// Files that could not be read, by name.
const UNREADABLE_MAX: usize = 16;
/// Stacks of sleepers that are read at once.
const SLEEPERS_MAX: usize = 64;
/// Where the fields are in [`Header`].
const STACK_AT: usize = std::mem::offset_of!(Header, stack);
const COPY_AT: usize = std::mem::offset_of!(Header, copy);

/// Stacks on their way from the kernel's maps to records.
#[derive(Default)]
pub(super) struct Stacks {
    seen: HashSet<i32>,
    /// Since the last look.
    heard: BTreeMap<u32, Vec<Heard>>,
    /// How many numbers were given.
    given: i32,
    /// Stacks of sleepers that were read.
    reads: u32,
    blocked: Sleepers,
    looked_at: Sleepers,
    waiting: HashMap<CopyKey, Waiting>,
    /// In the order in which they came.
    unclaimed: VecDeque<Box<StackCopy>>,
    /// Stacks by their places, and by how many of them can be trusted.
    numbers: HashMap<(Vec<Spot>, usize), i32>,
    ready: Vec<Record>,
    left_out: u64,
    not_unwound: u64,
    /// Events whose stacks end early, because pages of them were not in memory.
    absent: u64,
    /// Events of processes that were gone before their mappings were read.
    gone: u64,
    /// The same by the file that could not be read, with the reason.
    unreadable: BTreeMap<String, (u64, String)>,
    /// Those looked at last, the newest at the end.
    known: VecDeque<Arc<Process>>,
    /// Children that have not executed a program since their fork: their code is where their parents' is.
    twins: HashMap<u32, u32>,
}

/// Threads that sleep, by their number: which sleep it is, and the number of their stack, if it could be read.
type Sleepers = HashMap<u32, (u64, Option<i32>)>;

/// A thread that sleeps, and where to put the number of its stack.
struct Sleeper<'a> {
    tgid: u32,
    tid: u32,
    /// What tells this sleep from the thread's others.
    sleep: u64,
    stack: &'a mut Option<i32>,
}

/// A stack of a process.
struct Heard {
    id: i32,
    /// Key of the stack by frame pointers; negative: none.
    frames: i32,
    copy: Option<CopyKey>,
}

/// A stack whose copy is awaited or unwound.
struct Waiting {
    id: i32,
    /// By frame pointers.
    addrs: Vec<u64>,
    process: Arc<Process>,
}

/// A place in a file, or an address where there is none.
type Spot = (Option<((u32, u32), u64)>, u64);

impl Stacks {
    /// Takes note of a record that has just come, and writes the number of its stack into it.
    pub(super) fn note(&mut self, bytes: &mut [u8]) {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return };
        let mut hear = |id, copy| {
            self.heard.entry(header.tgid).or_default().push(Heard { id, frames: header.stack, copy });
        };
        if header.copy != 0 {
            let id = number(&mut self.given);
            hear(id, Some((header.copy, header.tid)));
            let mut put = |at: usize, value: [u8; 4]| {
                if let Some(field) = bytes.get_mut(at..at + 4) {
                    field.copy_from_slice(&value);
                }
            };
            put(STACK_AT, id.to_ne_bytes());
            put(COPY_AT, [0; 4]);
        } else if header.stack >= 0 && self.seen.insert(header.stack) {
            hear(header.stack, None);
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

    /// Numbers the stacks of threads that wait, and reads those of new ones.
    pub(super) fn blocked(&mut self, threads: &mut [BlockedThread]) {
        let known = std::mem::take(&mut self.blocked);
        let asleep =
            threads.iter_mut().map(|t| Sleeper { tgid: t.tgid, tid: t.tid, sleep: t.since_ns, stack: &mut t.stack });
        self.blocked = self.asleep(&known, asleep);
    }

    /// The same of threads that were looked at: of those that are held up, and those that these wait for in the end.
    pub(super) fn looked_at(&mut self, rows: &mut [ThreadRow]) {
        let known = std::mem::take(&mut self.looked_at);
        let on_chains = on_chains(rows);
        let asleep = rows.iter_mut().filter(|row| row.state == 'S' && row.syscall.is_some());
        let asleep = asleep.filter(|row| on_chains.contains(&row.tgid));
        let (held_up, others): (Vec<_>, Vec<_>) = asleep.partition(|row| row.is_held_up());
        let asleep = held_up.into_iter().chain(others);
        let asleep = asleep.map(|t| Sleeper { tgid: t.tgid, tid: t.tid, sleep: t.switches, stack: &mut t.stack });
        self.looked_at = self.asleep(&known, asleep);
    }

    /// The same of a reader that somebody waits for.
    pub(super) fn of_reader(&mut self, look: &mut ReaderSampleRow) {
        if look.syscall.is_some() {
            look.stack = self.read(look.tgid, look.tid);
        }
    }

    fn asleep<'a>(&mut self, known: &Sleepers, asleep: impl Iterator<Item = Sleeper<'a>>) -> Sleepers {
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

    /// Reads the stack of a thread that sleeps, to be unwound as copies are.
    fn read(&mut self, tgid: u32, tid: u32) -> Option<i32> {
        let mut copy = inventory::stack_asleep(tgid, tid)?;
        // The kernel half's numbers of copies begin above 65535, and a thread that sleeps makes none.
        self.reads = self.reads.wrapping_add(1);
        copy.id = self.reads;
        let id = number(&mut self.given);
        self.heard.entry(tgid).or_default().push(Heard { id, frames: -1, copy: Some((copy.id, tid)) });
        self.unclaimed.push_back(copy);
        Some(id)
    }

    /// Takes a copy. Its event may have come, or will, or was lost.
    pub(super) fn copied(&mut self, bytes: &[u8]) {
        if let Ok(copy) = tracer_common::event::read::<StackCopy>(bytes) {
            self.unclaimed.push_back(Box::new(copy));
        }
    }

    /// Reads the stacks heard of, and sends them to be unwound and named.
    pub(super) fn look(&mut self, maps: &Probes, symbols: &mut Symbolizer, unwinding: &Unwinding) {
        for (tgid, heard) in std::mem::take(&mut self.heard) {
            let addrs = |h: &Heard| u32::try_from(h.frames).map(|key| maps.stack(key)).unwrap_or_default();
            let addrs: Vec<Vec<u64>> = heard.iter().map(addrs).collect();
            let unwinds = heard.iter().any(|h| h.copy.is_some());
            let process = self.process(tgid, addrs.iter().flatten(), symbols.is_on(), unwinds);
            if process.is_gone() {
                self.gone += u64::try_from(heard.len()).unwrap_or(u64::MAX);
            }
            for (Heard { id, copy, .. }, addrs) in heard.into_iter().zip(addrs) {
                let waiting = Waiting { id, addrs, process: process.clone() };
                match copy {
                    None => self.tell(waiting, 0, symbols),
                    Some(_) if !unwinding.is_on() => self.intern(waiting, 0, symbols),
                    Some(_) if self.waiting.len() >= WAITING_MAX => self.give_up_on(waiting, symbols),
                    Some(key) => {
                        // Numbers of copies come again, but only when the older event's copy has been lost for long.
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

    /// Takes what was found in a copy.
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
        // Frame pointers where they lead further: code without tables, and stacks that are larger than the copy.
        if code(&found.addrs) >= code(&waiting.addrs) {
            self.intern(Waiting { addrs: found.addrs, ..waiting }, found.by_tables, symbols);
        } else {
            self.intern(waiting, 0, symbols);
        }
    }

    /// Whether stacks are being unwound.
    pub(super) fn are_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits no longer: what was not unwound is told by frame pointers.
    pub(super) fn give_up(&mut self, symbols: &mut Symbolizer) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            self.give_up_on(waiting, symbols);
        }
    }

    fn give_up_on(&mut self, waiting: Waiting, symbols: &mut Symbolizer) {
        self.not_unwound += 1;
        self.intern(waiting, 0, symbols);
    }

    /// Tells which stack a number means: a new one, or one that was told before.
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
            self.tell(stack, by_tables, symbols);
        } else {
            self.left_out += 1;
        }
    }

    fn tell(&mut self, stack: Waiting, unwound: usize, symbols: &mut Symbolizer) {
        let Waiting { id, addrs, process } = stack;
        let frames = addrs.iter().map(|addr| process.frame(*addr)).collect();
        self.ready.push(Record::Stack { id, frames, unwound });
        symbols.ask(Request { id, process, addrs });
    }

    /// What has been found since the last call.
    pub(super) fn take(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.ready)
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
        let not_unwound = (self.not_unwound > 0).then(|| {
            format!(
                "the stacks of {} events were not unwound, there were too many or it took too long: they were followed by \
                 frame pointers, which may leave out callers",
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
            .then(|| format!("the files in the stacks of {} events: their processes had ended", self.gone));
        let sentences = [not_copied, too_many, not_unwound, gone, absent];
        sentences.into_iter().flatten().chain(unreadable)
    }

    /// Looks at a process that will be heard of: it may be gone by then.
    pub(super) fn expect(&mut self, tgid: u32, hold: bool) {
        self.process(tgid, std::iter::empty(), hold, true);
    }

    /// The mappings of a process, with files held: those that these addresses lead to, and with `all` the others that
    /// unwinding may lead to. If it is gone, as it was seen last, or those of the process that it is a copy of.
    fn process<'a>(
        &mut self,
        tgid: u32,
        addrs: impl Iterator<Item = &'a u64> + Clone,
        hold: bool,
        all: bool,
    ) -> Arc<Process> {
        let mut at = tgid;
        let mut rest = None;
        // Forks of forks; a loop of reused numbers ends, too.
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
        rest.unwrap_or_else(|| Arc::new(Process::look(tgid)))
    }
}

/// A process as it is now. One whose mappings changed meanwhile is looked at once more.
fn held<'a>(tgid: u32, addrs: impl Iterator<Item = &'a u64> + Clone, hold: bool, all: bool) -> Process {
    let look = || {
        let mut process = Process::look(tgid);
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
    let first = look();
    if first.is_gone() && !first.modules.is_empty() { look() } else { first }
}

/// Processes with threads that are held up, and all that could end their waits, directly or through others.
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

/// The next number of a stack that was copied; -1 if there are no more.
fn number(given: &mut i32) -> i32 {
    let id = FIRST.checked_add(*given).unwrap_or(-1);
    *given = given.saturating_add(1);
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
    fn who_is_on_a_chain() {
        let row = |tgid, way, to: u32| ThreadRow {
            tgid,
            waits: vec![WaitRow { way, releasers: vec![Releaser { tgid: to, start_ns: 0 }], ..WaitRow::default() }],
            ..ThreadRow::default()
        };
        // 1 hands over to 2, who waits for 3; 4 is idle.
        let rows = [row(1, Way::Give, 2), row(2, Way::Take, 3), row(4, Way::Take, 1)];
        assert_eq!(on_chains(&rows), BTreeSet::from([1, 2, 3]));
        // A ring ends, too.
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
    fn equal_stacks_are_told_once_and_what_is_given_up_is_counted() {
        let mut s = Stacks::default();
        let mut symbols = Symbolizer::off();
        let process = Arc::new(Process::look(std::process::id()));
        let code = process.modules.first().map_or(0, |m| m.start);
        // By frame pointers nothing, by tables twice the same; then frame pointers that lead further.
        for (id, addrs) in [(1, vec![]), (2, vec![code]), (3, vec![code, code])] {
            s.waiting.insert(KEY, waiting(id, &process, &addrs));
            s.unwound(Unwound { key: KEY, addrs: vec![code], by_tables: 1, cut: None }, &mut symbols);
        }
        // One answer that nobody waits for, and one stack of which nothing is known.
        s.unwound(Unwound { key: KEY, addrs: vec![code], by_tables: 1, cut: None }, &mut symbols);
        s.waiting.insert(KEY, waiting(4, &process, &[]));
        assert!(s.are_awaited());
        s.give_up(&mut symbols);
        assert!(!s.are_awaited());
        let stack = |id, n: usize, unwound| {
            let frames = std::iter::repeat_n(process.frame(code), n).collect();
            Record::Stack { id, frames, unwound }
        };
        assert_eq!(s.take(), [stack(1, 1, 1), Record::SameStack { id: 2, of: 1 }, stack(3, 2, 0)]);
        assert_eq!(s.problem(0).filter(|p| p.starts_with("the stacks of 1 events were not unwound")).count(), 1);
    }
}
