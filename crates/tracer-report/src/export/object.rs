//! Facts about objects for all formats: fill, mechanism, name.

use tracer_common::map::kind;
use tracer_common::state::EventfdState;

use tracer_analysis::model::Model;
use tracer_record::{ObjKey, State};

/// How full an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fill {
    pub(super) fill: u64,
    pub(super) capacity: u64,
    pub(super) unit: &'static str,
}

/// How full an object was; `None` if its state does not show it.
pub(super) fn fill(obj: ObjKey, state: State) -> Option<Fill> {
    let (fill, capacity, unit) = match obj.kind {
        kind::PIPE => {
            let s = state.pipe();
            (s.used_slots, s.capacity_slots, "slots")
        }
        kind::EVENTFD => (state.eventfd().counter, EventfdState::COUNTER_MAX, "count"),
        kind::MQ => {
            let s = state.mq();
            (s.messages, s.max_messages, "messages")
        }
        kind::SOCKET => {
            let s = state.socket();
            (s.sent.into(), s.sndbuf.into(), "bytes")
        }
        _ => return None,
    };
    (capacity > 0).then_some(Fill { fill, capacity, unit })
}

/// A System V object.
pub(super) fn sysv(kind: u32, ns: u32, id: i32) -> ObjKey {
    ObjKey { kind, ns, id: u64::from(id.cast_unsigned()) }
}

/// The name of an object, for people.
pub(super) fn name(model: &Model, obj: ObjKey) -> String {
    match obj.kind {
        kind::PIPE | kind::SOCKET => format!("{}:[{}]", kind::name(obj.kind), obj.id),
        kind::FUTEX => format!("futex {:#x} of {}", obj.id, obj.ns),
        _ => match model.posix.name(obj) {
            Some(name) => format!("{} {name}", kind::name(obj.kind)),
            None => format!("{}:{}", kind::name(obj.kind), obj.id),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::state::{MqState, PipeState};

    #[test]
    fn fill_is_known_only_if_the_state_shows_it() {
        let obj = |kind| ObjKey { kind, ns: 0, id: 1 };
        let state = PipeState { capacity_slots: 16, used_slots: 4, used_bytes: 9000 }.into();
        assert_eq!(fill(obj(kind::PIPE), state), Some(Fill { fill: 4, capacity: 16, unit: "slots" }));
        let queue = MqState { max_messages: 16, messages: 4, timed_out: 0 }.into();
        assert_eq!(fill(obj(kind::MQ), queue), Some(Fill { fill: 4, capacity: 16, unit: "messages" }));
        assert_eq!(fill(obj(kind::PIPE), State::default()), None, "nothing was read");
        assert_eq!(fill(obj(kind::SEM), state), None);
    }
}
