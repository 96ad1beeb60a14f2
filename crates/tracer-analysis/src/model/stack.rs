//! User stacks: frames and functions by stack id, and which ids are equal stacks. Their records follow the events.
//!
//! It must not resolve addresses: the collector does, while the process lives.

use super::HashMap;
use tracer_record::StackId;
use tracer_record::{Frame, Place};

/// User stacks remembered.
const MAX_STACKS: usize = 16_384;
/// Ids remembered that are aliases of another id.
const MAX_ALIASES: usize = 1 << 18;

/// A user stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// How many of them the unwind tables gave; among the rest, which frame pointers gave, callers may be missing.
    pub unwound: usize,
}

/// All user stacks.
#[derive(Clone, Debug, Default)]
pub(super) struct Stacks {
    stacks: HashMap<StackId, Stack>,
    places: HashMap<StackId, Vec<Vec<Place>>>,
    aliases: HashMap<StackId, StackId>,
    pub(super) dropped: u64,
}

impl Stacks {
    /// The id under which the frames are stored.
    pub(super) fn canonical(&self, id: StackId) -> StackId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }

    pub(super) fn get(&self, id: StackId) -> Option<&Stack> {
        self.stacks.get(&self.canonical(id))
    }

    pub(super) fn places(&self, id: StackId) -> &[Vec<Place>] {
        self.places.get(&self.canonical(id)).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn add(&mut self, id: StackId, frames: &[Frame], unwound: usize) {
        if self.stacks.len() >= MAX_STACKS && !self.stacks.contains_key(&id) {
            self.dropped += 1;
        } else {
            self.stacks.insert(id, Stack { frames: frames.to_vec(), unwound });
        }
    }

    /// Stack `id` equals stack `of`, which arrived before.
    pub(super) fn add_alias(&mut self, id: StackId, of: StackId) {
        // Without the frames of `of` there is nothing to share.
        if self.aliases.len() >= MAX_ALIASES || !self.stacks.contains_key(&of) {
            self.dropped += 1;
        } else {
            self.aliases.insert(id, of);
        }
    }

    pub(super) fn add_places(&mut self, id: StackId, places: &[Vec<Place>]) {
        // Only for stored stacks: so this table has the same bound.
        if self.stacks.contains_key(&id) {
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
    fn equal_stacks_share_frames_and_places() {
        let mut s = Stacks::default();
        let (first, other) = (StackId(7), StackId(8));
        s.add(first, &frames(1), 1);
        s.add_alias(other, first);
        s.add_places(first, &[vec![Place::default()]]);
        for id in [first, other] {
            assert_eq!(s.canonical(id), first);
            assert!(s.get(id).is_some_and(|s| s.unwound == 1 && s.frames == frames(1)));
            assert_eq!(s.places(id).len(), 1);
        }
        assert_eq!((s.get(StackId(9)), s.canonical(StackId(9)), s.dropped), (None, StackId(9), 0));
        // An alias of an alias or of itself would be a chain or a cycle.
        s.add_alias(first, other);
        s.add_alias(other, other);
        assert_eq!((s.canonical(first), s.canonical(other), s.dropped), (first, first, 2));
    }

    #[test]
    fn both_tables_are_bounded_and_count_what_they_drop() {
        let mut s = Stacks::default();
        for id in 0..20_000 {
            s.add(StackId(id), &[], 0);
        }
        assert_eq!((s.stacks.len(), s.dropped), (MAX_STACKS, 20_000 - MAX_STACKS as u64));
        s.dropped = 0;
        for id in 0..MAX_ALIASES as i32 + 5 {
            s.add_alias(StackId(1_000_000 + id), StackId(1));
        }
        // An alias of a dropped stack.
        s.add_alias(StackId(3), StackId(19_999));
        assert_eq!((s.aliases.len(), s.dropped), (MAX_ALIASES, 6));
    }
}
