//! The kernel's type information: byte offsets of structure members and argument counts of functions. Pure.
//!
//! aya keeps its parser's members private and the one maintained reader on crates.io is LGPL, hence these few lines.
//! Format: Documentation/bpf/btf.rst.

use std::collections::HashMap;

use thiserror::Error;

/// Why BTF could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    #[error("no BTF header (magic 0xeb9f) at the start")]
    Magic,
    #[error("BTF ends in the middle of type {0}")]
    Truncated(u32),
    #[error("BTF type {0} is of unknown kind {1}")]
    UnknownKind(u32, u32),
}

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// Kinds that only name or qualify another type: typedef, volatile, const, restrict, type tag.
const QUALIFIERS: [u32; 5] = [8, 9, 10, 11, 18];

/// One type: its common part, and where the rest is.
#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    vlen: u32,
    /// Bit 31 of info: bit fields, then offsets carry sizes.
    flag: bool,
    /// `type` or `size`.
    other: u32,
    /// Offset of the data behind the common part.
    rest: usize,
}

/// Parsed BTF.
pub struct Btf<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    types: Vec<Type>,
    structs: HashMap<&'a [u8], u32>,
    functions: HashMap<&'a [u8], u32>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// Parses the contents of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// Anything that is not well-formed BTF.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let word = |at| u32_at(bytes, at).ok_or(BtfError::Magic);
        if word(0)? as u16 != MAGIC {
            return Err(BtfError::Magic);
        }
        let header = word(4)? as usize;
        let (type_off, type_len, str_off, str_len) =
            (word(8)? as usize, word(12)? as usize, word(16)? as usize, word(20)? as usize);
        let part = |off: usize, len: usize| {
            let from = header.checked_add(off).ok_or(BtfError::Magic)?;
            bytes.get(from..from.checked_add(len).ok_or(BtfError::Magic)?).ok_or(BtfError::Magic)
        };
        let types_bytes = part(type_off, type_len)?;
        let strings = part(str_off, str_len)?;
        let mut btf =
            Self { bytes: types_bytes, strings, types: Vec::new(), structs: HashMap::new(), functions: HashMap::new() };
        btf.index()?;
        Ok(btf)
    }

    fn index(&mut self) -> Result<(), BtfError> {
        // Type 0 is void.
        self.types.push(Type { kind: 0, vlen: 0, flag: false, other: 0, rest: 0 });
        let mut at = 0;
        while at < self.bytes.len() {
            let id = self.types.len() as u32;
            let short = || BtfError::Truncated(id);
            let name = u32_at(self.bytes, at).ok_or_else(short)?;
            let info = u32_at(self.bytes, at + 4).ok_or_else(short)?;
            let other = u32_at(self.bytes, at + 8).ok_or_else(short)?;
            let (kind, vlen) = ((info >> 24) & 0x1f, info & 0xffff);
            let rest = at + 12;
            let extra = match kind {
                1 | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * vlen as usize,
                KIND_ENUM | KIND_FUNC_PROTO => 8 * vlen as usize,
                2 | 7..=KIND_FUNC | 16 | 18 => 0,
                other => return Err(BtfError::UnknownKind(id, other)),
            };
            self.types.push(Type { kind, vlen, flag: info >> 31 != 0, other, rest });
            let text = self.text(name);
            if !text.is_empty() {
                match kind {
                    KIND_STRUCT => {
                        self.structs.entry(text).or_insert(id);
                    }
                    KIND_FUNC => {
                        self.functions.entry(text).or_insert(id);
                    }
                    _ => {}
                }
            }
            at = rest + extra;
        }
        Ok(())
    }

    fn text(&self, offset: u32) -> &'a [u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// Byte offset of `struct.member.member…`; members of anonymous structures and unions count as members of the outer one.
    pub fn offset(&self, path: &str) -> Option<u32> {
        let mut parts = path.split('.');
        let mut id = *self.structs.get(parts.next()?.as_bytes())?;
        let mut bytes = 0u32;
        for part in parts {
            let (offset, member) = self.member(id, part.as_bytes(), 0)?;
            bytes = bytes.checked_add(offset)?;
            id = self.unqualified(member);
        }
        Some(bytes)
    }

    /// (byte offset, type) of a member by name.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let t = self.types.get(id as usize)?;
        if (t.kind != KIND_STRUCT && t.kind != KIND_UNION) || depth > 8 {
            return None;
        }
        for i in 0..t.vlen as usize {
            let at = t.rest + 12 * i;
            let (member_name, member_type, raw) =
                (u32_at(self.bytes, at)?, u32_at(self.bytes, at + 4)?, u32_at(self.bytes, at + 8)?);
            let bits = if t.flag { raw & 0x00ff_ffff } else { raw };
            let text = self.text(member_name);
            if text == name {
                return Some((bits / 8, member_type));
            }
            if text.is_empty()
                && let Some((inner, found)) = self.member(self.unqualified(member_type), name, depth + 1)
            {
                return Some((bits / 8 + inner, found));
            }
        }
        None
    }

    fn unqualified(&self, mut id: u32) -> u32 {
        for _ in 0..32 {
            match self.types.get(id as usize) {
                Some(t) if QUALIFIERS.contains(&t.kind) => id = t.other,
                _ => break,
            }
        }
        id
    }

    /// Number of arguments of a kernel function; `None` if BTF does not have it.
    pub fn arguments(&self, function: &str) -> Option<u32> {
        let f = self.types.get(*self.functions.get(function.as_bytes())? as usize)?;
        self.types.get(f.other as usize).filter(|p| p.kind == KIND_FUNC_PROTO).map(|p| p.vlen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct a { int x; union { struct { char pad[4]; int deep; }; }; const struct b inner; }`, `struct b { int y, z; }`,
    /// `int f(int, int)`.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0a\0x\0deep\0pad\0b\0y\0z\0inner\0f\0";
        let s = |t: &str| {
            let needle = [t.as_bytes(), b"\0"].concat();
            (0..strings.len())
                .find(|i| strings[*i..].starts_with(&needle) && (*i == 0 || strings[*i - 1] == 0))
                .unwrap_or(0) as u32
        };
        let mut t: Vec<u32> = Vec::new();
        let info = |kind: u32, vlen: u32| kind << 24 | vlen;
        t.extend([s("int"), info(1, 0), 4, 32]); // 1: int
        t.extend([s("b"), info(4, 2), 8, s("y"), 1, 0, s("z"), 1, 32]); // 2: struct b
        t.extend([0, info(4, 2), 8, s("pad"), 1, 0, s("deep"), 1, 32]); // 3: anonymous struct
        t.extend([0, info(5, 1), 8, 0, 3, 0]); // 4: anonymous union
        t.extend([0, info(10, 0), 2]); // 5: const struct b
        t.extend([s("a"), info(4, 3), 20, s("x"), 1, 0, 0, 4, 32, s("inner"), 5, 96]); // 6: struct a
        t.extend([0, info(13, 2), 1, 0, 1, 0, 1]); // 7: int (int, int)
        t.extend([s("f"), info(12, 0), 7]); // 8: f
        let types: Vec<u8> = t.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = Vec::new();
        for w in [0x0001_eb9f_u32, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        out
    }

    #[test]
    fn finds_offsets_through_anonymous_and_qualified_types() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).expect("well-formed");
        for (path, want) in [
            ("a.x", Some(0)),
            ("a.deep", Some(8)),
            ("a.inner.z", Some(16)),
            ("a.none", None),
            ("none.x", None),
            ("a.x.y", None),
        ] {
            assert_eq!(btf.offset(path), want, "{path}");
        }
        assert_eq!(btf.arguments("f"), Some(2));
        assert_eq!(btf.arguments("g"), None);
    }

    #[test]
    fn every_truncation_is_an_error_or_harmless() {
        let bytes = sample();
        for n in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..n]).is_err(), "{n} bytes");
        }
        assert_eq!(Btf::parse(b"no").err(), Some(BtfError::Magic));
    }
}
