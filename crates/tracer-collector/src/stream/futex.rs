//! Which futexes are worth placing, and how often: that takes a look at the mappings of all processes.

use std::collections::{BTreeMap, HashMap};

use tracer_common::map::kind;

use crate::inventory::{self, FutexAsked};
use tracer_record::decode::futex;
use tracer_record::{BlockedThread, ObjKey, State};

/// What was found stays true for so long, unless another thread holds it.
const FRESH_NS: u64 = 5_000_000_000;
/// Futexes placed in one scan.
const ASKED_MAX: usize = 64;
/// Futexes of which it is remembered when they were placed.
const KNOWN_MAX: usize = 4096;

/// What is to be asked, and what has been.
#[derive(Default)]
pub(super) struct Futexes {
    wanted: BTreeMap<ObjKey, FutexAsked>,
    known: HashMap<ObjKey, (FutexAsked, u64)>,
}

impl Futexes {
    /// Reads the words at which threads wait that were asleep before they were watched, and notes all futexes among these.
    pub(super) fn blocked(&mut self, now_ns: u64, threads: &mut [BlockedThread]) {
        for t in threads.iter_mut().filter(|t| t.obj.kind == kind::FUTEX) {
            if let Some(words) = t.estimated.then(|| inventory::futex_words(t.tgid, t.obj.id)).flatten() {
                t.state = futex::with_words(t.state, words);
            }
            self.waited(now_ns, t.obj, t.start_ns, t.state);
        }
    }

    /// Notes a futex that a process waits for or waited for.
    pub(super) fn waited(&mut self, now_ns: u64, obj: ObjKey, start_ns: u64, state: State) {
        let asked = FutexAsked { start_ns, owner_tid: futex::owner(state).unwrap_or(0) };
        let fresh = |(before, at): &(FutexAsked, u64)| *before == asked && now_ns.saturating_sub(*at) < FRESH_NS;
        if self.known.get(&obj).is_some_and(fresh) || self.wanted.len() >= ASKED_MAX {
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(obj, (asked, now_ns));
        self.wanted.insert(obj, asked);
    }

    /// What is to be asked now.
    pub(super) fn take(&mut self) -> BTreeMap<ObjKey, FutexAsked> {
        std::mem::take(&mut self.wanted)
    }

    /// Asks anew about each that is waited for next.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}
