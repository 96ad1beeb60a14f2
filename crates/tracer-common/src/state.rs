//! The state of an object when a thread blocked on it or was refused: three numbers on the wire, and what they mean for
//! each kind of object.
//!
//! [`ObjState`] is what traces hold, so its layout never changes. Both halves read and write it through the type of the
//! object's kind: [`PipeState`], [`EventfdState`], [`SemState`], [`MsgState`], [`MqState`], [`SocketState`],
//! [`FutexState`] or [`SignalState`]. Each converts from and into [`ObjState`]; the kind itself is in the
//! [`ObjRef`](crate::map::ObjRef) beside it, and no conversion checks it.

/// A number that is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// The state of an object on the wire. What the numbers mean depends on the kind of the object: read and write them
/// through the types of this module.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjState {
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

const _: () = assert!(size_of::<ObjState>() == 24);

/// A pipe or FIFO. Source: `struct pipe_inode_info`, include/linux/pipe_fs_i.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipeState {
    /// Slots that writers may fill (`max_usage`); each slot holds at most one page. 0: not read.
    pub capacity_slots: u64,
    /// Slots in use (`head - tail`). A write blocks when this reaches `capacity_slots`.
    pub used_slots: u64,
    /// Bytes in the used slots. Only the first 16 slots are summed; more are extrapolated from their mean.
    pub used_bytes: u64,
}

impl PipeState {
    /// Whether a write blocks or is refused (`pipe_full`, include/linux/pipe_fs_i.h).
    #[inline(always)]
    pub const fn is_full(self) -> bool {
        self.used_slots >= self.capacity_slots
    }
}

impl From<ObjState> for PipeState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self { capacity_slots: s.a, used_slots: s.b, used_bytes: s.c }
    }
}

impl From<PipeState> for ObjState {
    #[inline(always)]
    fn from(s: PipeState) -> Self {
        Self { a: s.capacity_slots, b: s.used_slots, c: s.used_bytes }
    }
}

/// An eventfd. Source: `struct eventfd_ctx`, fs/eventfd.c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventfdState {
    /// The counter, 0 to [`EventfdState::COUNTER_MAX`].
    pub counter: u64,
}

impl EventfdState {
    /// The highest value that the counter takes; a write that would exceed it blocks or is refused (`eventfd_write`,
    /// fs/eventfd.c).
    pub const COUNTER_MAX: u64 = u64::MAX - 1;
}

impl From<ObjState> for EventfdState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self { counter: s.a }
    }
}

impl From<EventfdState> for ObjState {
    #[inline(always)]
    fn from(s: EventfdState) -> Self {
        Self { a: s.counter, ..Self::default() }
    }
}

/// A semaphore set, as the first operation of a blocked or refused semop describes it (`struct sembuf`,
/// include/uapi/linux/sem.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SemState {
    /// Number of the semaphore in its set. `None`: the thread was asleep before it was watched, and userspace has not
    /// read its operations yet.
    pub num: Option<u16>,
    /// `sem_op`: what the operation adds. 0: it waits until the value is 0, or `num` is `None`.
    pub op: i16,
    /// The operation waits until the value is 0.
    pub waits_for_zero: bool,
}

impl SemState {
    /// The state of a thread whose first operation is `op` on semaphore `num`.
    #[inline(always)]
    pub const fn operation(num: u16, op: i16) -> Self {
        Self { num: Some(num), op, waits_for_zero: op == 0 }
    }

    /// Whether both states name the same semaphore of a set, or neither names one.
    #[inline(always)]
    pub const fn is_same_num(one: ObjState, other: ObjState) -> bool {
        one.b == other.b
    }
}

impl From<ObjState> for SemState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self { num: u16::try_from(s.b).ok(), op: s.c as i16, waits_for_zero: s.a == 1 }
    }
}

impl From<SemState> for ObjState {
    #[inline(always)]
    fn from(s: SemState) -> Self {
        let num = match s.num {
            Some(num) => num as u64,
            None => UNKNOWN,
        };
        Self { a: s.waits_for_zero as u64, b: num, c: s.op as i64 as u64 }
    }
}

/// A System V message queue, as a blocked or refused msgsnd describes it. How full the queue was is not in it: no
/// argument of msgsnd leads to the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsgState {
    /// Bytes of text in the message that did not fit (`msgsz` of msgsnd(2)).
    pub message_bytes: u64,
}

impl From<ObjState> for MsgState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self { message_bytes: s.a }
    }
}

impl From<MsgState> for ObjState {
    #[inline(always)]
    fn from(s: MsgState) -> Self {
        Self { a: s.message_bytes, ..Self::default() }
    }
}

/// A POSIX message queue. Source: `struct mqueue_inode_info`, ipc/mqueue.c.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MqState {
    /// Messages that the queue takes (`mq_maxmsg`); 0: not read.
    pub max_messages: u64,
    /// Messages in the queue (`mq_curmsgs`).
    pub messages: u64,
    /// Sends that gave up after their timeout. Only in [`Refused`](crate::map::Refused), whose `count` leaves them out;
    /// else 0.
    pub timed_out: u64,
}

impl From<ObjState> for MqState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self { max_messages: s.a, messages: s.b, timed_out: s.c }
    }
}

impl From<MqState> for ObjState {
    #[inline(always)]
    fn from(s: MqState) -> Self {
        Self { a: s.max_messages, b: s.messages, c: s.timed_out }
    }
}

/// A unix socket that sends or connects, and the queue of its peer. Source: `struct sock`, include/net/sock.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// Bytes of memory that the socket has in flight (`sk_wmem_alloc`, less the 1 at which it begins).
    pub sent: u32,
    /// Bytes that it may have in flight (`sk_sndbuf`).
    pub sndbuf: u32,
    /// Messages in the peer's receive queue; of a listening socket: connections not accepted yet.
    pub queued: u32,
    /// A sender of datagrams, or a connect, blocks when `queued` exceeds this (`sk_max_ack_backlog` of the peer;
    /// `unix_recvq_full`, net/unix/af_unix.c). On the wire it is cut to 28 bits.
    pub backlog: u32,
    /// `sk_type`: 1 stream, 2 datagram, 5 seqpacket. On the wire it has 4 bits.
    pub kind: u32,
    /// Inode number of the peer; 0: the socket has none, or is not connected.
    pub peer_ino: u64,
}

impl SocketState {
    /// The largest backlog on the wire.
    const BACKLOG_MAX: u32 = (1 << 28) - 1;

    /// Whether the memory that the socket may have in flight is used up (`sock_writeable`, include/net/sock.h, uses
    /// half of it; `sock_alloc_send_pskb`, net/core/sock.c, all).
    #[inline(always)]
    pub const fn is_sndbuf_full(self) -> bool {
        self.sent >= self.sndbuf
    }
}

impl From<ObjState> for SocketState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self {
            sent: s.a as u32,
            sndbuf: (s.a >> 32) as u32,
            queued: s.b as u32,
            backlog: (s.b >> 32) as u32 & Self::BACKLOG_MAX,
            kind: (s.b >> 60) as u32,
            peer_ino: s.c,
        }
    }
}

impl From<SocketState> for ObjState {
    #[inline(always)]
    fn from(s: SocketState) -> Self {
        let max = SocketState::BACKLOG_MAX;
        let backlog = if s.backlog > max { max } else { s.backlog };
        Self {
            a: s.sent as u64 | (s.sndbuf as u64) << 32,
            b: s.queued as u64 | (backlog as u64) << 32 | (s.kind as u64) << 60,
            c: s.peer_ino,
        }
    }
}

/// A futex: the memory at its address when a thread went to sleep there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FutexState {
    /// The futex word and the four words behind it; all 0 if they could not be read. The second is not on the wire and
    /// reads as 0. In a process-shared mutex of glibc they are `__lock`, `__count`, `__owner`, `__nusers` and `__kind`
    /// (`struct __pthread_mutex_s`, 64-bit).
    pub words: [u32; 5],
    /// The value that the waiter expected in the word.
    pub expected: u32,
    /// FUTEX_WAIT and the like, without flags (include/uapi/linux/futex.h).
    pub command: u32,
}

impl From<ObjState> for FutexState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        let words = [s.a as u32, 0, (s.a >> 32) as u32, (s.c >> 32) as u32, s.b as u32];
        Self { words, expected: (s.b >> 32) as u32, command: s.c as u32 }
    }
}

impl From<FutexState> for ObjState {
    #[inline(always)]
    fn from(s: FutexState) -> Self {
        let [word, _, owner, users, kind] = s.words;
        Self {
            a: word as u64 | (owner as u64) << 32,
            b: kind as u64 | (s.expected as u64) << 32,
            c: s.command as u64 | (users as u64) << 32,
        }
    }
}

/// A signal that was not queued, or was merged with a pending one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalState {
    /// Start time of the process that the signal was for, nanoseconds of the boot clock; 0: not read.
    pub target_start_ns: u64,
    /// The kernel itself sent it, so the process that ran then is not the sender (a positive `si_code`,
    /// include/uapi/asm-generic/siginfo.h).
    pub from_kernel: bool,
}

impl From<ObjState> for SignalState {
    #[inline(always)]
    fn from(s: ObjState) -> Self {
        Self { target_start_ns: s.a, from_kernel: s.b != 0 }
    }
}

impl From<SignalState> for ObjState {
    #[inline(always)]
    fn from(s: SignalState) -> Self {
        Self { a: s.target_start_ns, b: s.from_kernel as u64, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The view comes back from the wire as it went there, and the wire holds these numbers: traces depend on them.
    fn check<V>(view: V, a: u64, b: u64, c: u64)
    where
        V: Copy + PartialEq + core::fmt::Debug + From<ObjState> + Into<ObjState>,
    {
        let wire = ObjState { a, b, c };
        assert_eq!(view.into(), wire, "{view:?}");
        assert_eq!(V::from(wire), view, "{wire:?}");
    }

    #[test]
    fn pipes_and_eventfds() {
        check(PipeState { capacity_slots: 16, used_slots: 4, used_bytes: 9000 }, 16, 4, 9000);
        check(PipeState::default(), 0, 0, 0);
        check(EventfdState { counter: EventfdState::COUNTER_MAX }, 0xffff_ffff_ffff_fffe, 0, 0);
    }

    #[test]
    fn a_pipe_is_full_when_all_slots_are_used() {
        let pipe = |capacity_slots, used_slots| PipeState { capacity_slots, used_slots, used_bytes: 1 };
        assert!(!pipe(16, 15).is_full());
        assert!(pipe(16, 16).is_full());
        // A smaller F_SETPIPE_SZ leaves more slots in use than there are.
        assert!(pipe(8, 9).is_full());
    }

    #[test]
    fn semaphores() {
        check(SemState::operation(3, -1), 0, 3, u64::MAX);
        check(SemState::operation(0, 0), 1, 0, 0);
        check(SemState::operation(u16::MAX, i16::MIN), 0, 65_535, 0xffff_ffff_ffff_8000);
        check(SemState::default(), 0, UNKNOWN, 0);
    }

    #[test]
    fn semaphore_numbers_are_compared_on_the_wire() {
        let (one, two) = (SemState::operation(1, -1).into(), SemState::operation(2, -1).into());
        assert!(SemState::is_same_num(one, SemState::operation(1, 0).into()));
        assert!(!SemState::is_same_num(one, two));
        assert!(!SemState::is_same_num(one, SemState::default().into()));
        assert!(SemState::is_same_num(SemState::default().into(), SemState::default().into()));
    }

    #[test]
    fn queues() {
        check(MsgState { message_bytes: 1024 }, 1024, 0, 0);
        check(MqState { max_messages: 10, messages: 9, timed_out: 3 }, 10, 9, 3);
    }

    #[test]
    fn sockets() {
        let full = SocketState { sent: 9_216, sndbuf: 212_992, queued: 11, backlog: 10, kind: 2, peer_ino: 77 };
        check(full, 212_992 << 32 | 9_216, 2 << 60 | 10 << 32 | 11, 77);
        let max = u32::MAX;
        let largest =
            SocketState { sent: max, sndbuf: max, queued: max, backlog: (1 << 28) - 1, kind: 15, peer_ino: u64::MAX };
        check(largest, u64::MAX, u64::MAX, u64::MAX);
        // A larger backlog is cut, and leaves the type alone.
        let cut = SocketState::from(ObjState::from(SocketState { backlog: max, kind: 5, ..full }));
        assert_eq!((cut.backlog, cut.kind, cut.queued), ((1 << 28) - 1, 5, 11));
    }

    #[test]
    fn a_socket_is_full_when_its_memory_is_used_up() {
        assert!(SocketState { sent: 10, sndbuf: 10, ..SocketState::default() }.is_sndbuf_full());
        assert!(!SocketState { sent: 9, sndbuf: 10, ..SocketState::default() }.is_sndbuf_full());
    }

    #[test]
    fn futexes() {
        let mutex = FutexState { words: [2, 0, 77, 1, 128], expected: 2, command: 9 };
        check(mutex, 77 << 32 | 2, 2 << 32 | 128, 1 << 32 | 9);
        // The second word is not on the wire.
        let counted = ObjState::from(FutexState { words: [2, 5, 77, 1, 128], ..mutex });
        assert_eq!(FutexState::from(counted), mutex);
    }

    #[test]
    fn signals() {
        check(SignalState { target_start_ns: 12, from_kernel: true }, 12, 1, 0);
        check(SignalState { target_start_ns: 12, from_kernel: false }, 12, 0, 0);
    }
}
