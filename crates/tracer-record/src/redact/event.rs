//! Records of the ring buffer without names, as long as before.

use tracer_common::event::{Body, HEADER_LEN, Header, SocketAddress, read};

use super::name::Names;
use crate::record::{SocketRow, text};

/// A record of the ring buffer, in place and of the same length. An unknown one becomes zeros: it still cannot be decoded.
pub(crate) fn kernel(names: &Names, bytes: &mut [u8]) {
    let known = bytes.split_at_checked(HEADER_LEN).and_then(|(head, payload)| {
        let header = read::<Header>(head).ok()?;
        Some((header, Body::decode(header.kind, payload).ok()?))
    });
    let Some((header, mut body)) = known else { return bytes.fill(0) };
    let Header { ts_ns: _, start_ns: _, kind: _, site: _, tgid: _, tid: _, uid: _, stack: _, copy: _, comm } = header;
    event(names, &mut body);
    let (head, mut payload) = bytes.split_at_mut(HEADER_LEN);
    let at = std::mem::offset_of!(Header, comm);
    if let Some(to) = head.get_mut(at..at + comm.len()) {
        write(to, &names.comm(&text(&comm)));
    }
    // Bytes behind the payload too.
    payload.fill(0);
    body.encode(|bytes| {
        if let Some((to, behind)) = std::mem::take(&mut payload).split_at_mut_checked(bytes.len()) {
            to.copy_from_slice(bytes);
            payload = behind;
        }
    });
}

fn event(names: &Names, body: &mut Body) {
    if let Body::SocketAddress(SocketAddress { sock: _, len, _pad: _, name }) = body {
        let bytes = name.as_flattened_mut();
        let token = SocketRow::name(bytes.get(..*len as usize).unwrap_or(bytes)).map(|t| names.socket(&t));
        let is_abstract = bytes.first() == Some(&0);
        bytes.fill(0);
        *len = 0;
        if let Some(token) = token {
            // An abstract name begins with a zero, which is shown as `@`.
            let (at, token) =
                if is_abstract { (1, token.strip_prefix('@').unwrap_or(&token)) } else { (0, token.as_str()) };
            let end = at + token.len();
            if let Some(to) = bytes.get_mut(at..end) {
                to.copy_from_slice(token.as_bytes());
                *len = u32::try_from(end).unwrap_or(0);
            }
        }
        return;
    }
    // Of whatever event, also of one that is new: text is the name of a thread or of a file.
    body.texts(|field, bytes| {
        let name = text(bytes);
        write(bytes, &if field.ends_with("comm") { names.comm(&name) } else { names.part(&name) });
    });
}

/// Writes a name and zeros behind it, at least one.
fn write(to: &mut [u8], name: &str) {
    to.fill(0);
    let room = to.len().saturating_sub(1);
    to.iter_mut().take(room).zip(name.bytes()).for_each(|(to, from)| *to = from);
}
