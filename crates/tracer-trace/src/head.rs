//! What a trace must begin with that begins in the middle of a stream: stacks that later records refer to. Pure.
//!
//! Memory is bounded: of more stacks than fit, those that nobody referred to for longest are forgotten, and counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::chunk::encode;
use tracer_record::Record;

/// Bytes of stacks and their names that are kept, encoded.
const BYTES_MAX: usize = 8 << 20;
/// Numbers that mean a stack with another number; each event has one of its own, and only late ones are named again.
const SAME_MAX: usize = 4096;

/// The stacks told so far.
#[derive(Default)]
pub(super) struct Head {
    stacks: HashMap<i32, Stack>,
    /// The same stacks by when they were last referred to.
    by_use: BTreeMap<u64, i32>,
    bytes: usize,
    uses: u64,
    same: BTreeMap<i32, i32>,
    /// Numbers in the last looks at threads, by the kind of look: the next look may name them again.
    looked_at: [BTreeSet<i32>; 3],
    forgotten: u64,
}

/// A stack as it was told.
struct Stack {
    /// `Record::Stack`, then its `Record::Symbols`, encoded.
    records: Vec<u8>,
    used: u64,
}

impl Head {
    /// Notes what later records may refer to.
    pub(super) fn take(&mut self, record: &Record) {
        match record {
            Record::Stack { id, .. } => self.tell(*id, record),
            Record::Symbols { id, .. } => self.name(*id, record),
            Record::SameStack { id, of } => {
                self.used(*of);
                self.same.insert(*id, *of);
                if self.same.len() > 2 * SAME_MAX {
                    self.forget_same();
                }
            }
            Record::Blocked { threads, .. } => self.looked(0, threads.iter().filter_map(|t| t.stack)),
            Record::Threads { rows, .. } => self.looked(1, rows.iter().filter_map(|t| t.stack)),
            Record::Readers { rows, .. } => self.looked(2, rows.iter().filter_map(|l| l.stack)),
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

    /// The encoded records to begin with, stacks before the numbers that mean them; in pieces of about this size.
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
            // Two numbers can always be encoded.
            let _ = encode(&Record::SameStack { id: *id, of: *of }, &mut piece);
        }
        out.push(piece);
        out.retain(|piece| !piece.is_empty());
        out
    }

    /// Stacks that did not fit: parts that begin later may refer to them and not have them.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn tell(&mut self, id: i32, record: &Record) {
        let mut records = Vec::new();
        if encode(record, &mut records).is_err() {
            return;
        }
        self.uses += 1;
        self.bytes += records.len();
        let told = Stack { records, used: self.uses };
        self.by_use.insert(told.used, id);
        if let Some(before) = self.stacks.insert(id, told) {
            self.by_use.remove(&before.used);
            self.bytes -= before.records.len();
        }
        self.shrink();
    }

    fn name(&mut self, id: i32, record: &Record) {
        let Some(stack) = self.stacks.get_mut(&id) else { return };
        let start = stack.records.len();
        match encode(record, &mut stack.records) {
            Ok(()) => self.bytes += stack.records.len() - start,
            Err(_) => stack.records.truncate(start),
        }
        self.shrink();
    }

    /// Somebody refers to the stack with this number.
    fn used(&mut self, id: i32) {
        let id = self.same.get(&id).copied().unwrap_or(id);
        if let Some(stack) = self.stacks.get_mut(&id) {
            self.by_use.remove(&stack.used);
            self.uses += 1;
            stack.used = self.uses;
            self.by_use.insert(stack.used, id);
        }
    }

    fn looked(&mut self, look: usize, ids: impl Iterator<Item = i32>) {
        let ids: BTreeSet<i32> = ids.collect();
        ids.iter().for_each(|id| self.used(*id));
        if let Some(place) = self.looked_at.get_mut(look) {
            *place = ids;
        }
    }

    fn shrink(&mut self) {
        while self.bytes > BYTES_MAX
            && let Some((_, id)) = self.by_use.pop_first()
        {
            self.bytes -= self.stacks.remove(&id).map_or(0, |s| s.records.len());
            self.forgotten += 1;
        }
    }

    /// Numbers are given in order: the highest are the newest.
    fn forget_same(&mut self) {
        let oldest = self.same.keys().rev().nth(SAME_MAX).copied().unwrap_or(i32::MIN);
        let (looked_at, stacks) = (&self.looked_at, &self.stacks);
        self.same
            .retain(|id, of| stacks.contains_key(of) && (*id > oldest || looked_at.iter().any(|ids| ids.contains(id))));
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

    /// The records in it, in order.
    fn told(head: &Head) -> Vec<Record> {
        let mut bytes = b"IPCTRACE".to_vec();
        bytes.extend(super::super::VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        for piece in head.pieces(100) {
            bytes.extend(super::super::chunk::compress(&piece).expect("compress"));
        }
        super::super::Reader::new(std::io::Cursor::new(bytes)).expect("open").map(|r| r.expect("record")).collect()
    }

    #[test]
    fn stacks_come_with_their_names_and_before_the_numbers_that_mean_them() {
        let mut head = Head::default();
        let all = [stack(1, "a"), stack(2, "b"), symbols(1), Record::SameStack { id: 9, of: 1 }, symbols(3)];
        all.iter().for_each(|r| head.take(r));
        // 1 was used last. Names of a stack that was not told are none.
        let want = [stack(2, "b"), stack(1, "a"), symbols(1), Record::SameStack { id: 9, of: 1 }];
        assert_eq!(told(&head), want);
    }

    #[test]
    fn a_stack_told_again_takes_the_place_of_the_first() {
        let mut head = Head::default();
        [stack(1, "a"), symbols(1), stack(1, "b")].iter().for_each(|r| head.take(r));
        assert_eq!(told(&head), [stack(1, "b")]);
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
        assert_eq!(head.forgotten() as usize, 2000 - head.stacks.len());
    }

    #[test]
    fn old_numbers_are_forgotten_unless_somebody_still_sleeps_there() {
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
