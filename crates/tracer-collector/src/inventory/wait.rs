//! Samples what threads are blocked on, and which processes could end that: from /proc alone, without probes.
//!
//! It starts with some processes and continues with those that could end their waits, until it finds no new one.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use tracer_common::map::kind;
use tracer_common::state::FutexState;

use super::entry::{Entry, field};
use super::fd::{Link, eventfd_id};
use super::futex::{FutexRequest, futex_words, futexes};
use super::namespace::ipc_of;
use super::stack::kernel_stack;
use super::{fd, msg, open, process, sem};
use tracer_record::decode::futex;
use tracer_record::listed::{DescriptorSnapshot, OpenObject, Peer, SocketState, UnixSocket};
use tracer_record::{FutexRow, Holder, ObjKey, Releaser, State, ThreadRow, WaitRow, Way};

/// At most this many processes are followed.
const PROCESSES_MAX: usize = 512;
/// At most this many threads of one process are read.
const THREADS_MAX: usize = 256;
/// At most this many descriptors of one poll are read.
const POLLED_MAX: usize = 64;
/// At most this many releasers of one wait.
const RELEASERS_MAX: usize = 64;

/// include/uapi/linux/futex.h
const FUTEX_PRIVATE_FLAG: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;
/// include/uapi/linux/wait.h
const P_PID: u64 = 1;
/// include/uapi/asm-generic/poll.h
const POLLIN: u16 = 1;
const POLLOUT: u16 = 4;

/// Time between two samples, the second of which shows the threads that have slept since the first.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// The threads of these processes, and of the processes that they wait for, directly or through others.
pub fn waits(pids: &[u32]) -> Vec<ThreadRow> {
    let mut search = Search::default();
    let mut todo: VecDeque<u32> = pids.iter().copied().collect();
    let mut seen: BTreeSet<u32> = todo.iter().copied().collect();
    let mut out = Vec::new();
    while let Some(pid) = todo.pop_front() {
        let rows = search.process(pid).unwrap_or_default();
        let releasers = rows.iter().flat_map(|row| &row.waits).flat_map(|wait| &wait.releasers);
        for releaser in releasers {
            if seen.len() < PROCESSES_MAX.max(pids.len()) && seen.insert(releaser.tgid) {
                todo.push_back(releaser.tgid);
            }
        }
        out.extend(rows);
    }
    out
}

/// What a system call blocks on, by its arguments.
enum Awaited {
    Fd(u32, Way),
    Sem {
        id: i32,
        num: u16,
    },
    Msg {
        id: i32,
        way: Way,
    },
    Futex {
        address: u64,
        expected: u32,
        command: u32,
    },
    /// A child; 0: any.
    Child(u32),
}

/// Tables, each read when it is first needed.
#[derive(Default)]
struct Search {
    open: Option<Open>,
    holders: HashMap<ObjKey, (Vec<Holder>, bool)>,
}

struct Open {
    pipes: BTreeMap<u64, OpenObject>,
    eventfds: BTreeMap<u64, OpenObject>,
    sockets: BTreeMap<u64, UnixSocket>,
    complete: bool,
}

impl Open {
    fn read() -> Self {
        let DescriptorSnapshot { pipes, eventfds, sockets, complete, .. } = open::descriptor_snapshot(&[], true);
        let by_id = |objects: Vec<OpenObject>| objects.into_iter().map(|o| (o.id, o)).collect();
        let sockets = sockets.unwrap_or_default().into_iter().map(|s| (s.ino, s)).collect();
        Self { pipes: by_id(pipes), eventfds: by_id(eventfds), sockets, complete }
    }
}

impl Search {
    fn process(&mut self, pid: u32) -> Option<Vec<ThreadRow>> {
        let entry = Entry::open(pid).ok()?;
        let stat = process::stat(&entry, &mut Vec::new())?;
        let (tasks, tids) = entry.numbers("task").ok()?;
        let mut threads = Vec::new();
        for tid in tids.into_iter().take(THREADS_MAX) {
            let Ok(task) = tasks.below(&tid.to_string()) else { continue };
            let Some(own) = process::stat(&task, &mut Vec::new()) else { continue };
            let call = task.text("syscall").ok().and_then(|text| Call::parse(&text));
            let mut row = ThreadRow {
                tgid: pid,
                start_ns: stat.start_ns,
                tid,
                comm: own.comm,
                state: own.state,
                syscall: call.as_ref().map(|c| c.nr),
                switches: task.text("status").map_or(0, |status| switches(&status)),
                kernel: if own.state == 'D' { kernel_stack(&task) } else { Vec::new() },
                ..ThreadRow::default()
            };
            let mut awaited = Vec::new();
            if let Some(call) = call.filter(|_| own.state == 'S') {
                row.timeout = call.has_timeout();
                (awaited, row.more) = call.awaited(&task, &entry);
            }
            threads.push((row, awaited));
        }
        let futexes = locate(pid, stat.start_ns, threads.iter().flat_map(|(_, awaited)| awaited));
        let with_waits = |(mut row, awaited): (ThreadRow, Vec<Awaited>)| {
            row.waits = awaited.iter().filter_map(|awaited| self.wait(&entry, pid, awaited, &futexes)).collect();
            row
        };
        Some(threads.into_iter().map(with_waits).collect())
    }

    fn wait(
        &mut self,
        entry: &Entry,
        pid: u32,
        awaited: &Awaited,
        futexes: &HashMap<u64, FutexRow>,
    ) -> Option<WaitRow> {
        match *awaited {
            Awaited::Fd(fd, way) => self.at_descriptor(entry, fd, way),
            Awaited::Sem { id, num } => {
                let ns = ipc_of(entry, "ns/ipc")?;
                let last = sem::last_operator(ns, pid, id, num);
                Some(WaitRow {
                    obj: ObjKey { kind: kind::SEM, ns, id: u64::from(id.cast_unsigned()) },
                    way: Way::Lock,
                    fd: -1,
                    part: num.into(),
                    // Any process with the id may operate on it, so the list is never complete.
                    releasers: last.and_then(living).into_iter().collect(),
                    ..WaitRow::default()
                })
            }
            Awaited::Msg { id, way } => {
                let ns = ipc_of(entry, "ns/ipc")?;
                let queue = msg::queues(&BTreeMap::from([((ns, id), pid)])).pop();
                let last = queue.map(|q| if way == Way::Give { q.lrpid } else { q.lspid });
                Some(WaitRow {
                    obj: ObjKey { kind: kind::MSG, ns, id: u64::from(id.cast_unsigned()) },
                    way,
                    fd: -1,
                    releasers: last.filter(|p| *p != 0).and_then(living).into_iter().collect(),
                    ..WaitRow::default()
                })
            }
            Awaited::Futex { address, .. } => {
                let row = futexes.get(&address)?;
                let place = row.place.as_ref()?;
                let releasers = match (row.owner_tid, &row.owner) {
                    (0, _) => place.users.iter().map(|u| Releaser { tgid: u.tgid, start_ns: u.start_ns }).collect(),
                    (_, Some(o)) => vec![Releaser { tgid: o.tgid, start_ns: o.start_ns }],
                    (_, None) => Vec::new(),
                };
                Some(WaitRow {
                    obj: row.obj,
                    way: Way::Lock,
                    fd: -1,
                    name: place.path.clone(),
                    releasers,
                    // Only its owner releases a lock; without an owner, a process that maps it later may.
                    complete: place.complete && row.owner_tid != 0,
                    ..WaitRow::default()
                })
            }
            Awaited::Child(child) => {
                let children = children(entry);
                let complete = children.is_some();
                let wanted = |p: &u32| child == 0 || *p == child;
                let releasers = children.unwrap_or_default().into_iter().filter(wanted).filter_map(living);
                Some(WaitRow {
                    obj: ObjKey { kind: kind::CHILD, ns: 0, id: child.into() },
                    way: Way::Child,
                    fd: -1,
                    releasers: releasers.take(RELEASERS_MAX).collect(),
                    complete,
                    ..WaitRow::default()
                })
            }
        }
    }

    fn at_descriptor(&mut self, entry: &Entry, fd: u32, way: Way) -> Option<WaitRow> {
        let name = entry.link(&format!("fd/{fd}")).ok()?;
        let link = Link::parse(&name);
        let mut row = WaitRow { way, fd: i32::try_from(fd).unwrap_or(-1), name, ..WaitRow::default() };
        let open = self.open.get_or_insert_with(Open::read);
        let gives = |h: &&Holder| h.writes != Some(false);
        let takes = |h: &&Holder| h.reads != Some(false);
        let releasers = |holders: &[Holder], fits: &dyn Fn(&&Holder) -> bool| -> Vec<Releaser> {
            let fitting = holders.iter().filter(|h| fits(h));
            fitting.map(|h| Releaser { tgid: h.tgid, start_ns: h.start_ns }).collect()
        };
        let fits: &dyn Fn(&&Holder) -> bool = if way == Way::Give { &takes } else { &gives };
        match link {
            Link::Pipe(ino) => {
                row.obj = ObjKey { kind: kind::PIPE, ns: 0, id: ino };
                let found = open.pipes.get(&ino);
                row.releasers = found.map(|p| releasers(&p.holders, fits)).unwrap_or_default();
                row.complete = open.complete && found.is_some();
            }
            Link::Eventfd => {
                let id = entry.text(&format!("fdinfo/{fd}")).ok().and_then(|info| eventfd_id(&info))?;
                row.obj = ObjKey { kind: kind::EVENTFD, ns: 0, id };
                row.releasers = open.eventfds.get(&id).map(|e| releasers(&e.holders, &|_| true)).unwrap_or_default();
                // The kernel itself may add to an eventfd, but never reads it.
                row.complete = open.complete && way == Way::Give;
            }
            Link::Socket(ino) => {
                row.obj = ObjKey { kind: kind::SOCKET, ns: 0, id: ino };
                let own = open.sockets.get(&ino);
                let peer = own.filter(|s| s.state != SocketState::Listen).and_then(|s| match s.peer {
                    Peer::Socket(peer) => open.sockets.get(&peer),
                    Peer::Unknown | Peer::None | Peer::Fileless => None,
                });
                row.releasers = peer.map(|p| releasers(&p.holders, &|_| true)).unwrap_or_default();
                // Any socket may send datagrams.
                row.complete = open.complete && peer.is_some_and(|p| p.state == SocketState::Established);
            }
            Link::Path => {
                let obj = fd::named_object(entry, fd)?;
                row.obj = obj;
                let found =
                    self.holders.entry(obj).or_insert_with(|| fd::holders_of(&[obj]).remove(&obj).unwrap_or_default());
                // Any process with the name may open it, so the list is never complete.
                row.releasers = releasers(&found.0, fits);
            }
            Link::Other => {}
        }
        // No thread blocks on a pipe or a connection without another end. If none was found, it is in flight in a socket,
        // or open in a process that cannot be read.
        row.complete &= (1..=RELEASERS_MAX).contains(&row.releasers.len());
        row.releasers.truncate(RELEASERS_MAX);
        Some(row)
    }
}

/// The futexes on which threads of a process block, by address, with one search for the processes that map them.
fn locate<'a>(pid: u32, start_ns: u64, awaited: impl Iterator<Item = &'a Awaited>) -> HashMap<u64, FutexRow> {
    let mut places = BTreeMap::new();
    for awaited in awaited {
        let Awaited::Futex { address, expected, command } = *awaited else { continue };
        let words = futex_words(pid, address).unwrap_or_default();
        let state: State = FutexState { words, expected, command }.into();
        let owner_tid = futex::owner(state).unwrap_or(0);
        places.insert(ObjKey { kind: kind::FUTEX, ns: pid, id: address }, FutexRequest { start_ns, owner_tid });
    }
    if places.is_empty() {
        return HashMap::new();
    }
    futexes(&places).into_iter().map(|row| (row.obj.id, row)).collect()
}

/// The system call in which a thread sleeps.
struct Call {
    nr: i64,
    args: [u64; 6],
}

impl Call {
    /// `nr arg0 ... arg5 sp pc`, hexadecimal but for the first (fs/proc/base.c, `proc_pid_syscall`).
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let nr = words.next()?.parse().ok().filter(|nr| *nr >= 0)?;
        let mut args = [0; 6];
        for (arg, word) in args.iter_mut().zip(words) {
            *arg = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
        }
        Some(Self { nr, args })
    }

    fn fd(&self, n: usize) -> u32 {
        self.arg(n) as u32
    }

    fn arg(&self, n: usize) -> u64 {
        self.args.get(n).copied().unwrap_or(0)
    }

    /// Whether the call has a timeout.
    fn has_timeout(&self) -> bool {
        let milliseconds = |n| (self.arg(n) as i32) >= 0;
        let pointer = |n| self.arg(n) != 0;
        #[cfg(target_arch = "x86_64")]
        match self.nr {
            libc::SYS_poll => return milliseconds(2),
            libc::SYS_select => return pointer(4),
            libc::SYS_epoll_wait => return milliseconds(3),
            _ => {}
        }
        match self.nr {
            libc::SYS_ppoll | libc::SYS_rt_sigtimedwait => pointer(2),
            libc::SYS_semtimedop | libc::SYS_epoll_pwait2 | libc::SYS_futex => pointer(3),
            libc::SYS_mq_timedsend | libc::SYS_mq_timedreceive | libc::SYS_recvmmsg | libc::SYS_pselect6 => pointer(4),
            libc::SYS_epoll_pwait => milliseconds(3),
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep => true,
            _ => false,
        }
    }

    /// What the call blocks on, and whether it may block on more than that.
    fn awaited(&self, task: &Entry, process: &Entry) -> (Vec<Awaited>, bool) {
        let [a, b, c, ..] = self.args;
        let one = |awaited| (vec![awaited], false);
        #[cfg(target_arch = "x86_64")]
        match self.nr {
            libc::SYS_poll => return polled(task, a, b),
            libc::SYS_select => return (Vec::new(), true),
            libc::SYS_epoll_wait => return watched(process, a as u32),
            _ => {}
        }
        match self.nr {
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwritev2
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_sendmmsg
            | libc::SYS_connect
            | libc::SYS_vmsplice
            | libc::SYS_sendfile
            | libc::SYS_mq_timedsend => one(Awaited::Fd(self.fd(0), Way::Give)),
            libc::SYS_read
            | libc::SYS_readv
            | libc::SYS_preadv2
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_recvmmsg
            | libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_mq_timedreceive => one(Awaited::Fd(self.fd(0), Way::Take)),
            // /proc does not show whether it waits for input or for space.
            libc::SYS_splice => (vec![Awaited::Fd(self.fd(0), Way::Take), Awaited::Fd(self.fd(2), Way::Give)], true),
            libc::SYS_tee => (vec![Awaited::Fd(self.fd(0), Way::Take), Awaited::Fd(self.fd(1), Way::Give)], true),
            libc::SYS_semop | libc::SYS_semtimedop => match sem::op_at(task, b) {
                Ok(op) => one(Awaited::Sem { id: a as i32, num: op.num }),
                Err(_) => (Vec::new(), true),
            },
            libc::SYS_msgsnd => one(Awaited::Msg { id: a as i32, way: Way::Give }),
            libc::SYS_msgrcv => one(Awaited::Msg { id: a as i32, way: Way::Take }),
            libc::SYS_futex if b & FUTEX_PRIVATE_FLAG == 0 => {
                let command = (b & !FUTEX_CLOCK_REALTIME) as u32;
                one(Awaited::Futex { address: a, expected: c as u32, command })
            }
            libc::SYS_wait4 if (a as i32) > 0 => one(Awaited::Child(child_of_host(process, a as u32))),
            libc::SYS_waitid if a == P_PID => one(Awaited::Child(child_of_host(process, b as u32))),
            libc::SYS_wait4 | libc::SYS_waitid => one(Awaited::Child(0)),
            libc::SYS_ppoll => polled(task, a, b),
            libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => watched(process, a as u32),
            _ => (Vec::new(), true),
        }
    }
}

/// The descriptors of `struct pollfd` at `address`.
fn polled(task: &Entry, address: u64, count: u64) -> (Vec<Awaited>, bool) {
    let mut bytes = vec![0; 8 * usize::try_from(count).unwrap_or(usize::MAX).min(POLLED_MAX)];
    if task.memory(address, &mut bytes).is_err() {
        return (Vec::new(), true);
    }
    let mut out = Vec::new();
    for [a, b, c, d, e, f, _, _] in bytes.as_chunks::<8>().0 {
        let (fd, events) = (i32::from_ne_bytes([*a, *b, *c, *d]), u16::from_ne_bytes([*e, *f]));
        let Ok(fd) = u32::try_from(fd) else { continue };
        out.extend((events & POLLIN != 0).then_some(Awaited::Fd(fd, Way::Take)));
        out.extend((events & POLLOUT != 0).then_some(Awaited::Fd(fd, Way::Give)));
    }
    // A signal wakes it, too, and event loops have handlers.
    (out, true)
}

/// The descriptors that an epoll instance watches: `tfd: 5 events: 19 ...` (fs/eventpoll.c, `ep_show_fdinfo`).
/// They are the numbers at the time of EPOLL_CTL_ADD, so the instance may watch other files by now.
fn watched(process: &Entry, epoll: u32) -> (Vec<Awaited>, bool) {
    let info = process.text(&format!("fdinfo/{epoll}")).unwrap_or_default();
    let mut out = Vec::new();
    for line in info.lines().filter_map(|l| l.strip_prefix("tfd:")).take(POLLED_MAX) {
        let mut words = line.split_ascii_whitespace();
        let fd = words.next().and_then(|w| w.parse().ok());
        let events = words.nth(1).and_then(|w| u16::from_str_radix(w.get(w.len().saturating_sub(4)..)?, 16).ok());
        if let (Some(fd), Some(events)) = (fd, events) {
            out.extend((events & POLLIN != 0).then_some(Awaited::Fd(fd, Way::Take)));
            out.extend((events & POLLOUT != 0).then_some(Awaited::Fd(fd, Way::Give)));
        }
    }
    (out, true)
}

/// The host's pid of the child that a process knows by this pid; 0 if there is none.
fn child_of_host(process: &Entry, number: u32) -> u32 {
    let is_it = |pid: &u32| {
        let status = Entry::open(*pid).and_then(|entry| entry.text("status")).unwrap_or_default();
        let numbers = field(&status, "NSpid").unwrap_or_default();
        numbers.split_ascii_whitespace().any(|n| n.parse() == Ok(number))
    };
    children(process).unwrap_or_default().into_iter().find(is_it).unwrap_or(0)
}

/// Children of all threads of a process; `None` if the kernel does not list them (CONFIG_PROC_CHILDREN).
fn children(process: &Entry) -> Option<Vec<u32>> {
    let (tasks, tids) = process.numbers("task").ok()?;
    let mut out = Vec::new();
    for tid in tids {
        let list = tasks.below(&tid.to_string()).and_then(|task| task.text("children")).ok()?;
        out.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Some(out)
}

/// A process that is alive and no zombie.
fn living(pid: u32) -> Option<Releaser> {
    let stat = process::stat(&Entry::open(pid).ok()?, &mut Vec::new())?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(Releaser { tgid: pid, start_ns: stat.start_ns })
}

fn switches(status: &str) -> u64 {
    let count = |key| field(status, key).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    count("voluntary_ctxt_switches").saturating_add(count("nonvoluntary_ctxt_switches"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    #[test]
    fn lines_of_syscall() {
        let call = Call::parse("1 0x4 0x7ff 0x1000 0x0 0x0 0x0 0x7ffe 0x7f01\n").expect("call");
        assert_eq!((call.nr, call.fd(0), call.args[2]), (1, 4, 4096));
        for bad in ["running\n", "-1 0x7ff 0x7ff\n", "", "1 zz"] {
            assert!(Call::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_parent_and_a_reader() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("spawn");
        let me = std::process::id();
        let waits_for_input = || {
            let rows = waits(&[child.id()]);
            let row = rows.iter().find(|row| row.tgid == child.id())?.clone();
            (!row.waits.is_empty()).then_some((row, rows))
        };
        let (row, rows) = loop {
            if let Some(found) = waits_for_input() {
                break found;
            }
        };
        let [wait] = row.waits.as_slice() else { unreachable!("{row:?}") };
        assert_eq!((row.state, wait.way, wait.obj.kind, wait.fd), ('S', Way::Take, kind::PIPE, 0));
        assert!(wait.name.starts_with("pipe:[") && !row.timeout && !row.more);
        // This process holds the other end, and is read too.
        assert!(wait.releasers.iter().any(|r| r.tgid == me), "{wait:?}");
        assert!(rows.iter().any(|row| row.tgid == me && row.tid == me));
        assert!(children(&Entry::open(me).expect("entry")).is_none_or(|c| c.contains(&child.id())));
        child.stdin.take().expect("pipe").write_all(b"x").expect("write");
        child.wait().expect("wait");
        assert!(living(child.id()).is_none());
    }

    #[test]
    fn a_write_end_that_is_in_flight() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        let (queue, kept) = std::os::unix::net::UnixStream::pair().expect("sockets");
        let fds = [writer.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&queue, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).expect("sendmsg");
        drop(writer);
        let mut child = Command::new("cat").stdin(reader).stdout(Stdio::null()).spawn().expect("spawn");
        let wait = loop {
            let rows = waits(&[child.id()]);
            if let Some(wait) = rows.iter().find(|row| row.tgid == child.id()).and_then(|row| row.waits.first()) {
                break wait.clone();
            }
        };
        assert!(wait.releasers.is_empty() && !wait.complete, "{wait:?}");
        drop(queue);
        drop(kept);
        child.wait().expect("wait");
    }
}
