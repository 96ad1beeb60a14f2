//! A hash table of boxed objects that contain their key: the idle room of a growing table is pointers, not objects.
//!
//! It must not bound itself: its users count what they drop.

use std::fmt;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// An object that contains its key.
pub(super) trait Keyed {
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;
}

/// At most one object for each key.
#[derive(Clone)]
pub(super) struct Table<T> {
    slots: HashTable<Box<T>>,
    hasher: RandomState,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.slots).finish()
    }
}

impl<T: Keyed> Table<T> {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn get(&self, key: T::Key) -> Option<&T> {
        self.slots.find(self.hasher.hash_one(key), |object| object.key() == key).map(AsRef::as_ref)
    }

    pub fn get_mut(&mut self, key: T::Key) -> Option<&mut T> {
        self.slots.find_mut(self.hasher.hash_one(key), |object| object.key() == key).map(AsMut::as_mut)
    }

    pub fn contains(&self, key: T::Key) -> bool {
        self.get(key).is_some()
    }

    /// Adds an object, or replaces the one with its key.
    pub fn insert(&mut self, object: T) {
        let key = object.key();
        match self.get_mut(key) {
            Some(old) => *old = object,
            None => {
                let hash = |key| self.hasher.hash_one(key);
                self.slots.insert_unique(hash(key), Box::new(object), |object| hash(object.key()));
            }
        }
    }

    pub fn remove(&mut self, key: T::Key) -> Option<T> {
        let found = self.slots.find_entry(self.hasher.hash_one(key), |object| object.key() == key);
        found.ok().map(|entry| *entry.remove().0)
    }

    /// All objects, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{fdpass, msg, posix, sem, shm, usage};

    impl Keyed for (u32, &'static str) {
        type Key = u32;

        fn key(&self) -> u32 {
            self.0
        }
    }

    #[test]
    fn one_object_for_each_key() {
        let mut table = Table::default();
        for n in 0..1_000 {
            table.insert((n, "first"));
        }
        table.insert((7, "second"));
        assert_eq!((table.len(), table.get(7), table.get(1_000)), (1_000, Some(&(7, "second")), None));
        if let Some(object) = table.get_mut(8) {
            object.1 = "changed";
        }
        assert_eq!((table.remove(8), table.contains(8), table.remove(8)), (Some((8, "changed")), false, None));
        assert_eq!(table.values().map(|object| object.0).sum::<u32>(), 999 * 1_000 / 2 - 8);
    }

    /// An open object takes less than 200 bytes. The allocator adds 8 bytes and rounds up to 16; a table that has just
    /// doubled adds 20. `cargo bench --bench replay` measures the sum.
    #[test]
    fn objects_are_small() {
        let boxed = |bytes: usize| (bytes + 8).next_multiple_of(16);
        let row = boxed(size_of::<sem::Row>());
        for (what, bytes) in [
            ("semaphore set, created", boxed(size_of::<sem::SemSet>()) + boxed(size_of::<usage::Creation>())),
            ("semaphore set, listed", boxed(size_of::<sem::SemSet>()) + row),
            ("segment", boxed(size_of::<shm::Segment>())),
            ("queue", boxed(size_of::<msg::Queue>())),
            ("POSIX object and its name", boxed(size_of::<posix::Object>()) + 32),
            ("creation of a POSIX object", boxed(size_of::<posix::Creation>())),
            ("received descriptor", boxed(size_of::<fdpass::Received>())),
        ] {
            assert!(bytes + 20 < 200, "{what}: {bytes} bytes");
        }
    }
}
