//! Kernel records become typed: a context and a body from the bytes of the ring buffer.
//!
//! Pure: it must not read a clock, a file or the kernel, and it must not panic on any bytes.

pub mod futex;
use crate::id::{ProcId, StackId, Tid};

use crate::record::Comm;
use tracer_common::event::{Body, HEADER_LEN, Header, WireError, read};
use tracer_common::site::Site;

/// A record of the kernel half, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelEvent {
    pub context: Context,
    pub body: Body,
}

/// Who caused a kernel event, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub ts_ns: u64,
    pub proc: ProcId,
    pub tid: Tid,
    pub uid: u32,
    pub site: Option<Site>,
    pub stack: Option<StackId>,
    pub comm: Comm,
}

/// Why a record is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("kernel record cannot be decoded: {0}; the trace was written by another version or is damaged")]
    Wire(WireError),
}

/// Decodes the bytes of a [`crate::Record::Kernel`].
///
/// # Errors
/// Too few bytes, or an unknown kind. The caller counts it and goes on.
pub fn kernel(bytes: &[u8]) -> Result<KernelEvent, DecodeError> {
    let header: Header = read(bytes).map_err(DecodeError::Wire)?;
    let body = Body::decode(header.kind, bytes.get(HEADER_LEN..).unwrap_or_default()).map_err(DecodeError::Wire)?;
    let context = Context {
        ts_ns: header.ts_ns,
        proc: ProcId::new(header.tgid, header.start_ns),
        tid: Tid(header.tid),
        uid: header.uid,
        site: Site::from_raw(header.site),
        stack: (header.stack >= 0).then_some(StackId(header.stack)),
        comm: header.comm.into(),
    };
    Ok(KernelEvent { context, body })
}

/// The header's bytes as the kernel writes them.
pub fn header_bytes(h: &Header) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&h.ts_ns.to_ne_bytes());
    out.extend_from_slice(&h.start_ns.to_ne_bytes());
    out.extend_from_slice(&h.kind.to_ne_bytes());
    out.extend_from_slice(&h.site.to_ne_bytes());
    for word in [h.tgid, h.tid, h.uid] {
        out.extend_from_slice(&word.to_ne_bytes());
    }
    out.extend_from_slice(&h.stack.to_ne_bytes());
    out.extend_from_slice(&h.copy.to_ne_bytes());
    out.extend_from_slice(&h.comm);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::event::SemFirstUse;

    fn header(kind: u16) -> Vec<u8> {
        let h = Header { ts_ns: 5, start_ns: 123_456_789, kind, tgid: 7, tid: 8, stack: -1, ..Header::default() };
        header_bytes(&h)
    }

    #[test]
    fn kernel_records() {
        let body = SemFirstUse { id: 3, ns: 4 };
        let mut good = header(13);
        Body::SemFirstUse(body).encode(|b| good.extend_from_slice(b));
        let KernelEvent { context, body: Body::SemFirstUse(got) } = kernel(&good).unwrap() else {
            unreachable!("another kind")
        };
        assert_eq!((context.proc, context.tid, context.stack), (ProcId::new(7, 123_000_000), Tid(8), None));
        assert_eq!(got, body);
        // Every cut and every unknown kind is an error, never a panic.
        for cut in 0..good.len() {
            assert!(kernel(&good[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(kernel(&header(9999)), Err(DecodeError::Wire(WireError::UnknownKind(9999))));
    }
}
