//! The stacks that a trace must start with if it starts in the middle of a stream: later records refer to them. Pure.
//!
//! Memory is bounded: the stacks that were not referred to for longest are dropped, and counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chunk::encode;
use tracer_record::Record;

/// At most this many bytes of encoded stacks and symbols.
const BYTES_MAX: usize = 8 << 20;
/// At least this many numbers of equal stacks. Each event has a number of its own, and only late ones are referred to.
const SAME_MAX: usize = 4096;

/// The stacks so far.
#[derive(Default)]
pub(super) struct Head {
    stacks: HashMap<i32, Stack>,
    /// The stacks by their last use.
    by_use: BTreeMap<u64, i32>,
    bytes: usize,
    uses: u64,
    same: BTreeMap<i32, i32>,
    /// Numbers in the last record of blocked threads, sampled threads and readers: the next one may refer to them.
    sampled: [BTreeSet<i32>; 3],
    dropped: u64,
}

/// A stack and its symbols.
struct Stack {
    /// `Record::Stack`, then its `Record::Symbols`, encoded.
    records: Vec<u8>,
    used: u64,
}

impl Head {
    /// Takes one record of the stream.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::Stack { id, .. } => self.add(*id, record),
            Record::Symbols { id, .. } => self.add_symbols(*id, record),
            Record::SameStack { id, of } => {
                self.touch(*of);
                self.same.insert(*id, *of);
                if self.same.len() > 2 * SAME_MAX {
                    self.drop_same();
                }
            }
            Record::Blocked { threads, .. } => self.sample(0, threads.iter().filter_map(|t| t.stack)),
            Record::Threads { rows, .. } => self.sample(1, rows.iter().filter_map(|t| t.stack)),
            Record::Readers { rows, .. } => self.sample(2, rows.iter().filter_map(|l| l.stack)),
            Record::Session(_)
            | Record::Kernel(_)
            | Record::Baseline(_)
            | Record::Closing(_)
            | Record::Tick { .. }
            | Record::Lost { .. }
            | Record::Refused { .. }
            | Record::Children { .. }
            | Record::Holders { .. }
            | Record::FdTable(_)
            | Record::Process { .. }
            | Record::ForkLimits { .. }
            | Record::PipeUser { .. }
            | Record::Queues { .. }
            | Record::Sockets { .. }
            | Record::Futexes { .. }
            | Record::End { .. } => {}
        }
    }

    /// The encoded records to start with, stacks before the numbers of equal ones, in pieces of about `size` bytes.
    pub(super) fn pieces(&self, size: usize) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut piece = Vec::new();
        for id in self.by_use.values() {
            piece.extend(self.stacks.get(id).map(|s| s.records.as_slice()).unwrap_or_default());
            if piece.len() >= size {
                out.push(std::mem::take(&mut piece));
            }
        }
        for (id, of) in self.same.iter().filter(|(_, of)| self.stacks.contains_key(of)) {
            // Encoding two numbers cannot fail.
            let _ = encode(&Record::SameStack { id: *id, of: *of }, &mut piece);
        }
        out.push(piece);
        out.retain(|piece| !piece.is_empty());
        out
    }

    /// Number of stacks dropped to fit: parts that start later may refer to them without having them.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    fn add(&mut self, id: i32, record: &Record) {
        let mut records = Vec::new();
        if encode(record, &mut records).is_err() {
            return;
        }
        self.uses += 1;
        self.bytes += records.len();
        let stack = Stack { records, used: self.uses };
        self.by_use.insert(stack.used, id);
        if let Some(before) = self.stacks.insert(id, stack) {
            self.by_use.remove(&before.used);
            self.bytes -= before.records.len();
        }
        self.shrink();
    }

    fn add_symbols(&mut self, id: i32, record: &Record) {
        let Some(stack) = self.stacks.get_mut(&id) else { return };
        let start = stack.records.len();
        match encode(record, &mut stack.records) {
            Ok(()) => self.bytes += stack.records.len() - start,
            Err(_) => stack.records.truncate(start),
        }
        self.shrink();
    }

    /// Notes a reference to the stack with this number.
    fn touch(&mut self, id: i32) {
        let id = self.same.get(&id).copied().unwrap_or(id);
        if let Some(stack) = self.stacks.get_mut(&id) {
            self.by_use.remove(&stack.used);
            self.uses += 1;
            stack.used = self.uses;
            self.by_use.insert(stack.used, id);
        }
    }

    fn sample(&mut self, kind: usize, ids: impl Iterator<Item = i32>) {
        let ids: BTreeSet<i32> = ids.collect();
        ids.iter().for_each(|id| self.touch(*id));
        if let Some(place) = self.sampled.get_mut(kind) {
            *place = ids;
        }
    }

    fn shrink(&mut self) {
        while self.bytes > BYTES_MAX
            && let Some((_, id)) = self.by_use.pop_first()
        {
            self.bytes -= self.stacks.remove(&id).map_or(0, |s| s.records.len());
            self.dropped += 1;
        }
    }

    /// Drops the oldest numbers: they are assigned in order.
    fn drop_same(&mut self) {
        let oldest = self.same.keys().rev().nth(SAME_MAX).copied().unwrap_or(i32::MIN);
        let (sampled, stacks) = (&self.sampled, &self.stacks);
        self.same
            .retain(|id, of| stacks.contains_key(of) && (*id > oldest || sampled.iter().any(|ids| ids.contains(id))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_record::{BlockedThread, Frame, ObjKey, Place, State};

    fn stack(id: i32, name: &str) -> Record {
        let frame = Frame { addr: 1, module: Some(name.to_owned()), offset: Some(1) };
        Record::Stack { id, frames: vec![frame], unwound: 1 }
    }

    fn symbols(id: i32) -> Record {
        Record::Symbols { id, places: vec![vec![Place { line: Some(7), ..Place::default() }]] }
    }

    fn blocked(stack: i32) -> Record {
        let thread = BlockedThread {
            obj: ObjKey::default(),
            state: State::default(),
            tgid: 1,
            tid: 1,
            start_ns: 0,
            since_ns: 0,
            comm: String::new(),
            call: 0,
            fd: 0,
            estimated: false,
            reader: None,
            stack: Some(stack),
        };
        Record::Blocked { ts_ns: 1, threads: vec![thread] }
    }

    /// The records that a trace would start with.
    fn records(head: &Head) -> Vec<Record> {
        let mut bytes = b"IPCTRACE".to_vec();
        bytes.extend(super::super::format::VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        for piece in head.pieces(100) {
            bytes.extend(super::super::chunk::compress(&piece).expect("compress"));
        }
        super::super::reader::Reader::new(std::io::Cursor::new(bytes))
            .expect("open")
            .map(|r| r.expect("record"))
            .collect()
    }

    #[test]
    fn stacks_come_with_their_symbols_and_before_the_numbers_of_equal_ones() {
        let mut head = Head::default();
        let all = [stack(1, "a"), stack(2, "b"), symbols(1), Record::SameStack { id: 9, of: 1 }, symbols(3)];
        all.iter().for_each(|r| head.take(r));
        // 1 was used last; symbols without a stack are left out.
        let want = [stack(2, "b"), stack(1, "a"), symbols(1), Record::SameStack { id: 9, of: 1 }];
        assert_eq!(records(&head), want);
    }

    #[test]
    fn a_stack_sent_again_replaces_the_first() {
        let mut head = Head::default();
        [stack(1, "a"), symbols(1), stack(1, "b")].iter().for_each(|r| head.take(r));
        assert_eq!(records(&head), [stack(1, "b")]);
    }

    #[test]
    fn the_bytes_are_bounded_and_what_is_used_stays() {
        let mut head = Head::default();
        let name = "x".repeat(10_000);
        head.take(&stack(0, "used"));
        for id in 1..2000 {
            head.take(&stack(id, &name));
            head.take(&Record::SameStack { id: 100_000 + id, of: 0 });
        }
        assert!(head.bytes <= BYTES_MAX && head.stacks.len() == head.by_use.len());
        assert_eq!(head.bytes, head.stacks.values().map(|s| s.records.len()).sum::<usize>());
        assert!(head.stacks.contains_key(&0) && head.stacks.contains_key(&1999) && !head.stacks.contains_key(&1));
        assert_eq!(head.dropped() as usize, 2000 - head.stacks.len());
    }

    #[test]
    fn old_numbers_are_dropped_unless_a_blocked_thread_refers_to_them() {
        let mut head = Head::default();
        head.take(&stack(0, "a"));
        head.take(&Record::SameStack { id: 1, of: 0 });
        head.take(&Record::SameStack { id: 2, of: 0 });
        head.take(&blocked(1));
        (3..30_000).for_each(|id| head.take(&Record::SameStack { id, of: 0 }));
        assert!(head.same.contains_key(&1) && !head.same.contains_key(&2) && head.same.contains_key(&29_999));
        assert!(head.same.len() <= 2 * SAME_MAX);
    }
}
