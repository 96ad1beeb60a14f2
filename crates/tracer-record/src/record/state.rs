//! The state of an object when a thread blocked on it or a call was refused: as a trace stores it, and as the types that
//! give its numbers a meaning.

use serde::{Deserialize, Serialize};
use tracer_common::state::{
    EventfdState, FutexState, MqState, MsgState, ObjState, PipeState, SemState, SignalState, SocketState,
};
use tracer_derive::Redact;

/// [`ObjState`] with serde. The kind of the object, which is stored beside it, decides which view is valid; no view checks
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Redact)]
pub struct State {
    pub a: u64,
    pub b: u64,
    pub c: u64,
}

impl From<ObjState> for State {
    fn from(s: ObjState) -> Self {
        Self { a: s.a, b: s.b, c: s.c }
    }
}

impl From<State> for ObjState {
    fn from(s: State) -> Self {
        Self { a: s.a, b: s.b, c: s.c }
    }
}

macro_rules! views {
    ($($name:ident $view:ident $doc:literal;)*) => {
        impl State {
            $(
                #[doc = $doc]
                pub fn $name(self) -> $view {
                    ObjState::from(self).into()
                }
            )*
        }

        $(
            impl From<$view> for State {
                fn from(view: $view) -> Self {
                    ObjState::from(view).into()
                }
            }
        )*
    };
}

views! {
    pipe PipeState "The state of a pipe or FIFO.";
    eventfd EventfdState "The state of an eventfd.";
    sem SemState "The first operation on a semaphore set.";
    msg MsgState "The message that a System V queue did not take.";
    mq MqState "The state of a POSIX message queue.";
    socket SocketState "The state of a unix socket.";
    futex FutexState "The memory of a futex.";
    signal SignalState "A signal that was not queued, or was merged with a pending one.";
}
