//! User stacks: their frames and names, and which numbers mean the same one. They come after the events that have them.

use super::HashMap;
use tracer_record::StackId;
use tracer_record::{Frame, Place};

/// User stacks remembered.
const MAX_STACKS: usize = 16_384;
/// Numbers remembered that mean a stack with another number.
const MAX_SAME: usize = 1 << 18;

/// A user stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// How many of them unwind tables gave; behind them callers may be missing.
    pub unwound: usize,
}

/// All that were told.
#[derive(Clone, Debug, Default)]
pub(super) struct Stacks {
    told: HashMap<StackId, Stack>,
    places: HashMap<StackId, Vec<Vec<Place>>>,
    same: HashMap<StackId, StackId>,
    pub(super) dropped: u64,
}

impl Stacks {
    /// The number under which a stack was told.
    pub(super) fn canonical(&self, id: StackId) -> StackId {
        self.same.get(&id).copied().unwrap_or(id)
    }

    pub(super) fn get(&self, id: StackId) -> Option<&Stack> {
        self.told.get(&self.canonical(id))
    }

    pub(super) fn places(&self, id: StackId) -> &[Vec<Place>] {
        self.places.get(&self.canonical(id)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn tell(&mut self, id: StackId, frames: &[Frame], unwound: usize) {
        if self.told.len() >= MAX_STACKS && !self.told.contains_key(&id) {
            self.dropped += 1;
        } else {
            self.told.insert(id, Stack { frames: frames.to_vec(), unwound });
        }
    }

    /// One number means the stack that was told with another.
    pub(super) fn same(&mut self, id: StackId, of: StackId) {
        // Not if that was dropped: then this number's is gone, too.
        if self.same.len() >= MAX_SAME || !self.told.contains_key(&of) {
            self.dropped += 1;
        } else {
            self.same.insert(id, of);
        }
    }

    pub(super) fn name(&mut self, id: StackId, places: &[Vec<Place>]) {
        // Of stacks only: so they are as few.
        if self.told.contains_key(&id) {
            self.places.insert(id, places.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(offset: u64) -> Vec<Frame> {
        vec![Frame { addr: offset, module: Some("/bin/w".into()), offset: Some(offset) }]
    }

    #[test]
    fn equal_stacks_share_frames_and_names_whenever_they_are_told() {
        let mut s = Stacks::default();
        let (first, other) = (StackId(7), StackId(8));
        s.tell(first, &frames(1), 1);
        s.same(other, first);
        s.name(first, &[vec![Place::default()]]);
        for id in [first, other] {
            assert_eq!(s.canonical(id), first);
            assert!(s.get(id).is_some_and(|s| s.unwound == 1 && s.frames == frames(1)));
            assert_eq!(s.places(id).len(), 1);
        }
        assert_eq!((s.get(StackId(9)), s.canonical(StackId(9)), s.dropped), (None, StackId(9), 0));
        // No chains and no rings, whatever a trace says.
        s.same(first, other);
        s.same(other, other);
        assert_eq!((s.canonical(first), s.canonical(other), s.dropped), (first, first, 2));
    }

    #[test]
    fn both_tables_are_bounded_and_what_was_dropped_is_counted() {
        let mut s = Stacks::default();
        for id in 0..20_000 {
            s.tell(StackId(id), &[], 0);
        }
        assert_eq!((s.told.len(), s.dropped), (MAX_STACKS, 20_000 - MAX_STACKS as u64));
        s.dropped = 0;
        for id in 0..MAX_SAME as i32 + 5 {
            s.same(StackId(1_000_000 + id), StackId(1));
        }
        // And one of a stack that was dropped.
        s.same(StackId(3), StackId(19_999));
        assert_eq!((s.same.len(), s.dropped), (MAX_SAME, 6));
    }
}
