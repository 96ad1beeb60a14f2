//! SysV message queues, the processes that block on them, and the limits, of each IPC namespace.
//!
//! It must not send, receive or copy a message: it calls msgctl with MSG_INFO and MSG_STAT_ANY only.

use std::collections::BTreeMap;
use std::io;

use super::columns::Columns;
use super::entry::{Entry, INIT, vanished};
use super::namespace::{ipc_of, within_ipc};
use tracer_record::{Inventory, MsgLimitRow, MsgQueue};

/// At most this many threads are examined for the queue that they block on.
const THREADS_MAX: usize = 65_536;
/// `MSG_STAT_ANY` of include/uapi/linux/msg.h, 4.17 and later: it needs no read permission.
const MSG_STAT_ANY: libc::c_int = 13;
/// Number of bits of an id that are its index, by default and with the boot option `ipcmni_extend` (ipc/util.h).
const INDEX_BITS: [u32; 2] = [15, 24];

/// Reads the capacities of the queues, of a namespace that the calling thread is in: the table lacks them. Leaves out
/// queues removed meanwhile.
pub(super) fn with_capacities(queues: Vec<MsgQueue>, ns: u32, problems: &mut Vec<String>) -> Vec<MsgQueue> {
    let mut out = Vec::with_capacity(queues.len());
    let mut denied = 0_u64;
    for mut queue in queues {
        match stat(queue.id) {
            Ok(Some(stat)) => queue.qbytes = stat.msg_qbytes,
            Ok(None) => continue, // removed since the table was read
            Err(_) => denied += 1,
        }
        out.push(queue);
    }
    if denied > 0 {
        problems.push(format!("capacity of {denied} message queues in IPC namespace {ns} not read"));
    }
    out
}

/// key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid stime rtime ctime; perms is octal
/// (ipc/msg.c, `sysvipc_msg_proc_show`).
pub(super) fn parse_queue(line: &str, ns: u32) -> Option<MsgQueue> {
    let mut columns = Columns::of(line);
    let key = columns.next()?;
    let id = columns.next()?;
    let mode = columns.next_octal()? & 0o777;
    let (bytes, messages) = (columns.next()?, columns.next()?);
    let (lspid, lrpid) = (columns.next()?, columns.next()?);
    let (uid, gid) = (columns.next()?, columns.next()?);
    let (cuid, cgid) = (columns.next()?, columns.next()?);
    let (stime, rtime, ctime) = (columns.next()?, columns.next()?, columns.next()?);
    Some(MsgQueue {
        ns,
        id,
        key,
        bytes,
        messages,
        qbytes: 0,
        lspid,
        lrpid,
        uid,
        gid,
        cuid,
        cgid,
        mode,
        stime,
        rtime,
        ctime,
        waiting: Vec::new(),
        waiting_complete: false,
    })
}

/// Reads these queues, each given as (namespace, id) with a process in that namespace, without the processes that block
/// on them. Leaves out queues that no longer exist, or whose namespace may not be entered.
pub fn queues(wanted: &BTreeMap<(u32, i32), u32>) -> Vec<MsgQueue> {
    let mut by_ns: BTreeMap<u32, (Vec<u32>, Vec<i32>)> = BTreeMap::new();
    for ((ns, id), member) in wanted {
        let (members, ids) = by_ns.entry(*ns).or_default();
        members.push(*member);
        ids.push(*id);
    }
    let mut out = Vec::new();
    for (ns, (members, ids)) in by_ns {
        let read = move || ids.iter().filter_map(|id| Some(row(ns, *id, &stat(*id).ok()??))).collect();
        let rows: Vec<MsgQueue> = within_ipc(ns, &members, read).ok().flatten().unwrap_or_default();
        out.extend(rows);
    }
    out
}

fn row(ns: u32, id: i32, queue: &libc::msqid_ds) -> MsgQueue {
    let pid = |p: libc::pid_t| u32::try_from(p).unwrap_or(0);
    let seconds = |t: libc::time_t| u64::try_from(t).unwrap_or(0);
    MsgQueue {
        ns,
        id,
        key: queue.msg_perm.__key,
        bytes: queue.__msg_cbytes,
        messages: queue.msg_qnum,
        qbytes: queue.msg_qbytes,
        lspid: pid(queue.msg_lspid),
        lrpid: pid(queue.msg_lrpid),
        uid: queue.msg_perm.uid,
        gid: queue.msg_perm.gid,
        cuid: queue.msg_perm.cuid,
        cgid: queue.msg_perm.cgid,
        mode: u32::from(queue.msg_perm.mode) & 0o777,
        stime: seconds(queue.msg_stime),
        rtime: seconds(queue.msg_rtime),
        ctime: seconds(queue.msg_ctime),
        waiting: Vec::new(),
        waiting_complete: false,
    }
}

/// MSG_STAT_ANY of one queue of the calling thread's namespace; `None` if it does not exist.
fn stat(id: i32) -> io::Result<Option<libc::msqid_ds>> {
    let mut refused = None;
    for bits in INDEX_BITS {
        let index = id & ((1 << bits) - 1);
        // SAFETY: an all-zero `msqid_ds` is valid: it holds integers only.
        let mut queue: libc::msqid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: MSG_STAT_ANY writes one `msqid_ds` to the given address.
        let r = unsafe { libc::msgctl(index, MSG_STAT_ANY, &raw mut queue) };
        if r == id {
            return Ok(Some(queue));
        }
        if r < 0 {
            let e = io::Error::last_os_error();
            // EINVAL: an index without a queue; EIDRM: a queue that is being removed.
            if !matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EIDRM)) {
                refused = Some(e);
            }
        }
    }
    refused.map_or(Ok(None), Err)
}

/// The limits of the namespace and their use, by MSG_INFO.
pub(super) fn limits(ns: u32) -> io::Result<MsgLimitRow> {
    // SAFETY: an all-zero `msginfo` is valid: it holds integers only.
    let mut info: libc::msginfo = unsafe { std::mem::zeroed() };
    // SAFETY: MSG_INFO writes one `msginfo` to the given address.
    let r = unsafe { libc::msgctl(0, libc::MSG_INFO, (&raw mut info).cast()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    let n = |v: i32| u64::try_from(v).unwrap_or(0);
    Ok(MsgLimitRow {
        ns,
        msgmni: n(info.msgmni),
        msgmax: n(info.msgmax),
        msgmnb: n(info.msgmnb),
        // With MSG_INFO these three are the use (ipc/msg.c, `msgctl_info`).
        used_queues: n(info.msgpool),
        used_messages: n(info.msgmap),
        used_bytes: n(info.msgtql),
    })
}

/// Finds the processes with threads that block on the queues. The kernel has no other trace of a server that waits for
/// its first message: it stores no creator of a queue, and its last receiver is 0.
pub(super) fn find_waiting(inv: &mut Inventory) {
    if inv.msg_queues.is_empty() {
        return;
    }
    let rows: BTreeMap<(u32, i32), usize> =
        inv.msg_queues.iter().enumerate().map(|(at, q)| ((q.ns, q.id), at)).collect();
    // The file is missing on kernels without CONFIG_HAVE_ARCH_TRACEHOOK.
    let mut complete = std::fs::exists("/proc/thread-self/syscall").unwrap_or(false);
    let (mut denied, mut examined) = (0_u64, 0);
    let mut found = Vec::new();
    let mut buf = Vec::new();
    for pid in inv.processes.iter().map(|p| p.tgid) {
        let Ok((tasks, tids)) = Entry::open(pid).and_then(|e| e.numbers("task")) else { continue };
        examined += tids.len();
        if examined > THREADS_MAX {
            complete = false;
            break;
        }
        let mut refused = false;
        for tid in tids {
            match tasks.read(&format!("{tid}/syscall"), &mut buf) {
                Ok(()) => {}
                Err(e) => {
                    refused |= !vanished(&e);
                    continue;
                }
            }
            if let Some(id) = blocks_on(&buf)
                && let Some(ns) = ipc_of(&tasks, &format!("{tid}/ns/ipc"))
                && let Some(at) = rows.get(&(ns, id))
            {
                found.push((*at, pid));
            }
        }
        denied += u64::from(refused && pid != INIT);
    }
    for (at, pid) in found {
        if let Some(row) = inv.msg_queues.get_mut(at)
            && !row.waiting.contains(&pid)
        {
            row.waiting.push(pid);
        }
    }
    for row in &mut inv.msg_queues {
        row.waiting_complete = complete && denied == 0;
    }
    if denied > 0 {
        inv.problems.push(format!(
            "threads of {denied} processes not read, for waits on message queues: needs CAP_SYS_PTRACE over them"
        ));
    } else if !complete {
        inv.problems.push("not all threads read, for waits on message queues".to_owned());
    }
}

/// The queue on which the thread of this `/proc/PID/task/TID/syscall` sleeps: "NUMBER ARG0 ...", arguments in
/// hexadecimal (fs/proc/base.c, `proc_pid_syscall`).
fn blocks_on(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split_ascii_whitespace();
    let call: i64 = words.next()?.parse().ok()?;
    if call != libc::SYS_msgrcv && call != libc::SYS_msgsnd {
        return None;
    }
    let argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    // The id is an int; the upper half of the register is undefined.
    i32::try_from(argument & u64::from(u32::MAX)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Scope, read};

    /// A queue that is removed when dropped.
    struct Queue(i32);

    impl Queue {
        fn new() -> Self {
            // SAFETY: msgget takes numbers only.
            let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600 | libc::IPC_CREAT) };
            assert!(id >= 0, "msgget: {}", io::Error::last_os_error());
            Self(id)
        }
    }

    impl Drop for Queue {
        fn drop(&mut self) {
            // SAFETY: IPC_RMID ignores the address.
            unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }

    /// A message as msgsnd takes it: a type and 8 bytes.
    type Message = [libc::c_long; 2];

    fn own_row(id: i32) -> MsgQueue {
        let inv = read(&Scope::Pids(vec![std::process::id()]));
        let limits = inv.msg_limits.first().expect("limits");
        assert!(limits.msgmni > 0 && limits.msgmax > 0 && limits.msgmnb > 0 && limits.used_queues >= 1);
        inv.msg_queues.into_iter().find(|q| q.id == id).expect("own queue")
    }

    #[test]
    fn lines_of_the_table() {
        let line = "        -7         32768  2640        100          2    41    42  1001  1002  1003  1004 11 12 13";
        let want = MsgQueue {
            ns: 9,
            id: 32_768,
            key: -7,
            bytes: 100,
            messages: 2,
            lspid: 41,
            lrpid: 42,
            uid: 1001,
            gid: 1002,
            cuid: 1003,
            cgid: 1004,
            mode: 0o640,
            stime: 11,
            rtime: 12,
            ctime: 13,
            ..MsgQueue::default()
        };
        assert_eq!(parse_queue(line, 9), Some(want));
        for bad in ["", "1 2 3", "key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid stime rtime ctime", "1 2 9"]
        {
            assert_eq!(parse_queue(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn calls_that_block_on_a_queue() {
        let call = |nr: i64, id: &str| format!("{nr} {id} 0x7ff0 0x8 0x0 0x0 0x0 0x7ff1 0x7ff2\n");
        assert_eq!(blocks_on(call(libc::SYS_msgrcv, "0x8000").as_bytes()), Some(32_768));
        assert_eq!(blocks_on(call(libc::SYS_msgsnd, "0xffffffff00000000").as_bytes()), Some(0));
        for other in [call(libc::SYS_read, "0x8000"), "running\n".into(), "-1 0x7ff1 0x7ff2".into(), String::new()] {
            assert_eq!(blocks_on(other.as_bytes()), None, "{other}");
        }
        assert_eq!(blocks_on(b"\xff\xfe"), None);
    }

    #[test]
    fn a_queue_with_a_message() {
        let me = std::process::id();
        let queue = Queue::new();
        let new = own_row(queue.0);
        assert_eq!((new.lspid, new.lrpid, new.stime, new.rtime, new.messages), (0, 0, 0, 0, 0));
        assert!(new.qbytes > 0 && new.mode == 0o600 && new.ctime > 0);
        let message: Message = [1, 0];
        // SAFETY: a type and 8 bytes lie at the address.
        assert_eq!(unsafe { libc::msgsnd(queue.0, (&raw const message).cast(), 8, libc::IPC_NOWAIT) }, 0);
        let sent = own_row(queue.0);
        assert_eq!((sent.lspid, sent.lrpid, sent.messages, sent.bytes, sent.rtime), (me, 0, 1, 8, 0));
        assert!(sent.stime >= new.ctime);
        assert_eq!(own_row(queue.0), sent, "reading must not change a queue");
    }

    #[test]
    fn single_queues_are_read_as_in_the_table() {
        let (queue, gone) = (Queue::new(), Queue::new().0);
        let message: Message = [1, 0];
        // SAFETY: a type and 8 bytes lie at the address.
        assert_eq!(unsafe { libc::msgsnd(queue.0, (&raw const message).cast(), 8, libc::IPC_NOWAIT) }, 0);
        let table = own_row(queue.0);
        let me = std::process::id();
        let got = queues(&BTreeMap::from([((table.ns, queue.0), me), ((table.ns, gone), me), ((1, 5), u32::MAX)]));
        assert_eq!(got, [MsgQueue { waiting_complete: false, ..table }]);
    }

    #[test]
    fn a_blocked_receiver_is_found() {
        let queue = Queue::new();
        let id = queue.0;
        let server = std::thread::spawn(move || {
            let mut message: Message = [0, 0];
            // SAFETY: a type and 8 bytes fit at the address. It ends when the queue is removed.
            unsafe { libc::msgrcv(id, (&raw mut message).cast(), 8, 0, 0) };
        });
        let me = std::process::id();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let seen = own_row(id);
            if seen.waiting == [me] {
                break;
            }
            assert!(seen.waiting.is_empty() && std::time::Instant::now() < end, "{seen:?}");
        }
        drop(queue);
        server.join().expect("join");
    }

    #[test]
    fn a_removed_queue_has_no_capacity() {
        let id = Queue::new().0;
        assert!(matches!(stat(id), Ok(None)));
    }
}
