//! Records in parts, each a whole trace that can be read alone; the oldest is removed, so that the disk does not fill up.
//!
//! A part ends and the next starts where the stream starts anew: at a session with a baseline in the middle of it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::chunk::compress;
use super::error::TraceError;
use super::format::CHUNK_TARGET;
use super::head::Head;
use super::writer::Writer;
use crate::output_file::OutputFileError;
use tracer_record::{Inventory, Record};

/// At most this many names are tried for a part.
const NAMES_TRIED: u32 = 100;

/// Bounds of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A new part starts at this size of the last.
    pub part_bytes: u64,
    /// Number of parts to keep, including the one being written.
    pub parts: usize,
}

/// What was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The files that exist, the oldest first.
    pub files: Vec<PathBuf>,
    /// Their size in total.
    pub bytes: u64,
    /// Number of parts started; more than files if some were removed.
    pub parts: u32,
    /// Number of records written, including those in removed parts.
    pub records: u64,
    /// Number of records dropped while the disk was full.
    pub dropped: u64,
    /// Number of stacks that did not fit into the start of each part.
    pub stacks_forgotten: u64,
}

/// A running recording.
pub struct Parts {
    path: PathBuf,
    force: bool,
    limits: Option<Limits>,
    /// `None`: the disk is full, and records are dropped until the next part starts.
    current: Option<Writer>,
    /// Finished parts, the oldest first, with their sizes in bytes.
    done: VecDeque<(PathBuf, u64)>,
    head: Head,
    /// A session that arrived while a part was being written; its baseline starts the next part.
    next: Option<Record>,
    /// Size of the current part after its session, stacks and baseline.
    begun_bytes: u64,
    /// Number of the newest name.
    number: u32,
    out: Recorded,
    notes: Vec<String>,
}

impl Parts {
    /// Creates the first part, `path`; the names of later ones end with `.1`, `.2` and so on.
    ///
    /// # Errors
    /// As [`Writer::create`]; without `force` also if a part of an earlier recording exists.
    pub fn create(path: &Path, force: bool, limits: Option<Limits>) -> Result<Self, TraceError> {
        if limits.is_some()
            && !force
            && let Some(path) = earlier_part(path)
        {
            return Err(OutputFileError::Exists { path }.into());
        }
        Ok(Self {
            path: path.to_owned(),
            force,
            limits,
            current: Some(Writer::create(path, force)?),
            done: VecDeque::new(),
            head: Head::default(),
            next: None,
            begun_bytes: 0,
            number: 0,
            out: Recorded { parts: 1, ..Recorded::default() },
            notes: Vec::new(),
        })
    }

    /// Takes one record.
    ///
    /// # Errors
    /// It cannot be written, and there is no older part to remove. The trace up to there is kept.
    pub fn push(&mut self, record: &Record) -> Result<(), TraceError> {
        if self.limits.is_some() {
            if matches!(record, Record::Session(_)) && self.out.records > 0 {
                self.next = Some(record.clone());
                return Ok(());
            }
            if let Record::Baseline(inventory) = record
                && let Some(session) = self.next.take()
            {
                return self.rotate(&session, inventory, record);
            }
            self.head.take(record);
        }
        let Some(writer) = &mut self.current else {
            self.out.dropped += 1;
            return Ok(());
        };
        self.out.records += 1;
        writer.push(record).or_else(|e| self.make_room(e))
    }

    /// Whether the stream should start anew: the part is large enough, or the disk was full.
    pub fn is_turn_due(&self) -> bool {
        let Some(limits) = self.limits else { return false };
        // Never less than twice what a part starts with: otherwise each part would be nothing else.
        self.current.as_ref().is_none_or(|w| w.len_bytes() >= limits.part_bytes.max(2 * self.begun_bytes))
    }

    /// Takes the messages to the user since the last call.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Writes the pending records and syncs the last part to disk.
    ///
    /// # Errors
    /// In the second value: the end of the last part could not be written.
    pub fn finish(mut self) -> (Recorded, Result<(), TraceError>) {
        let last = self.current.take();
        let path = last.as_ref().map(|w| w.path().to_owned());
        let ended = last.map_or(Ok(()), Writer::finish);
        if let Some(path) = path {
            let bytes = path.metadata().map_or(0, |m| m.len());
            self.done.push_back((path, bytes));
        }
        self.out.bytes = self.done.iter().map(|(_, bytes)| bytes).sum();
        self.out.files = self.done.into_iter().map(|(path, _)| path).collect();
        self.out.stacks_forgotten = self.head.dropped();
        (self.out, ended)
    }

    /// Ends the part with this baseline, and starts the next with it.
    fn rotate(&mut self, session: &Record, inventory: &Inventory, baseline: &Record) -> Result<(), TraceError> {
        if let Some(mut writer) = self.current.take() {
            // If the disk is full, the part has no end, which its report mentions.
            let ended = writer
                .push(&Record::Closing(inventory.clone()))
                .and_then(|()| writer.push(&Record::End { ts_ns: inventory.ts_ns }));
            if let Err(e) = ended {
                self.notes.push(format!("the end of a part is missing: {e}"));
            }
            self.done.push_back((writer.path().to_owned(), writer.len_bytes()));
        }
        while self.limits.is_some_and(|l| self.done.len() >= l.parts.max(2)) {
            self.remove_oldest();
        }
        loop {
            match self.begin(session, baseline) {
                Ok(writer) => {
                    self.begun_bytes = writer.len_bytes();
                    self.current = Some(writer);
                    self.out.records += 2;
                    self.out.parts += 1;
                    return Ok(());
                }
                // The last part stays: it is worth more than what may follow.
                Err(e) if is_full(&e) && self.done.len() > 1 => self.remove_oldest(),
                Err(e) => return Err(e),
            }
        }
    }

    /// Creates a part with its session, stacks and baseline.
    fn begin(&mut self, session: &Record, baseline: &Record) -> Result<Writer, TraceError> {
        let mut writer = self.create_next()?;
        let begun = writer
            .push(session)
            .and_then(|()| self.head.pieces(CHUNK_TARGET).iter().try_for_each(|piece| writer.append(&compress(piece)?)))
            .and_then(|()| writer.push(baseline))
            .and_then(|()| writer.flush());
        if let Err(e) = begun {
            // It holds nothing new, and its space is needed.
            let _ = std::fs::remove_file(writer.path());
            return Err(e);
        }
        Ok(writer)
    }

    fn create_next(&mut self) -> Result<Writer, TraceError> {
        let last = self.number.saturating_add(NAMES_TRIED);
        loop {
            self.number += 1;
            match Writer::create(&name_of(&self.path, self.number), self.force) {
                // Not a part of this recording: try the next name.
                Err(TraceError::Create(
                    OutputFileError::Exists { .. }
                    | OutputFileError::Symlink { .. }
                    | OutputFileError::NotRegular { .. },
                )) if self.number < last => {}
                other => return other,
            }
        }
    }

    /// Handles a failed write: on a full disk, recording continues if an older part can be removed.
    fn make_room(&mut self, e: TraceError) -> Result<(), TraceError> {
        self.out.dropped += 1;
        if !is_full(&e) || self.done.is_empty() {
            return Err(e);
        }
        if let Some(writer) = self.current.take() {
            self.out.dropped += writer.dropped().saturating_sub(1);
            self.done.push_back((writer.path().to_owned(), writer.len_bytes()));
        }
        self.notes.push(format!("{e}; the oldest part goes, and recording continues in a new one"));
        self.remove_oldest();
        Ok(())
    }

    fn remove_oldest(&mut self) {
        if let Some((path, _)) = self.done.pop_front()
            && let Err(e) = std::fs::remove_file(&path)
        {
            self.notes.push(format!("cannot remove the old part {}: {e}", path.display()));
        }
    }
}

/// The path of a part; 0 is the first.
fn name_of(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

/// A file with the name of a later part.
fn earlier_part(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_part = |found: &str| {
        let number = found.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    entries.find(|e| is_part(&e.file_name().to_string_lossy())).map(|e| e.path())
}

fn is_full(e: &TraceError) -> bool {
    let kinds = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    matches!(
        e,
        TraceError::File { cause, .. } | TraceError::Create(OutputFileError::Create { cause, .. })
            if kinds.contains(&cause.kind())
    )
}
