//! Reads headers and sections of an ELF file piece by piece, each with a bound.
//!
//! It must not map a file: if the owner truncates it meanwhile, a read fails, but a mapping raises SIGBUS.
//! It reads only 64-bit little-endian files of this machine, which are all that a traced process can run.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// At most this many program headers, and sections, are read.
const HEADERS_MAX: u64 = 65_536;
/// Longest table of section names.
const NAMES_MAX: u64 = 4 << 20;
/// Longest note section.
const NOTES_MAX: u64 = 64 << 10;
/// Longest build-id; all linkers write 8 to 32 bytes.
const BUILD_ID_MAX: usize = 64;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHT_NOTE: u32 = 7;
const SHF_COMPRESSED: u64 = 0x800;
const NT_GNU_BUILD_ID: u32 = 3;
const ELFCOMPRESS_ZLIB: u32 = 1;
const ELFCOMPRESS_ZSTD: u32 = 2;
/// `sizeof(Elf64_Chdr)`.
const COMPRESSION_HEADER: usize = 24;

/// Why a file or a part of it cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    #[error("not an ELF file of this machine")]
    Other,
    #[error("a part of {0} bytes exceeds the limit")]
    TooLarge(u64),
    #[error("a part lies outside the file")]
    Outside,
    #[error("compressed in an unknown or broken way")]
    Compression,
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
}

impl ElfError {
    /// Whether the file is certainly no ELF file; one that cannot be read may be one.
    fn or_other(self) -> Self {
        if matches!(self, Self::Io(_)) { self } else { Self::Other }
    }
}

/// Where the bytes come from.
pub(super) enum Source {
    File(File, u64),
    /// The vDSO, copied out of this process.
    Memory(Vec<u8>),
}

impl Source {
    pub(super) fn file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::File(file, len))
    }

    /// `len` bytes at `offset`, at most `max`.
    fn read(&self, offset: u64, len: u64, max: u64) -> Result<Vec<u8>, ElfError> {
        if len > max {
            return Err(ElfError::TooLarge(len));
        }
        let end = offset.checked_add(len).ok_or(ElfError::Outside)?;
        match self {
            Self::File(file, size) => {
                if end > *size {
                    return Err(ElfError::Outside);
                }
                let mut out = vec![0; usize::try_from(len).map_err(|_| ElfError::TooLarge(len))?];
                file.read_exact_at(&mut out, offset)?;
                Ok(out)
            }
            Self::Memory(bytes) => {
                let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok()).ok_or(ElfError::Outside)?;
                Ok(bytes.get(range.0..range.1).ok_or(ElfError::Outside)?.to_vec())
            }
        }
    }
}

/// One section's header.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) kind: u32,
    flags: u64,
    pub(super) addr: u64,
    offset: u64,
    pub(super) size: u64,
    pub(super) link: u32,
}

#[cfg(test)]
impl Section {
    pub(super) fn file_offset(&self) -> u64 {
        self.offset
    }
}

/// A loadable segment: where its bytes are in the file and at which address they are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) file_len: u64,
    pub(super) addr: u64,
}

/// An ELF file whose headers were read.
pub(super) struct Elf {
    source: Source,
    pub(super) sections: Vec<Section>,
    pub(super) segments: Vec<Segment>,
    pub(super) build_id: Option<Vec<u8>>,
}

impl Elf {
    /// # Errors
    /// Not an ELF file of this machine, headers that lie outside it, or a file that cannot be read.
    pub(super) fn open(source: Source) -> Result<Self, ElfError> {
        let head = source.read(0, 64, 64).map_err(ElfError::or_other)?;
        // e_ident: magic, ELFCLASS64, ELFDATA2LSB.
        if !head.starts_with(b"\x7fELF\x02\x01") || u16_at(&head, 18) != MACHINE {
            return Err(ElfError::Other);
        }
        let (segments, notes) = segments(&source, &head)?;
        // A program runs without section headers; its segments are still useful.
        let sections = match sections(&source, &head) {
            Err(e @ ElfError::Io(_)) => return Err(e),
            found => found.unwrap_or_default(),
        };
        let mut elf = Self { source, sections, segments, build_id: None };
        elf.build_id = elf.find_build_id(&notes);
        Ok(elf)
    }

    fn find_build_id(&self, notes: &[(u64, u64)]) -> Option<Vec<u8>> {
        let of_sections = self.sections.iter().filter(|s| s.kind == SHT_NOTE).map(|s| (s.offset, s.size));
        // In a separate debug file only the sections are valid: its segments describe the stripped file.
        of_sections.chain(notes.iter().copied()).find_map(|(offset, len)| {
            let bytes = self.source.read(offset, len, NOTES_MAX).ok()?;
            build_id(&bytes)
        })
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// Length of a section's contents once decompressed, as its header says.
    pub(super) fn full_len(&self, section: &Section) -> u64 {
        if section.flags & SHF_COMPRESSED == 0 {
            return section.size;
        }
        let head = self.source.read(section.offset, COMPRESSION_HEADER as u64, NOTES_MAX);
        head.map_or(u64::MAX, |h| u64_at(&h, 8))
    }

    /// The contents of a section, decompressed; at most `max` bytes.
    pub(super) fn contents(&self, section: &Section, max: u64) -> Result<Vec<u8>, ElfError> {
        if section.kind == SHT_NOBITS {
            return Ok(Vec::new());
        }
        let bytes = self.source.read(section.offset, section.size, max)?;
        if section.flags & SHF_COMPRESSED == 0 {
            return Ok(bytes);
        }
        let (kind, len) = (u32_at(&bytes, 0), u64_at(&bytes, 8));
        let packed = bytes.get(COMPRESSION_HEADER..).ok_or(ElfError::Compression)?;
        if len > max {
            return Err(ElfError::TooLarge(len));
        }
        let room = usize::try_from(len).map_err(|_| ElfError::TooLarge(len))?;
        let out = match kind {
            ELFCOMPRESS_ZLIB => {
                // Grows with the bytes read: a header may declare more than follows.
                let mut out = Vec::new();
                flate2::read::ZlibDecoder::new(packed).take(len).read_to_end(&mut out)?;
                out
            }
            ELFCOMPRESS_ZSTD => zstd::bulk::decompress(packed, room)?,
            _ => return Err(ElfError::Compression),
        };
        if out.len() == room { Ok(out) } else { Err(ElfError::Compression) }
    }

    /// CRC-32 of the whole file, if it has at most `max` bytes.
    pub(super) fn crc(&self, max: u64) -> Result<u32, ElfError> {
        let Source::File(file, len) = &self.source else { return Err(ElfError::Outside) };
        if *len > max {
            return Err(ElfError::TooLarge(*len));
        }
        let mut hasher = crc32fast::Hasher::new();
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            match file.read_at(&mut buf, at)? {
                0 => return Ok(hasher.finalize()),
                n => {
                    hasher.update(buf.get(..n).unwrap_or_default());
                    at += n as u64;
                    if at > max {
                        return Err(ElfError::TooLarge(at));
                    }
                }
            }
        }
    }
}

/// The linked address of an offset in a file with these segments.
pub(super) fn address(segments: &[Segment], offset: u64) -> Option<u64> {
    let segment = segments.iter().find(|s| offset.checked_sub(s.offset).is_some_and(|d| d < s.file_len))?;
    segment.addr.checked_add(offset - segment.offset)
}

type Segments = (Vec<Segment>, Vec<(u64, u64)>);

fn segments(source: &Source, head: &[u8]) -> Result<Segments, ElfError> {
    let (at, size, n) = (u64_at(head, 32), u64::from(u16_at(head, 54)), u64::from(u16_at(head, 56)));
    let (mut loaded, mut notes) = (Vec::new(), Vec::new());
    if n == 0 {
        return Ok((loaded, notes));
    }
    if size < 56 {
        return Err(ElfError::Outside);
    }
    let table = source.read(at, size * n, HEADERS_MAX * 64)?;
    for row in table.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX)) {
        let (offset, addr, file_len) = (u64_at(row, 8), u64_at(row, 16), u64_at(row, 32));
        match u32_at(row, 0) {
            PT_LOAD => loaded.push(Segment { offset, file_len, addr }),
            PT_NOTE => notes.push((offset, file_len)),
            _ => {}
        }
    }
    Ok((loaded, notes))
}

fn sections(source: &Source, head: &[u8]) -> Result<Vec<Section>, ElfError> {
    let (at, size) = (u64_at(head, 40), u64::from(u16_at(head, 58)));
    let (mut n, mut names_at) = (u64::from(u16_at(head, 60)), u32::from(u16_at(head, 62)));
    if at == 0 || size < 64 {
        return Ok(Vec::new());
    }
    // Numbers that do not fit are in the first section (SHN_XINDEX).
    let first = source.read(at, size, size)?;
    if n == 0 {
        n = u64_at(&first, 32);
    }
    if names_at == 0xffff {
        names_at = u32_at(&first, 40);
    }
    if n > HEADERS_MAX {
        return Err(ElfError::TooLarge(n));
    }
    let table = source.read(at, size * n, HEADERS_MAX * 1024)?;
    let rows: Vec<&[u8]> = table.chunks_exact(usize::try_from(size).unwrap_or(usize::MAX)).collect();
    let names = match rows.get(names_at as usize) {
        Some(row) => source.read(u64_at(row, 24), u64_at(row, 32), NAMES_MAX)?,
        None => return Err(ElfError::Outside),
    };
    let section = |row: &&[u8]| Section {
        name: string(&names, u32_at(row, 0)),
        kind: u32_at(row, 4),
        flags: u64_at(row, 8),
        addr: u64_at(row, 16),
        offset: u64_at(row, 24),
        size: u64_at(row, 32),
        link: u32_at(row, 40),
    };
    Ok(rows.iter().map(section).collect())
}

/// The build-id among notes: a length of the name, of the value, a kind, then both padded to 4 bytes.
pub(super) fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    let padded = |n: u32| (n as usize).checked_add(3).map(|n| n & !3);
    while notes.len() >= 12 {
        let (name_len, len, kind) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8));
        let rest = notes.get(12..)?;
        let value_at = padded(name_len)?;
        let value = rest.get(value_at..value_at.checked_add(len as usize)?)?;
        if kind == NT_GNU_BUILD_ID && rest.starts_with(b"GNU\0") && (1..=BUILD_ID_MAX).contains(&value.len()) {
            return Some(value.to_vec());
        }
        notes = rest.get(value_at.checked_add(padded(len)?)?..)?;
    }
    None
}

/// The zero-terminated string at an offset of a string table; empty if there is none.
fn string(table: &[u8], at: u32) -> String {
    String::from_utf8_lossy(bytes_at(table, at)).into_owned()
}

/// As [`string`], as bytes.
pub(super) fn bytes_at(table: &[u8], at: u32) -> &[u8] {
    let rest = table.get(at as usize..).unwrap_or_default();
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end));
    part.and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

/// 0 outside, as of the others.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("exe")).expect("read")
    }

    #[test]
    fn own_program() {
        let elf = Elf::open(Source::Memory(own())).expect("own program");
        assert!(!elf.segments.is_empty() && elf.section(".text").is_some());
        let text = elf.section(".text").expect("text");
        assert_eq!(address(&elf.segments, text.offset), Some(text.addr));
        assert!(matches!(elf.contents(text, 1), Err(ElfError::TooLarge(_))));
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        let own = own();
        let head: Vec<u8> = own.iter().take(4096).copied().collect();
        assert!(Elf::open(Source::Memory(Vec::new())).is_err());
        assert!(Elf::open(Source::Memory(b"\x7fELF".to_vec())).is_err());
        // Each byte of the header in turn, and cuts at all lengths.
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = head.clone();
                bytes[at] = value;
                if let Ok(elf) = Elf::open(Source::Memory(bytes)) {
                    for section in &elf.sections {
                        let _ = elf.contents(section, 1 << 20);
                    }
                }
            }
        }
        for cut in 0..head.len().min(512) {
            let _ = Elf::open(Source::Memory(head[..cut].to_vec()));
        }
    }

    #[test]
    fn a_huge_sparse_file_allocates_nothing() {
        let mut head = own()[..64].to_vec();
        // A program header table of 65,535 headers of 65,535 bytes, at the file's middle.
        head[32..40].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        head[54..58].copy_from_slice(&[0xff; 4]);
        let file = tempfile::tempfile().expect("file");
        file.write_all_at(&head, 0).expect("write");
        file.set_len(1 << 42).expect("length");
        let got = Elf::open(Source::file(file).expect("source"));
        assert!(matches!(got, Err(ElfError::TooLarge(_))));
    }

    #[test]
    fn notes() {
        let note = |name: &[u8], kind: u32, value: &[u8]| {
            let mut out = Vec::new();
            for n in [name.len() as u32, value.len() as u32, kind] {
                out.extend_from_slice(&n.to_le_bytes());
            }
            out.extend_from_slice(name);
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend_from_slice(value);
            out.resize(out.len().next_multiple_of(4), 0);
            out
        };
        let id = note(b"GNU\0", 3, &[1, 2, 3, 4, 5]);
        assert_eq!(build_id(&id), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(build_id(&[note(b"stapsdt\0", 3, &[9]), id.clone()].concat()), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(build_id(&note(b"GNU\0", 1, &[1])), None);
        assert_eq!(build_id(&[0xff; 40]), None);
        for cut in 0..id.len() - 3 {
            assert_eq!(build_id(&id[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn offsets_to_addresses() {
        let all = [
            Segment { offset: 0, file_len: 0x100, addr: 0 },
            Segment { offset: 0x1000, file_len: 0x500, addr: 0x3000 },
            Segment { offset: u64::MAX - 1, file_len: u64::MAX, addr: u64::MAX },
        ];
        assert_eq!(address(&all, 0x10), Some(0x10));
        assert_eq!(address(&all, 0x14ff), Some(0x34ff));
        assert_eq!(address(&all, 0x1500), None);
        assert_eq!(address(&all, u64::MAX), None);
    }
}
