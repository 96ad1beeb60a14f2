//! Decides which futexes to locate, and how often: locating one reads the mappings of all processes.

use std::collections::{BTreeMap, HashMap};

use tracer_common::map::kind;

use crate::inventory::{self, FutexRequest};
use tracer_record::decode::futex;
use tracer_record::{BlockedThread, ObjKey, State};

/// A futex is not located again within this time, unless its owner changes.
const FRESH_NS: u64 = 5_000_000_000;
/// At most this many futexes are located in one scan.
const REQUESTS_MAX: usize = 64;
/// At most this many futexes are remembered with the time at which they were located.
const KNOWN_MAX: usize = 4096;

/// Futexes to locate, and those located lately.
#[derive(Default)]
pub(super) struct Futexes {
    requests: BTreeMap<ObjKey, FutexRequest>,
    known: HashMap<ObjKey, (FutexRequest, u64)>,
}

impl Futexes {
    /// Requests the futexes that threads block on. For threads that slept before the probes were attached, reads the
    /// words of the futex first.
    pub(super) fn blocked(&mut self, now_ns: u64, threads: &mut [BlockedThread]) {
        for t in threads.iter_mut().filter(|t| t.obj.kind == kind::FUTEX) {
            if let Some(words) = t.estimated.then(|| inventory::futex_words(t.tgid, t.obj.id)).flatten() {
                t.state = futex::with_words(t.state, words);
            }
            self.waited(now_ns, t.obj, t.start_ns, t.state);
        }
    }

    /// Requests a futex on which a process blocks or blocked.
    pub(super) fn waited(&mut self, now_ns: u64, obj: ObjKey, start_ns: u64, state: State) {
        let request = FutexRequest { start_ns, owner_tid: futex::owner(state).unwrap_or(0) };
        let fresh = |(before, at): &(FutexRequest, u64)| *before == request && now_ns.saturating_sub(*at) < FRESH_NS;
        if self.known.get(&obj).is_some_and(fresh) || self.requests.len() >= REQUESTS_MAX {
            return;
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(obj, (request, now_ns));
        self.requests.insert(obj, request);
    }

    /// Takes the requests since the last call.
    pub(super) fn take(&mut self) -> BTreeMap<ObjKey, FutexRequest> {
        std::mem::take(&mut self.requests)
    }

    /// Locates each futex again at its next wait.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}
