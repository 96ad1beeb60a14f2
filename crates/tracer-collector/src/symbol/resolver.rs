//! Resolves addresses to files, functions and lines, with a bounded cache of files and answers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::OFlags;

use super::debug_file::{self, SYSTEM_DIR};
use super::elf::{Elf, Source};
use super::image::Image;
use super::perf_map::{self, PerfMap, Version};
use super::process::{FileKey, Process, readable};
use tracer_record::Place;

/// At most this many frames of one stack are resolved; the report shows no more.
const FRAMES_MAX: usize = 64;
/// At most this many bytes of cached files and perf maps; the least recently used ones are dropped.
const CACHE_MAX: usize = 512 << 20;
/// At most this many cached files and perf maps.
const FILES_MAX: usize = 1024;
/// At most this many cached answers; beyond that all are dropped at once.
const ANSWERS_MAX: usize = 65_536;

/// Distinguishes two states of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Vdso,
    File(FileKey),
    PerfMap(Version),
}

/// The cached contents of a file; `None` if it is of no use.
enum Kept {
    Image(Option<Rc<Image>>),
    PerfMap(Option<Rc<PerfMap>>),
}

impl Kept {
    fn bytes(&self) -> usize {
        match self {
            Self::Image(i) => i.as_ref().map_or(0, |i| i.bytes()),
            Self::PerfMap(m) => m.as_ref().map_or(0, |m| m.bytes()),
        }
    }
}

/// Resolves addresses, and caches files and answers.
pub struct Resolver {
    dirs: Vec<PathBuf>,
    files: HashMap<Key, (u64, Kept)>,
    answers: HashMap<(Key, u64), Rc<[Place]>>,
    bytes: usize,
    clock: u64,
}

impl Resolver {
    /// A resolver that searches `dirs` for debug files, then the system's directories.
    pub fn new(mut dirs: Vec<PathBuf>) -> Self {
        dirs.push(SYSTEM_DIR.into());
        Self { dirs, files: HashMap::new(), answers: HashMap::new(), bytes: 0, clock: 0 }
    }

    /// The functions at each address of a stack, the innermost inlined one first; empty where none was found.
    pub fn places(&mut self, process: &Process, addrs: &[u64]) -> Vec<Vec<Place>> {
        let mut request = Asked { process, keys: HashMap::new(), perf: None };
        // A return address is behind the call; the line of the call itself is the one to report.
        addrs.iter().take(FRAMES_MAX).map(|addr| self.place(&mut request, addr.saturating_sub(1)).to_vec()).collect()
    }

    /// Approximate bytes of the cache.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&mut self, asked: &mut Asked<'_>, addr: u64) -> Rc<[Place]> {
        let Some((module, offset)) = asked.process.locate(addr) else { return self.compiled(asked, addr) };
        let key = match asked.keys.get(&module) {
            Some(key) => *key,
            None => {
                let key = self.read(asked.process, module);
                asked.keys.insert(module, key);
                key
            }
        };
        let Some(key) = key else { return Rc::default() };
        if let Some(known) = self.answers.get(&(key, offset)) {
            return known.clone();
        }
        let image = self.used(&key).and_then(|kept| match kept {
            Kept::Image(image) => image.clone(),
            Kept::PerfMap(_) => None,
        });
        let places: Rc<[Place]> = match image {
            // Debug information is untrusted input: a panic of its reader costs the file, not the run.
            Some(image) => match catch_unwind(AssertUnwindSafe(|| image.places(offset))) {
                Ok(places) => places.into(),
                Err(_) => {
                    self.keep(key, Kept::Image(None));
                    Rc::default()
                }
            },
            None => Rc::default(),
        };
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.clear();
        }
        self.answers.insert((key, offset), places.clone());
        places
    }

    /// Reads the file of a module unless it is cached, and returns its key; `None` if it cannot be opened.
    fn read(&mut self, process: &Process, module: usize) -> Option<Key> {
        let path = process.modules.get(module)?.path.as_str();
        if path == "[vdso]" {
            if !self.files.contains_key(&Key::Vdso) {
                let image = vdso().and_then(|bytes| Elf::open(Source::Memory(bytes)).ok());
                let image = image.map(|elf| Rc::new(Image::new(&elf, None, None)));
                self.keep(Key::Vdso, Kept::Image(image));
            }
            return Some(Key::Vdso);
        }
        let (file, key) = process.open(module).ok()?;
        let key = Key::File(key);
        if !self.files.contains_key(&key) {
            let dirs = &self.dirs;
            let image = catch_unwind(AssertUnwindSafe(|| {
                let elf = Elf::open(Source::file(file).ok()?).ok()?;
                let debug = debug_file::find(&elf, path, process, dirs);
                let shared = debug_file::shared(debug.as_ref().unwrap_or(&elf), dirs);
                Some(Rc::new(Image::new(&elf, debug.as_ref(), shared.as_ref())))
            }));
            self.keep(key, Kept::Image(image.ok().flatten()));
        }
        Some(key)
    }

    /// The function of code that was compiled at run time.
    fn compiled(&mut self, asked: &mut Asked<'_>, addr: u64) -> Rc<[Place]> {
        let key = *asked.perf.get_or_insert_with(|| self.read_map(asked.process));
        let Some(Kept::PerfMap(Some(map))) = key.and_then(|key| self.used(&key)) else { return Rc::default() };
        map.place(addr).into_iter().collect()
    }

    fn read_map(&mut self, process: &Process) -> Option<Key> {
        let (uid, pid) = process.user()?;
        if !process.mounts().is_read_path("/tmp") {
            return None;
        }
        // In /tmp a link may lead anywhere; O_NOFOLLOW gives a handle to the link itself, which is no regular file.
        let handle = process.handle_below_root(&format!("tmp/perf-{pid}.map"), OFlags::NOFOLLOW).ok()?;
        let version = perf_map::checked(&handle, uid)
            .inspect_err(|e| tracing::debug!(pid = process.tgid, "cannot use its perf map: {e}"))
            .ok()?;
        let key = Key::PerfMap(version);
        if !self.files.contains_key(&key) {
            let map = readable(&handle).ok().and_then(|file| perf_map::read(&file)).map(Rc::new);
            self.keep(key, Kept::PerfMap(map));
        }
        Some(key)
    }

    fn used(&mut self, key: &Key) -> Option<&Kept> {
        self.clock += 1;
        let (at, kept) = self.files.get_mut(key)?;
        *at = self.clock;
        Some(kept)
    }

    fn keep(&mut self, key: Key, kept: Kept) {
        self.clock += 1;
        self.bytes += kept.bytes();
        if let Some((_, old)) = self.files.insert(key, (self.clock, kept)) {
            self.bytes -= old.bytes();
        }
        while (self.bytes > CACHE_MAX && self.files.len() > 1) || self.files.len() > FILES_MAX {
            let oldest = self.files.iter().min_by_key(|(_, (at, _))| *at).map(|(key, _)| *key);
            let Some((_, gone)) = oldest.and_then(|key| self.files.remove(&key)) else { return };
            self.bytes -= gone.bytes();
        }
    }
}

/// The state of resolving one stack.
struct Asked<'a> {
    process: &'a Process,
    keys: HashMap<usize, Option<Key>>,
    /// The perf map, once it was searched for.
    perf: Option<Option<Key>>,
}

/// The vDSO: the same in all 64-bit processes of a boot, so that of this process serves.
fn vdso() -> Option<Vec<u8>> {
    let me = std::process::id();
    let module = crate::inventory::modules(me).into_iter().find(|m| m.path == "[vdso]")?;
    let mut bytes = vec![0; usize::try_from(module.end - module.start).ok()?];
    crate::inventory::Entry::open(me).ok()?.memory(module.start, &mut bytes).ok()?;
    Some(bytes)
}
