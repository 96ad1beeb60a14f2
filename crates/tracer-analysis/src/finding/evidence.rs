//! All evidence that a finding can have, one row each; the JSON schema is made from it. It must not know a detector.

use serde_json::Value;

/// What a value is in JSON. Each may also be null: not collected, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// How many: an integer.
    Count,
    /// A number that names something, such as a descriptor: an integer.
    Number,
    /// An unsigned 64-bit number, as a string because JSON readers round it.
    Number64,
    /// A number, with fractions.
    Milliseconds,
    /// A number, with fractions.
    Seconds,
    /// An integer.
    Bytes,
    /// Events in an hour: a number, with fractions.
    PerHour,
    Flag,
    Text,
    /// A list of strings.
    Texts,
    /// Object ids: a list of strings.
    Ids,
    /// A list of integers that name something, such as descriptors or processes.
    Numbers,
}

impl Type {
    /// The unit of the value, as a manual writes it; `None`: it has none.
    pub fn unit(self) -> Option<&'static str> {
        match self {
            Self::Milliseconds => Some("ms"),
            Self::Seconds => Some("s"),
            Self::Bytes => Some("bytes"),
            Self::PerHour => Some("per hour"),
            Self::Count
            | Self::Number
            | Self::Number64
            | Self::Flag
            | Self::Text
            | Self::Texts
            | Self::Ids
            | Self::Numbers => None,
        }
    }

    /// Whether a value is of this type.
    pub fn admits(self, value: &Value) -> bool {
        let list = |of: fn(&Value) -> bool| value.as_array().is_some_and(|all| all.iter().all(of));
        value.is_null()
            || match self {
                Self::Count | Self::Number | Self::Bytes => value.is_u64(),
                Self::Milliseconds | Self::Seconds | Self::PerHour => value.as_f64().is_some_and(|n| n >= 0.0),
                Self::Number64 => value.as_str().is_some_and(|s| s.parse::<u64>().is_ok()),
                Self::Flag => value.is_boolean(),
                Self::Text => value.is_string(),
                Self::Texts | Self::Ids => list(Value::is_string),
                Self::Numbers => list(Value::is_u64),
            }
    }
}

/// One kind of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Its name in JSON, a public contract.
    pub name: &'static str,
    pub of: Type,
    /// What the value says, in one sentence.
    pub meaning: &'static str,
}

macro_rules! evidence {
    ($($constant:ident $name:literal $of:ident $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Evidence = Evidence { name: $name, of: Type::$of, meaning: $meaning };
        )*

        /// All of them, by name. A name can stand twice, with two types.
        pub const ALL: &[Evidence] = &[$($constant),*];
    };
}

evidence! {
    BACKLOG "backlog" Count "Connections that the listener's queue can hold.";
    BEGAN_BEFORE_START "began_before_start" Count "Waits that began before tracing did.";
    CAPACITY_BYTES "capacity_bytes" Bytes "Capacity of the pipe.";
    CAUSE "cause" Text "Why it happened, as a word of the finding's page.";
    CLOSED "closed" Count "Descriptors that the process closed.";
    COALESCED "coalesced" Count "Standard signals that the kernel merged with a pending one.";
    COUNTER "counter" Number64 "Counter of the eventfd.";
    CREATED "created" Count "Pipes and eventfds that the process created.";
    DEFAULT_BYTES "default_bytes" Bytes "Capacity that the kernel gives a pipe below the limit.";
    DROPPED "dropped" Count "Received descriptors that the kernel dropped; null if their number could not be seen.";
    EAGAIN "eagain" Count "Calls that failed with EAGAIN.";
    EFFECTS "effects" Texts "Pipes upstream that stalled because of this one.";
    ERRNO "errno" Text "Name of the error; null if no call has failed yet.";
    EXITS "exits" Count "Children that ended while traced.";
    FAILED "failed" Count "Calls that failed, or signals that were dropped.";
    FD "fd" Number "File descriptor that the process used.";
    FDS "fds" Numbers "File descriptors in the new program.";
    FDS_REFUSED "fds_refused" Count "Descriptors in the sends that failed.";
    FILL_BYTES "fill_bytes" Bytes "Bytes in the pipe when it was full.";
    FULL "full" Count "Queues that have no room for another message.";
    HOLDER_ALIVE "holder_alive" Flag "Whether the thread that the lock names still runs.";
    HOLDER_DIED_S "holder_died_s" Seconds "Time since the holder died; null if it died before tracing began.";
    HOLDER_TID "holder_tid" Number "Thread that the lock names as its last holder.";
    HOLDERS "holders" Texts "Processes that created the existing objects, with counts.";
    IDS "ids" Ids "Ids or names of the objects.";
    IN_A_ROW "in_a_row" Count "Longest run of refused sends without a read in between.";
    IN_FLIGHT_BYTES "in_flight_bytes" Bytes "Bytes that the sender had in flight.";
    INSTANCES "instances" Count "Number of objects, or of descriptors.";
    LAST_DRAIN_AGE_MS "last_drain_age_ms" Milliseconds "Time since the last successful read; null if none was seen.";
    MAX "max" Count "The limit.";
    MAX_MESSAGES "max_messages" Count "Messages that the queue can hold.";
    MAX_MS "max_ms" Milliseconds "Longest wait, or longest time for which the object stayed full.";
    MAX_WAIT_MS "max_wait_ms" Milliseconds "Longest wait for the semaphore.";
    MESSAGE_BYTES "message_bytes" Bytes "Size of the last message that did not fit.";
    MESSAGES "messages" Count "Messages in the queue.";
    MESSAGES_TRUNCATED "messages_truncated" Count "Messages whose descriptors the kernel truncated.";
    MIN_STALL_MS "min_stall_ms" Milliseconds "Shortest wait that counts as a stall.";
    NSEMS "nsems" Count "Semaphores in the sets.";
    OFFSET "offset" Number "Offset of the lock in its file, in bytes.";
    OLDEST_AGE_MS "oldest_age_ms" Milliseconds "Time since the last receive.";
    OLDEST_AGE_S "oldest_age_s" Seconds "Age of the oldest one.";
    ONGOING "ongoing" Count "Waits that still last.";
    OUTSTANDING "outstanding" Count "Descriptors that are still open.";
    OUTSTANDING_AT_START "outstanding_at_start" Count "Descriptors that were open when tracing began.";
    P50_MS "p50_ms" Milliseconds "Median of the waits.";
    P99_MS "p99_ms" Milliseconds "99th percentile of the waits.";
    PATH "path" Text "Name of the socket's other end, or of the listener; `@` begins an abstract one.";
    PEER "peer" Number64 "Inode number of the socket's other end.";
    PENDING "pending" Count "Connections in the listener's queue when ipctrace read the socket table.";
    PIDS "pids" Numbers "Processes that the finding is about.";
    PIPES_OF_USER "pipes_of_user" Count "Pipes that the user's processes hold.";
    QBYTES "qbytes" Bytes "Capacity of the message queue.";
    QUEUE_MAX "queue_max" Count "Messages that the receiver's queue can hold; null for streams.";
    QUEUED "queued" Count "Messages or descriptors in the receiver's queue.";
    QUEUED_BYTES "queued_bytes" Bytes "Bytes in the message queue.";
    RATE_PER_H "rate_per_h" PerHour "Growth since the oldest one; null without a trend.";
    READER_RUNNING_MS "reader_running_ms" Milliseconds "Time in the finished waits during which the reader's thread was running or runnable.";
    READER_RUNQUEUE_MS "reader_runqueue_ms" Milliseconds "Part of reader_running_ms during which the reader was runnable without a CPU.";
    READER_WAS "reader_was" Texts "What samples of the reader showed during the waits; null without a sample.";
    REAPED "reaped" Count "Children that the parent reaped.";
    RECEIVED "received" Count "Descriptors that the process received.";
    RECEIVED_BY_PEEK "received_by_peek" Count "Descriptors that the process received with MSG_PEEK.";
    SEM_NUM "semaphore" Number "Number of the semaphore in its set.";
    EVENTFD_SEMAPHORE "semaphore" Flag "Whether the eventfd has EFD_SEMAPHORE; null if it was created before tracing began.";
    SHARING "sharing" Count "Processes that map the file; null if some processes could not be read.";
    SIGCHLD_COALESCED "sigchld_coalesced" Count "SIGCHLDs that the kernel merged with a pending one.";
    SIGCHLD_GENERATED "sigchld_generated" Count "SIGCHLDs that the kernel generated for the parent.";
    SIGNALS "signals" Texts "Names of the dropped or stripped signals.";
    SIZE_BYTES "size_bytes" Bytes "Total size of the objects.";
    SLOTS "slots" Count "Slots of the pipe.";
    SLOTS_USED "slots_used" Count "Slots of the pipe in use when it was full.";
    SNDBUF_BYTES "sndbuf_bytes" Bytes "Bytes that the sender may have in flight.";
    STALLS "stalls" Count "Waits of at least min_stall_ms.";
    STRIPPED "stripped" Count "Signals that arrived without their information.";
    SUGGESTED_CAPACITY_BYTES "suggested_capacity_bytes" Bytes "Capacity that would bridge the reader's pauses; null if no permitted capacity does.";
    TARGETS "targets" Texts "What the open descriptors refer to.";
    THREADS "threads" Count "Threads in the cycle.";
    TIMED_OUT "timed_out" Count "Waits that ended with a timeout.";
    TOTAL_MS "total_ms" Milliseconds "Sum of the waits.";
    TYPE "type" Text "Type of the socket: stream, dgram or seqpacket.";
    UID "uid" Number "The user.";
    UNREAPED "unreaped" Count "Zombies of the parent.";
    USED "used" Count "How much of the limit is in use.";
    VALUE "value" Number "Present value of the semaphore.";
    WAITER_RUNQUEUE_MS "waiter_runqueue_ms" Milliseconds "Time during which the waiter was runnable again without a CPU.";
    WAITERS "waiters" Count "Threads that wait for the semaphore.";
    WAITS "waits" Count "Calls of wait by the parent.";
    WANTED_BYTES "wanted_bytes" Bytes "What one more such queue counts towards RLIMIT_MSGQUEUE.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_sound() {
        let rows: HashSet<(&str, String)> = ALL.iter().map(|e| (e.name, format!("{:?}", e.of))).collect();
        assert_eq!(rows.len(), ALL.len(), "a name stands twice with one type");
        assert!(ALL.is_sorted_by_key(|e| e.name), "not by name");
        for e in ALL {
            assert!(e.meaning.ends_with('.'), "{}: not a sentence", e.name);
            let by_suffix = [("_ms", Type::Milliseconds), ("_s", Type::Seconds), ("_bytes", Type::Bytes)];
            for (suffix, of) in by_suffix {
                assert!(!e.name.ends_with(suffix) || e.of == of, "{}: its name says another unit", e.name);
            }
        }
    }

    #[test]
    fn a_value_is_of_its_type() {
        use serde_json::json;
        for (of, good, bad) in [
            (Type::Count, json!(1), json!(-1)),
            (Type::Number64, json!("18446744073709551615"), json!(1)),
            (Type::Milliseconds, json!(0.5), json!("0.5")),
            (Type::Flag, json!(true), json!(1)),
            (Type::Ids, json!(["7"]), json!([7])),
            (Type::Numbers, json!([7]), json!(["7"])),
            (Type::Text, json!("x"), json!(["x"])),
        ] {
            assert!(of.admits(&good) && of.admits(&Value::Null) && !of.admits(&bad), "{of:?}");
        }
    }
}
