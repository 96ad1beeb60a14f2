//! Writes a trace.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::error::TraceError;
use super::format::{CHUNK_MAX, CHUNK_TARGET, HEADER_LEN, MAGIC, VERSION};
use crate::output_file;
use tracer_record::Record;

/// A chunk is written when its first record is this old.
const MAX_AGE: Duration = Duration::from_secs(1);

/// A trace being written.
///
/// It stops at the first error and returns that once. Later records are dropped and counted, and the file ends with the
/// last whole chunk, because a trace with a hole would replay to wrong findings.
pub struct Writer {
    file: File,
    path: PathBuf,
    /// Bytes of the file up to the end of the last whole chunk.
    len_bytes: u64,
    chunk: Chunk,
    oldest: Option<Instant>,
    stopped: bool,
    dropped: u64,
}

impl Writer {
    /// Creates the trace with its header, readable by its owner only.
    ///
    /// The file must not exist; with `force` a regular file of that name is replaced in one step.
    ///
    /// # Errors
    /// The file exists and `force` is not set, is a symbolic link or no regular file, or cannot be created.
    pub fn create(path: &Path, force: bool) -> Result<Self, TraceError> {
        let mut header = [0; HEADER_LEN];
        let (magic, rest) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        rest.split_at_mut(4).0.copy_from_slice(&VERSION.to_le_bytes());
        let file = output_file::create(path, force, &header)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            len_bytes: HEADER_LEN as u64,
            chunk: Chunk::default(),
            oldest: None,
            stopped: false,
            dropped: 0,
        })
    }

    /// Appends a record. A tick, the size or the age of the pending records writes them out; so does a baseline, so that
    /// the trace can be read from `ready` on.
    ///
    /// # Errors
    /// The chunk could not be written. Later calls do nothing and succeed.
    pub fn push(&mut self, record: &Record) -> Result<(), TraceError> {
        if self.stopped {
            self.dropped += 1;
            return Ok(());
        }
        let start = self.chunk.len();
        let mut pushed = self.chunk.push(record);
        if pushed.is_ok() && start > 0 && self.chunk.len() > CHUNK_MAX {
            // Together they exceed one chunk: write the earlier records first.
            self.chunk.remove_last(start);
            let flushed = self.flush();
            if self.stopped {
                self.dropped += 1;
                return flushed;
            }
            pushed = self.chunk.push(record);
        }
        if let Err(e) = pushed {
            // The records before it are whole, so write them; a second error adds nothing.
            let _ = self.flush();
            self.stopped = true;
            self.dropped += 1;
            return Err(e);
        }
        let age = self.oldest.get_or_insert_with(Instant::now).elapsed();
        if self.chunk.len() >= CHUNK_TARGET
            || age >= MAX_AGE
            || matches!(record, Record::Baseline(_) | Record::Tick { .. } | Record::End { .. })
        {
            return self.flush();
        }
        Ok(())
    }

    /// Writes the pending records as one chunk.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        self.oldest = None;
        let records = self.chunk.records();
        if records == 0 {
            return Ok(());
        }
        let data = self.chunk.compressed().inspect_err(|_| self.stopped = true);
        self.chunk.clear();
        let written = data.and_then(|data| self.write(&data));
        if self.stopped {
            self.dropped += records;
        }
        written
    }

    /// Appends a compressed chunk after the pending records.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub(super) fn append(&mut self, chunk: &[u8]) -> Result<(), TraceError> {
        self.flush()?;
        self.write(chunk)
    }

    /// Writes the pending records and syncs the file to disk.
    ///
    /// # Errors
    /// As [`Writer::push`], unless an error was returned before.
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.flush()?;
        if self.stopped {
            return Ok(());
        }
        self.file.sync_all().map_err(|cause| TraceError::File {
            action: "write",
            path: self.path.clone(),
            cause,
            hint: "its last part may be missing; check the disk",
        })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Number of records not written because of an error; 0: the trace is complete.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes a whole chunk; if that fails, nothing of it and no later one.
    fn write(&mut self, chunk: &[u8]) -> Result<(), TraceError> {
        if self.stopped {
            return Ok(());
        }
        if let Err(cause) = self.file.write_all(chunk) {
            self.stopped = true;
            // Half a chunk would only be a torn tail, so a failure here costs nothing.
            let _ = self.file.set_len(self.len_bytes);
            return Err(TraceError::File {
                action: "write",
                path: self.path.clone(),
                cause,
                hint: "recording stopped there, and the trace can be read up to there; free some disk space",
            });
        }
        self.len_bytes += chunk.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
impl Writer {
    /// A writer to an open file, to make writes fail.
    pub(super) fn on(file: File) -> Self {
        Self {
            file,
            path: "test".into(),
            len_bytes: 0,
            chunk: Chunk::default(),
            oldest: None,
            stopped: false,
            dropped: 0,
        }
    }
}
