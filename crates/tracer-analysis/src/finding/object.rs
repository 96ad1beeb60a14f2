//! The object of a finding: its kind, its id, and its name if the model knows one.

use super::Object;
use crate::model::Model;
use tracer_common::map::kind;
use tracer_record::{FutexPlace, NsId, ObjKey, ProcId, SemId};

/// The object of a finding, without what only tables know.
pub(crate) fn object(obj: ObjKey) -> Object {
    let id = obj.id.to_string();
    let name = match obj.kind {
        kind::PIPE => Some(format!("pipe:[{id}]")),
        kind::EVENTFD => Some(format!("eventfd:{id}")),
        kind::SOCKET => Some(format!("socket:[{id}]")),
        _ => None,
    };
    let ns = matches!(obj.kind, kind::SEM | kind::SHM | kind::MSG).then_some(obj.ns).filter(|ns| *ns != 0);
    Object { kind: kind::name(obj.kind).to_owned(), id, key: None, name, ns }
}

/// As [`object`], with names that only tables know.
pub fn known_object(model: &Model, obj: ObjKey) -> Object {
    match obj.kind {
        kind::MQ | kind::FILE => mq_object(model, obj),
        kind::FUTEX => futex(model.futexes.get(obj).and_then(|f| f.place.as_ref()), &[obj]).1,
        _ => object(obj),
    }
}

/// A semaphore set as the object of a finding.
pub(crate) fn sem_object(id: SemId, key: Option<i32>) -> Object {
    sysv_object("sem", id.ns, id.id, key)
}

/// A System V set, segment or queue as the object of a finding.
pub(crate) fn sysv_object(kind: &str, ns: NsId, id: i32, key: Option<i32>) -> Object {
    Object {
        kind: kind.to_owned(),
        id: id.to_string(),
        key: key.map(|k| format!("{k:#010x}")),
        name: None,
        ns: (ns.0 != 0).then_some(ns.0),
    }
}

/// A POSIX message queue as the object of a finding.
pub(crate) fn mq_object(model: &Model, obj: ObjKey) -> Object {
    Object { name: model.posix.name(obj), ..object(obj) }
}

/// A POSIX message queue as text: its name, or its inode number.
pub(crate) fn queue(model: &Model, obj: ObjKey) -> String {
    model.posix.name(obj).map_or_else(|| format!("queue with inode {}", obj.id), |name| format!("queue {name}"))
}

/// A process as the object of a finding.
pub(crate) fn process_object(id: ProcId) -> Object {
    Object { kind: "process".to_owned(), id: id.pid().to_string(), key: None, name: None, ns: None }
}

/// A futex as text and as the object of a finding, by its place or else by its first address.
pub(crate) fn futex(place: Option<&FutexPlace>, keys: &[ObjKey]) -> (String, Object) {
    let object = |id: String, name: Option<String>| Object { kind: "futex".to_owned(), id, name, ..Object::default() };
    match (place, keys.first()) {
        (Some(p), _) => {
            let id = format!("{}+{:#x}", p.ino, p.offset);
            (format!("{} at offset {:#x}", p.path, p.offset), object(id, Some(p.path.clone())))
        }
        (None, Some(key)) => {
            let id = format!("{}:{:#x}", key.ns, key.id);
            (format!("shared memory at {:#x} of process {}", key.id, key.ns), object(id, None))
        }
        (None, None) => ("shared memory".to_owned(), object(String::new(), None)),
    }
}

/// Whether two descriptors with this key refer to the same object. All anonymous inodes share one inode, and some devices
/// create an object per open: a terminal (/dev/ptmx), a network queue (/dev/net/tun), a graphics client.
pub(crate) fn identifies(obj: ObjKey) -> bool {
    !matches!(obj.kind, kind::ANON | kind::NONE | kind::DEVICE)
}
