//! User stacks: read with the files mapped in their processes as soon as they are heard of, and sent to be named.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tracer_common::event::{Body, HEADER_LEN, Header};

use crate::kernel::probes::Probes;
use crate::record::{Frame, Record};
use crate::symbol::{Process, Request, Symbolizer};

/// Processes whose mappings are remembered for stacks that are read after their end.
const KNOWN_MAX: usize = 16;
/// Children of which it is remembered whose copy they are.
const COPIES_MAX: usize = 4096;

/// Stacks on their way from the kernel's map to records.
#[derive(Default)]
pub(super) struct Stacks {
    seen: HashSet<i32>,
    /// Heard of since the last look: (tgid, stack).
    new: Vec<(u32, i32)>,
    ready: HashMap<i32, Record>,
    /// Those looked at last, the newest at the end.
    known: VecDeque<Arc<Process>>,
    /// Children that have not executed a program since their fork: their code is where their parents' is.
    copies: HashMap<u32, u32>,
}

impl Stacks {
    /// Takes note of a record that has just come.
    pub(super) fn note(&mut self, bytes: &[u8]) {
        let Ok(header) = tracer_common::event::read::<Header>(bytes) else { return };
        if header.stack >= 0 && self.seen.insert(header.stack) {
            self.new.push((header.tgid, header.stack));
        }
        match Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()) {
            Ok(Body::Fork(f)) => {
                self.known.retain(|p| p.tgid() != f.child);
                if self.copies.len() < COPIES_MAX {
                    self.copies.insert(f.child, header.tgid);
                }
            }
            Ok(Body::Exec(_)) => {
                self.known.retain(|p| p.tgid() != header.tgid);
                self.copies.remove(&header.tgid);
            }
            Ok(Body::Free(f)) => {
                self.copies.remove(&f.tgid);
            }
            _ => {}
        }
    }

    /// Reads the stacks heard of, and asks for their names.
    pub(super) fn look(&mut self, maps: &Probes, symbols: &mut Symbolizer) {
        let mut by: BTreeMap<u32, Vec<(i32, Vec<u64>)>> = BTreeMap::new();
        for (tgid, id) in std::mem::take(&mut self.new) {
            by.entry(tgid).or_default().push((id, maps.stack(id.cast_unsigned())));
        }
        for (tgid, stacks) in by {
            let process = self.process(tgid, stacks.iter().flat_map(|(_, addrs)| addrs), symbols.is_on());
            for (id, addrs) in stacks {
                let frames = addrs.iter().map(|addr| frame(&process, *addr)).collect();
                self.ready.insert(id, Record::Stack { id, frames, unwound: false });
                symbols.ask(Request { id, process: process.clone(), addrs });
            }
        }
    }

    /// The record of a stack, once.
    pub(super) fn take(&mut self, id: i32) -> Option<Record> {
        self.ready.remove(&id)
    }

    /// The mappings of a process, with the files that these addresses lead to held; if it is gone, as it was seen last,
    /// or those of the process that it is a copy of.
    fn process<'a>(&mut self, tgid: u32, addrs: impl Iterator<Item = &'a u64>, hold: bool) -> Arc<Process> {
        let mut process = Process::look(tgid);
        if process.is_gone() {
            let mut ancestor = tgid;
            // Forks of forks; a loop of reused numbers ends, too.
            for _ in 0..8 {
                if let Some(known) = self.known.iter().rev().find(|p| p.tgid() == ancestor) {
                    return known.clone();
                }
                let Some(parent) = self.copies.get(&ancestor) else { break };
                ancestor = *parent;
                process = Process::look(ancestor);
                if !process.is_gone() {
                    break;
                }
            }
        }
        if hold {
            for addr in addrs {
                if let Some((module, _)) = process.locate(*addr) {
                    process.hold(module);
                }
            }
        }
        let process = Arc::new(process);
        if !process.is_gone() {
            self.known.retain(|p| p.tgid() != process.tgid());
            self.known.push_back(process.clone());
            if self.known.len() > KNOWN_MAX {
                self.known.pop_front();
            }
        }
        process
    }
}

fn frame(process: &Process, addr: u64) -> Frame {
    let place = process.locate(addr).and_then(|(at, offset)| Some((process.modules.get(at)?.path.clone(), offset)));
    let (module, offset) = place.unzip();
    Frame { addr, module, offset }
}
