//! Takes names out of records: each becomes a token, the same for the same name, and nothing else changes.
//!
//! Every structure is taken apart without `..`, so a new field does not compile until it is said what it is.
//! Pure: the key comes from outside, is kept nowhere, and without it a name cannot be guessed and tried.

mod cgroup;
mod event;
mod inventory;
mod name;
mod public;

use crate::record::{
    BlockedThread, ChildRow, FdTable, Frame, FutexOwner, FutexPlace, FutexRow, Holder, LimitRow, PipeOwner, Place,
    PlanRow, ReaderLook, ReaderRow, Record, RefusedRow, Session, SocketRow, ThreadRow, WaitRow,
};
use inventory::{inventory, process, queue};
use name::Names;

/// Bytes of the key.
pub const KEY_LEN: usize = 16;

/// Redacts the records of one trace.
#[derive(Clone)]
pub struct Redactor {
    names: Names,
}

impl Redactor {
    /// One whose tokens nobody can foresee who does not know the key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self { names: Names::new(key) }
    }

    /// The record without names.
    #[must_use]
    pub fn record(&self, mut record: Record) -> Record {
        let names = &self.names;
        match &mut record {
            Record::Session(row) => session(names, row),
            Record::Kernel(bytes) => event::kernel(names, bytes),
            Record::Baseline(row) | Record::Closing(row) => inventory(names, row),
            Record::Tick { ts_ns: _ } | Record::End { ts_ns: _ } => {}
            Record::Lost { ts_ns: _, site: _, count: _ } | Record::SameStack { id: _, of: _ } => {}
            Record::Blocked { ts_ns: _, threads } => each(threads, |row| blocked(names, row)),
            Record::Refused { ts_ns: _, rows } => each(rows, |row| refused(names, row)),
            Record::Children { ts_ns: _, rows } => each(rows, children),
            Record::Holders { ts_ns: _, obj, holders, complete: _ } => {
                number(obj);
                each(holders, |row| holder(names, row));
            }
            Record::FdTable(row) => fd_table(names, row),
            Record::Process { ts_ns: _, row } => process(names, row),
            Record::ForkLimits { ts_ns: _, tgid: _, limits } => each(limits, |row| limit(names, row)),
            Record::PipeUser { ts_ns: _, uid: _, processes, soft_pages: _ } => {
                each(processes, |row| pipe_owner(names, row));
            }
            Record::Queues { ts_ns: _, rows } => each(rows, queue),
            Record::Stack { id: _, frames, unwound: _ } => each(frames, |row| frame(names, row)),
            Record::Symbols { id: _, places } => each(places, |row| each(row, |row| place(names, row))),
            Record::Sockets { ts_ns: _, rows } => each(rows, |row| socket(names, row)),
            Record::Futexes { ts_ns: _, rows } => each(rows, |row| futex(names, row)),
            Record::Threads { ts_ns: _, rows } => each(rows, |row| thread(names, row)),
            Record::Readers { ts_ns: _, rows } => each(rows, |row| reader_look(names, row)),
        }
        record
    }

    /// A sentence about a trace: what is not one of ipctrace's own words goes.
    pub fn sentence(&self, sentence: &str) -> String {
        self.names.sentence(sentence)
    }
}

fn each<T>(rows: &mut [T], change: impl FnMut(&mut T)) {
    rows.iter_mut().for_each(change);
}

/// What can be copied holds numbers only: text is owned, and a copy of it would be a clone.
fn number<T: Copy>(_: &T) {}

fn change(text: &mut String, token: impl FnOnce(&str) -> String) {
    *text = token(text);
}

fn change_if(text: &mut Option<String>, token: impl FnOnce(&str) -> String) {
    if let Some(text) = text {
        change(text, token);
    }
}

/// A word of a fixed set; one that is not in it is somebody's name.
fn word(names: &Names, text: &mut String, is_known: impl FnOnce(&str) -> bool) {
    if !is_known(text) {
        change(text, |t| names.whole("name", t));
    }
}

fn session(names: &Names, row: &mut Session) {
    let Session {
        tool_version,
        host,
        kernel,
        arch,
        page_bytes: _,
        start_ns: _,
        wall_ns: _,
        min_stall_ns: _,
        plan,
        not_collected,
        target,
        target_pids: _,
        follow: _,
        only,
        self_pid: _,
        redacted,
    } = row;
    *redacted = true;
    word(names, tool_version, public::is_version);
    change(host, |t| names.whole("host", t));
    change(kernel, |t| names.kernel(t));
    word(names, arch, public::is_architecture);
    each(plan, |row| plan_row(names, row));
    each(not_collected, |t| change(t, |t| names.sentence(t)));
    // A cgroup, or numbers.
    if target != "all" && !target.split(',').all(public::is_number) {
        change(target, |t| cgroup::path(names, t));
    }
    each(only, |t| word(names, t, public::is_mechanism));
}

fn plan_row(names: &Names, row: &mut PlanRow) {
    let PlanRow { site, mechanism, backend, reason, functions } = row;
    word(names, site, public::is_site);
    word(names, mechanism, public::is_mechanism);
    word(names, backend, public::is_backend);
    change(reason, |t| names.sentence(t));
    each(functions, |t| change(t, |t| names.function(t)));
}

fn blocked(names: &Names, row: &mut BlockedThread) {
    let BlockedThread {
        obj,
        state,
        tgid: _,
        tid: _,
        start_ns: _,
        since_ns: _,
        comm,
        call: _,
        fd: _,
        estimated: _,
        reader,
        stack: _,
    } = row;
    number(obj);
    number(state);
    change(comm, |t| names.comm(t));
    if let Some(row) = reader {
        self::reader(names, row);
    }
}

fn refused(names: &Names, row: &mut RefusedRow) {
    let RefusedRow {
        obj,
        state,
        tgid: _,
        tid: _,
        start_ns: _,
        comm,
        fd: _,
        count: _,
        in_a_row: _,
        first_ns: _,
        last_ns: _,
        reader,
    } = row;
    number(obj);
    number(state);
    change(comm, |t| names.comm(t));
    if let Some(row) = reader {
        self::reader(names, row);
    }
}

fn reader(names: &Names, row: &mut ReaderRow) {
    let ReaderRow { tgid: _, start_ns: _, ts_ns: _, comm, gap_ns: _, gap_end_ns: _ } = row;
    change(comm, |t| names.comm(t));
}

fn children(row: &mut ChildRow) {
    let ChildRow {
        tgid: _,
        start_ns: _,
        exits: _,
        sigchld_generated: _,
        sigchld_coalesced: _,
        sigchld_ignored: _,
        delivered: _,
        waits_any: _,
        reaped_any: _,
        waits_one: _,
        reaped_one: _,
        last_wait_ns: _,
        last_pid: _,
    } = row;
}

fn holder(names: &Names, row: &mut Holder) {
    let Holder { tgid: _, start_ns: _, comm, fd: _, reads: _, writes: _ } = row;
    change(comm, |t| names.comm(t));
}

fn fd_table(names: &Names, row: &mut FdTable) {
    let FdTable { ts_ns: _, tgid: _, start_ns: _, limit: _, fds, complete: _ } = row;
    each(fds, |(_, link)| change(link, |t| names.link(t)));
}

fn pipe_owner(names: &Names, row: &mut PipeOwner) {
    let PipeOwner { tgid: _, start_ns: _, comm, pipes: _ } = row;
    change(comm, |t| names.comm(t));
}

fn limit(names: &Names, row: &mut LimitRow) {
    let LimitRow { name, used: _, max: _ } = row;
    word(names, name, public::is_limit);
}

fn frame(names: &Names, row: &mut Frame) {
    let Frame { addr: _, module, offset: _ } = row;
    change_if(module, |t| names.link(t));
}

fn place(names: &Names, row: &mut Place) {
    let Place { function, file, line: _, inlined: _ } = row;
    change_if(function, |t| names.function(t));
    change_if(file, |t| names.path(t));
}

fn socket(names: &Names, row: &mut SocketRow) {
    let SocketRow { ino: _, listed: _, listening: _, name, address, named: _, peer: _, pending: _, backlog: _ } = row;
    change_if(name, |t| names.socket(t));
    change_if(address, |t| names.socket(t));
}

fn futex(names: &Names, row: &mut FutexRow) {
    let FutexRow { obj, start_ns: _, place, owner_tid: _, owner } = row;
    number(obj);
    if let Some(FutexPlace { dev_minor: _, ino: _, offset: _, path, users, complete: _ }) = place {
        change(path, |t| names.link(t));
        each(users, |row| number(row));
    }
    if let Some(FutexOwner { tid: _, tgid: _, start_ns: _, comm }) = owner {
        change(comm, |t| names.comm(t));
    }
}

fn thread(names: &Names, row: &mut ThreadRow) {
    let ThreadRow {
        tgid: _,
        start_ns: _,
        tid: _,
        comm,
        state: _,
        syscall: _,
        switches: _,
        timeout: _,
        waits,
        more: _,
        stack: _,
        kernel,
    } = row;
    change(comm, |t| names.comm(t));
    each(waits, |row| wait(names, row));
    each(kernel, |t| change(t, |t| names.function(t)));
}

fn wait(names: &Names, row: &mut WaitRow) {
    let WaitRow { obj, way, fd: _, part: _, name, releasers, complete: _ } = row;
    number(obj);
    number(way);
    change(name, |t| names.link(t));
    each(releasers, |row| number(row));
}

fn reader_look(names: &Names, row: &mut ReaderLook) {
    let ReaderLook { obj, tgid: _, start_ns: _, tid: _, state: _, syscall: _, stack: _, kernel } = row;
    number(obj);
    each(kernel, |t| change(t, |t| names.function(t)));
}
