//! The functions of one mapped file, and its lines where debug information exists.

use addr2line::Context;
use gimli::LittleEndian;
use std::sync::Arc;

use super::elf::{Elf, ElfError, Section, Segment, address, bytes_at, u32_at, u64_at};
use super::name::{bounded, function};
use tracer_record::Place;

/// Longest symbol table, and longest table of its names; larger ones are not read.
const SYMBOLS_MAX: u64 = 128 << 20;
/// Most bytes of debug information of one file, decompressed; beyond that only its functions are used.
const DEBUG_MAX: u64 = 384 << 20;
/// Most inlined functions of one address.
const INLINED_MAX: usize = 16;

/// elf.h: `sizeof(Elf64_Sym)`; types and section indices of symbols.
const SYMBOL_LEN: usize = 24;
const STT_NOTYPE: u8 = 0;
const STT_FUNC: u8 = 2;
const STT_GNU_IFUNC: u8 = 10;
const STB_GLOBAL: u8 = 1;
const SHN_UNDEF: u16 = 0;

type Slice = gimli::EndianArcSlice<LittleEndian>;

/// A function of a symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Symbol {
    addr: u64,
    /// 0: up to the next one.
    len: u64,
    name: u32,
    global: bool,
}

/// Functions sorted by address, with their names.
#[derive(Default)]
struct Symbols {
    all: Vec<Symbol>,
    names: Vec<u8>,
}

/// The symbols of one file.
pub(super) struct Image {
    segments: Vec<Segment>,
    symbols: Symbols,
    lines: Option<Context<Slice>>,
    bytes: usize,
}

impl Image {
    /// Reads the functions of a mapped file and, if it or a separate `debug` file has them, the lines.
    /// `shared` is the file that several debug files share (`.gnu_debugaltlink`).
    pub(super) fn new(elf: &Elf, debug: Option<&Elf>, shared: Option<&Elf>) -> Self {
        let mut symbols = debug.map(symbols).unwrap_or_default();
        if symbols.all.is_empty() {
            symbols = self::symbols(elf);
        }
        let debug = debug.filter(|d| has_lines(d)).unwrap_or(elf);
        let mut debug_bytes = 0;
        let lines = lines(debug, shared, &mut debug_bytes)
            .inspect_err(|e| tracing::debug!("cannot use debug information: {e}"))
            .ok()
            .flatten();
        if lines.is_none() {
            debug_bytes = 0;
        }
        // Parsed units take about as much memory as their encoded form.
        let bytes = symbols.names.capacity() + symbols.all.capacity() * size_of::<Symbol>() + 2 * debug_bytes;
        Self { segments: elf.segments.clone(), symbols, lines, bytes }
    }

    /// Approximate size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The functions at an offset in the file, the innermost inlined one first; empty if there is none.
    pub(super) fn places(&self, offset: u64) -> Vec<Place> {
        let Some(addr) = address(&self.segments, offset) else { return Vec::new() };
        let symbol = || self.symbols.at(addr).map(function);
        let mut out = self.lines.as_ref().map(|l| of_lines(l, addr)).unwrap_or_default();
        match out.last_mut() {
            None => out.extend(symbol().map(|name| Place { function: Some(name), ..Place::default() })),
            // Assembly code has lines without functions.
            Some(outer) if outer.function.is_none() => outer.function = symbol(),
            Some(_) => {}
        }
        out
    }
}

fn of_lines(lines: &Context<Slice>, addr: u64) -> Vec<Place> {
    let mut out = Vec::new();
    // Lines in .dwo files are not read; the skeleton in the program itself still has the outer function's.
    let Ok(mut frames) = lines.find_frames(addr).skip_all_loads() else { return out };
    while let Ok(Some(frame)) = frames.next() {
        let name = frame.function.as_ref().and_then(|f| f.raw_name().ok()).map(|n| function(n.as_bytes()));
        let (file, line) = frame.location.map_or((None, None), |l| (l.file.map(bounded), l.line.filter(|l| *l != 0)));
        out.push(Place { function: name, file, line, inlined: true });
        if out.len() >= INLINED_MAX {
            break;
        }
    }
    if let Some(outer) = out.last_mut() {
        outer.inlined = false;
    }
    out
}

impl Symbols {
    /// The raw name of the function at an address.
    fn at(&self, addr: u64) -> Option<&[u8]> {
        let after = self.all.partition_point(|s| s.addr <= addr);
        let symbol = self.all.get(after.checked_sub(1)?)?;
        let within = symbol.len == 0 || addr - symbol.addr < symbol.len;
        within.then(|| bytes_at(&self.names, symbol.name))
    }
}

/// The functions of `.symtab`, or of `.dynsym` in a stripped file.
fn symbols(elf: &Elf) -> Symbols {
    let table = |name: &str| elf.section(name).and_then(|s| read_symbols(elf, s).ok()).filter(|s| !s.all.is_empty());
    table(".symtab").or_else(|| table(".dynsym")).unwrap_or_default()
}

fn read_symbols(elf: &Elf, section: &Section) -> Result<Symbols, ElfError> {
    let names = elf.sections.get(section.link as usize).ok_or(ElfError::Outside)?;
    let table = elf.contents(section, SYMBOLS_MAX)?;
    let names = elf.contents(names, SYMBOLS_MAX)?;
    let mut all: Vec<Symbol> = table.chunks_exact(SYMBOL_LEN).filter_map(parse_symbol).collect();
    // Of several names at one address prefer a global one, then a shorter one (`read`, not `__libc_read`), then by order.
    all.sort_by_key(|s| (s.addr, s.len == 0, !s.global, bytes_at(&names, s.name).len(), s.name));
    all.dedup_by_key(|s| s.addr);
    all.shrink_to_fit();
    Ok(Symbols { all, names })
}

fn parse_symbol(row: &[u8]) -> Option<Symbol> {
    let info = *row.get(4)?;
    let section = u16::from_le_bytes([*row.get(6)?, *row.get(7)?]);
    let (addr, len) = (u64_at(row, 8), u64_at(row, 16));
    let code = match info & 0xf {
        STT_FUNC | STT_GNU_IFUNC => true,
        STT_NOTYPE => len > 0,
        _ => false,
    };
    (code && section != SHN_UNDEF).then(|| Symbol { addr, len, name: u32_at(row, 0), global: info >> 4 == STB_GLOBAL })
}

fn has_lines(elf: &Elf) -> bool {
    elf.section(".debug_info").is_some_and(|s| s.size > 0)
}

fn lines(elf: &Elf, shared: Option<&Elf>, bytes: &mut usize) -> Result<Option<Context<Slice>>, ElfError> {
    if !has_lines(elf) {
        return Ok(None);
    }
    let all = elf.sections.iter().chain(shared.iter().flat_map(|e| &e.sections));
    let total = all.filter(|s| s.name.starts_with(".debug_")).map(|s| s.size.max(elf.full_len(s)));
    let total = total.fold(0_u64, u64::saturating_add);
    if total > DEBUG_MAX {
        return Err(ElfError::TooLarge(total));
    }
    let mut dwarf = gimli::Dwarf::load(|id| contents(elf, id, bytes))?;
    if let Some(shared) = shared {
        dwarf.load_sup(|id| contents(shared, id, bytes))?;
    }
    Context::from_dwarf(dwarf).map(Some).map_err(|_| ElfError::Other)
}

fn contents(elf: &Elf, id: gimli::SectionId, bytes: &mut usize) -> Result<Slice, ElfError> {
    let data = match elf.section(id.name()) {
        Some(section) => elf.contents(section, DEBUG_MAX)?,
        None => Vec::new(),
    };
    *bytes += data.len();
    Ok(Slice::new(Arc::from(data), LittleEndian))
}

#[cfg(test)]
mod tests {
    use super::super::elf::Source;
    use super::*;
    use crate::symbol::tests::here;

    #[test]
    fn a_line_of_this_test() {
        let (addr, lines) = here();
        let exe = std::fs::read("/proc/self/exe").expect("exe");
        let elf = Elf::open(Source::Memory(exe)).expect("own program");
        let modules = crate::inventory::modules(std::process::id());
        let (_, offset) = crate::inventory::locate(&modules, addr).expect("own code");
        let places = Image::new(&elf, None, None).places(offset);
        let outer = places.last().expect("a place");
        assert!(outer.line.is_some_and(|l| lines.contains(&l)) && !outer.inlined, "{places:?}");
        assert!(outer.file.as_ref().is_some_and(|f| f.ends_with("src/symbol/tests.rs")), "{places:?}");
        assert!(outer.function.as_ref().is_some_and(|f| f.ends_with("symbol::tests::marked")), "{places:?}");
    }

    #[test]
    fn garbage_in_every_section_is_no_panic() {
        let exe = std::fs::read("/proc/self/exe").expect("exe");
        let elf = Elf::open(Source::Memory(exe.clone())).expect("own program");
        let text = elf.section(".text").expect("text").clone();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        // Only the first units are kept, so that each round is short; offsets of later ones lie outside then.
        let keep = 64 << 10;
        for name in [".symtab", ".debug_info", ".debug_abbrev", ".debug_line"] {
            let Some(section) = elf.section(name) else { continue };
            let mut bytes = exe.clone();
            let at = usize::try_from(section.file_offset()).unwrap_or(0);
            let len = usize::try_from(section.size).unwrap_or(0).min(keep);
            for _ in 0..len / 8 {
                let place = at + usize::try_from(random()).unwrap_or(0) % len.max(1);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = random().to_le_bytes()[0];
                }
            }
            let Ok(broken) = Elf::open(Source::Memory(bytes)) else { continue };
            let image = Image::new(&broken, None, None);
            for step in 0..16 {
                let _ = image.places(text.file_offset() + text.size / 16 * step);
            }
        }
    }
}
