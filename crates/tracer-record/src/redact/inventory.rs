//! What existed at one moment, without names; taken apart without `..`.

use super::name::Names;
use super::{change, change_if, each, number, pipe_owner};
use crate::record::{
    InFlightRow, Inventory, MsgQueue, PassedRow, PosixHolder, PosixInventory, PosixObject, ProcessRow, SemSetRow,
    ShmSegment, SmallPipes,
};

pub(super) fn inventory(names: &Names, row: &mut Inventory) {
    let Inventory {
        ts_ns: _,
        until_ns: _,
        processes,
        sem_sets,
        sem_limits,
        shm_segments,
        shm_limits,
        msg_queues,
        msg_limits,
        passed,
        posix,
        in_flight,
        small_pipes,
        system,
        problems,
    } = row;
    each(processes, |row| process(names, row));
    each(sem_sets, sem_set);
    each(sem_limits, |row| number(row));
    each(shm_segments, segment);
    each(shm_limits, |row| number(row));
    each(msg_queues, queue);
    each(msg_limits, |row| number(row));
    each(passed.as_deref_mut().unwrap_or_default(), |row| self::passed(names, row));
    if let Some(row) = posix {
        self::posix(names, row);
    }
    each(in_flight.as_deref_mut().unwrap_or_default(), self::in_flight);
    each(small_pipes.as_deref_mut().unwrap_or_default(), |row| self::small_pipes(names, row));
    number(system);
    each(problems, |t| change(t, |t| names.sentence(t)));
}

pub(super) fn process(names: &Names, row: &mut ProcessRow) {
    let ProcessRow {
        tgid: _,
        start_ns: _,
        ppid: _,
        pgrp: _,
        comm,
        state: _,
        uid: _,
        exe,
        ns_pid: _,
        ipc_ns: _,
        pid_ns: _,
        sigchld_blocked: _,
        sigchld_ignored: _,
        sigchld_caught: _,
        signals_blocked: _,
        signals_queued: _,
        syscall: _,
        nofile_soft: _,
        cgroup,
    } = row;
    change(comm, |t| names.comm(t));
    change_if(exe, |t| names.link(t));
    change_if(cgroup, |t| super::cgroup::path(names, t));
}

fn sem_set(row: &mut SemSetRow) {
    let SemSetRow {
        ns: _,
        id: _,
        key: _,
        perms: _,
        nsems: _,
        uid: _,
        gid: _,
        cuid: _,
        cgid: _,
        otime: _,
        ctime: _,
        values,
    } = row;
    each(values, |row| number(row));
}

fn segment(row: &mut ShmSegment) {
    let ShmSegment {
        ns: _,
        id: _,
        key: _,
        size_bytes: _,
        nattch: _,
        cpid: _,
        lpid: _,
        uid: _,
        gid: _,
        cuid: _,
        cgid: _,
        mode: _,
        dest: _,
        locked: _,
        atime: _,
        dtime: _,
        ctime: _,
        attached: _,
    } = row;
}

pub(super) fn queue(row: &mut MsgQueue) {
    let MsgQueue {
        ns: _,
        id: _,
        key: _,
        bytes: _,
        messages: _,
        qbytes: _,
        lspid: _,
        lrpid: _,
        uid: _,
        gid: _,
        cuid: _,
        cgid: _,
        mode: _,
        stime: _,
        rtime: _,
        ctime: _,
        waiting: _,
        waiting_complete: _,
    } = row;
}

fn passed(names: &Names, row: &mut PassedRow) {
    let PassedRow { tgid: _, start_ns: _, opener: _, opener_start_ns: _, from_ancestor: _, obj, fds: _, fd: _, link } =
        row;
    number(obj);
    change_if(link, |t| names.link(t));
}

fn posix(names: &Names, row: &mut PosixInventory) {
    let PosixInventory { objects, unlisted, queues_max: _, shm_used_bytes: _, shm_max_bytes: _ } = row;
    each(unlisted, |row| number(row));
    each(objects, |row| posix_object(names, row));
}

fn posix_object(names: &Names, row: &mut PosixObject) {
    let PosixObject {
        kind,
        name,
        path,
        dev: _,
        device: _,
        ino: _,
        size_bytes: _,
        uid: _,
        gid: _,
        mode: _,
        mtime: _,
        ctime: _,
        queue,
        holders,
        complete: _,
    } = row;
    number(kind);
    number(queue);
    change(name, |t| names.posix(t));
    change(path, |t| names.path(t));
    each(holders, |PosixHolder { tgid: _, start_ns: _, open: _, mapped: _ }| {});
}

fn in_flight(row: &mut InFlightRow) {
    let InFlightRow { ino: _, fds: _, tgid: _, start_ns: _, fd: _ } = row;
}

fn small_pipes(names: &Names, row: &mut SmallPipes) {
    let SmallPipes { uid: _, slots: _, count: _, inos: _, pages: _, soft_pages: _, holders, pipes: _ } = row;
    each(holders, |row| pipe_owner(names, row));
}
