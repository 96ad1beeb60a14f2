//! What the kind of an object says about it. Pure.

use tracer_common::map::kind;

use tracer_record::{ObjKey, State};

/// The socket with this inode number.
pub(super) fn socket(id: u64) -> ObjKey {
    ObjKey { kind: kind::SOCKET, ns: 0, id }
}

/// The object itself; for a socket also its other end, if the kernel half reported it.
pub(super) fn ends(obj: ObjKey, state: State) -> impl Iterator<Item = ObjKey> {
    let is_socket = obj.kind == kind::SOCKET;
    let other = (is_socket && state.c != 0).then(|| socket(state.c));
    std::iter::once(if is_socket { socket(obj.id) } else { obj }).chain(other)
}

/// Whether processes hold such an object by a descriptor.
pub(super) fn has_holders(obj: ObjKey) -> bool {
    !is_sysv(obj) && !is_signal(obj.kind) && obj.kind != kind::FUTEX
}

/// Whether the object stands for a signal.
pub(super) fn is_signal(kind: u32) -> bool {
    matches!(kind, kind::SIGNAL | kind::SIGNAL_INFO | kind::SIGNAL_MERGED)
}

/// Whether the object is of System V: known by an id, which may be 0, without descriptors.
pub(super) fn is_sysv(obj: ObjKey) -> bool {
    matches!(obj.kind, kind::SEM | kind::SHM | kind::MSG)
}
