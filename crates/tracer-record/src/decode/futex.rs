//! The owner of a lock, read from the memory of its futex.

use crate::record::State;
use tracer_common::state::FutexState;

/// include/uapi/linux/futex.h
const FUTEX_LOCK_PI: u32 = 6;
const FUTEX_LOCK_PI2: u32 = 13;
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// `PTHREAD_MUTEX_PSHARED_BIT`, and all bits that a mutex's `__kind` may have (glibc, nptl/pthreadP.h, 2.3 to 2.41).
const PSHARED: u32 = 128;
const KIND_BITS: u32 = 0x3ff;
/// A lock with waiters (glibc, sysdeps/nptl/lowlevellock.h).
const LOCKED_WITH_WAITERS: u32 = 2;

/// The thread that holds it, as its own pid namespace numbers it; `None` if the memory names none: a semaphore, a
/// condition, or memory that could not be read.
///
/// The word itself has the owner of priority inheriting and robust mutexes (Documentation/robust-futex-ABI.rst, the same
/// for every C library). The other process-shared mutexes of glibc have it behind the word: `__lock`, `__count`, `__owner`,
/// `__nusers`, `__kind` of `struct __pthread_mutex_s` on 64-bit machines.
pub fn owner(state: State) -> Option<u32> {
    let f = state.futex();
    let [word, _, owner, users, kind] = f.words;
    let in_word = word & FUTEX_TID_MASK;
    let pi = matches!(f.command, FUTEX_LOCK_PI | FUTEX_LOCK_PI2);
    if pi || (word & FUTEX_WAITERS != 0 && word == f.expected) {
        return (in_word != 0).then_some(in_word);
    }
    let mutex = kind & PSHARED != 0 && kind & !KIND_BITS == 0 && users > 0;
    (mutex && f.expected == LOCKED_WITH_WAITERS && owner != 0 && owner <= FUTEX_TID_MASK).then_some(owner)
}

/// The state with the memory that userspace read; of threads that were asleep before they were watched the kernel half
/// reads none.
pub fn with_words(state: State, words: [u32; 5]) -> State {
    FutexState { words, ..state.futex() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(words: [u32; 5], expected: u32, command: u32) -> Option<u32> {
        owner(FutexState { words, expected, command }.into())
    }

    #[test]
    fn owners() {
        // Robust: the word names the owner, with the bit for waiters.
        assert_eq!(owner_of([0x8000_0123, 0, 0x123, 1, 0x90], 0x8000_0123, 0), Some(0x123));
        // The word has changed since.
        assert_eq!(owner_of([0x8000_0123, 0, 0, 0, 0], 0x8000_0456, 0), None);
        // Priority inheritance: whatever the call expected.
        assert_eq!(owner_of([0x123, 0, 0, 0, 0], 0, 6), Some(0x123));
        assert_eq!(owner_of([0, 0, 0, 0, 0], 0, 13), None);
        // A plain process-shared mutex of glibc, and of the recursive kind.
        assert_eq!(owner_of([2, 0, 77, 1, 128], 2, 0), Some(77));
        assert_eq!(owner_of([2, 3, 77, 1, 129], 2, 0), Some(77));
        // Private to its process, unlocked, or no mutex.
        for words in [[2, 0, 77, 1, 0], [2, 0, 0, 0, 128], [2, 0, 77, 1, 0xffff_ff80], [0, 1, 128, 1, 128]] {
            assert_eq!(owner_of(words, words[0], 0), None, "{words:?}");
        }
        // A semaphore: its value, the waiters, and whether it is private.
        assert_eq!(owner_of([0, 1, 128, 0, 0], 0, 9), None);
        assert_eq!(owner_of([0; 5], 0, 0), None);
    }

    #[test]
    fn words_are_added() {
        let bare = FutexState { words: [0; 5], expected: 2, command: 0 }.into();
        assert_eq!(owner(bare), None);
        assert_eq!(owner(with_words(bare, [2, 0, 9, 1, 128])), Some(9));
    }
}
