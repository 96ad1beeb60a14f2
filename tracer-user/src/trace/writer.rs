//! Writing a trace.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{CHUNK_MAX, CHUNK_TARGET, HEADER_LEN, KERNEL_TAG, MAGIC, RECORD_HEADER_LEN, TraceError, VERSION, tag};
use crate::newfile;
use crate::record::Record;
use crate::redact::Redactor;

/// A chunk is written when its first record is this old.
const MAX_AGE: Duration = Duration::from_secs(1);
/// zstd level: the fastest; recording must not take the CPU from what it watches.
const LEVEL: i32 = 1;

/// A trace being written.
///
/// After an error it stops: it was told once, later records are dropped and counted, and the file ends with the last
/// whole chunk, because a trace with a hole would replay to wrong findings.
pub struct Writer {
    file: File,
    path: PathBuf,
    /// Bytes of the file up to the end of the last whole chunk.
    len_bytes: u64,
    chunk: Vec<u8>,
    /// Records in `chunk`.
    pending: u64,
    oldest: Option<Instant>,
    stopped: bool,
    dropped: u64,
    redactor: Option<Redactor>,
}

impl Writer {
    /// Creates the trace, readable by its owner only, with its header already in it.
    ///
    /// The file must not exist; with `force` a regular file of that name is replaced in one step.
    ///
    /// # Errors
    /// The name is taken, is a symbolic link or no regular file, or the file cannot be made.
    pub fn create(path: &Path, force: bool) -> Result<Self, TraceError> {
        let mut header = [0; HEADER_LEN];
        let (magic, rest) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        rest.split_at_mut(4).0.copy_from_slice(&VERSION.to_le_bytes());
        let file = newfile::create(path, force, &header)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            len_bytes: HEADER_LEN as u64,
            chunk: Vec::new(),
            pending: 0,
            oldest: None,
            stopped: false,
            dropped: 0,
            redactor: None,
        })
    }

    /// With a redactor the trace gets no names: each record goes through it before it is written.
    #[must_use]
    pub fn redacting(mut self, redactor: Option<Redactor>) -> Self {
        self.redactor = redactor;
        self
    }

    /// Appends a record. A tick writes out what is pending, as do its size and its age.
    ///
    /// # Errors
    /// The chunk could not be written. Later calls do nothing and succeed.
    pub fn push(&mut self, record: &Record) -> Result<(), TraceError> {
        if self.stopped {
            self.dropped += 1;
            return Ok(());
        }
        let start = self.chunk.len();
        if let Err(e) = self.append(record) {
            self.chunk.truncate(start);
            // What came before the record is whole: it is still written, and a second error adds nothing.
            let _ = self.flush();
            self.stopped = true;
            self.dropped += 1;
            return Err(e);
        }
        if start > 0 && self.chunk.len() > CHUNK_MAX {
            // Together they are too much for one chunk: the earlier records go first.
            let last = self.chunk.split_off(start);
            self.pending -= 1;
            let flushed = self.flush();
            if self.stopped {
                self.dropped += 1;
                return flushed;
            }
            self.chunk = last;
            self.pending = 1;
        }
        let age = self.oldest.get_or_insert_with(Instant::now).elapsed();
        if self.chunk.len() >= CHUNK_TARGET
            || age >= MAX_AGE
            || matches!(record, Record::Tick { .. } | Record::End { .. })
        {
            return self.flush();
        }
        Ok(())
    }

    /// Writes what is pending as one chunk.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub fn flush(&mut self) -> Result<(), TraceError> {
        let (chunk, records) = (std::mem::take(&mut self.chunk), std::mem::take(&mut self.pending));
        self.oldest = None;
        if chunk.is_empty() {
            return Ok(());
        }
        if self.stopped {
            self.dropped += records;
            return Ok(());
        }
        match self.write_chunk(&chunk) {
            Ok(written) => {
                self.len_bytes += written;
                // Keep the buffer unless a rare huge record made it large.
                if chunk.capacity() <= 4 * CHUNK_TARGET {
                    self.chunk = chunk;
                    self.chunk.clear();
                }
                Ok(())
            }
            Err(source) => {
                self.stopped = true;
                self.dropped += records;
                // Half a chunk would only be a torn tail, so a failure here costs nothing.
                let _ = self.file.set_len(self.len_bytes);
                Err(TraceError::File {
                    action: "write",
                    path: self.path.clone(),
                    source,
                    hint: "recording stopped there, what was written can be read; make space on the disk",
                })
            }
        }
    }

    /// Writes what is pending and brings it to the disk.
    ///
    /// # Errors
    /// As [`Writer::push`], unless an error was told before.
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.flush()?;
        if self.stopped {
            return Ok(());
        }
        self.file.sync_all().map_err(|source| TraceError::File {
            action: "write",
            path: self.path.clone(),
            source,
            hint: "its last part may be missing; check the disk",
        })
    }

    /// Bytes written so far.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Records that were not written because of an error; 0: the trace is whole.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn append(&mut self, record: &Record) -> Result<(), TraceError> {
        let redacted = self.redactor.as_ref().map(|r| r.record(record.clone()));
        let record = redacted.as_ref().unwrap_or(record);
        let start = self.chunk.len();
        self.chunk.push(tag(record));
        self.chunk.extend([0; RECORD_HEADER_LEN - 1]);
        if let Record::Kernel(bytes) = record {
            debug_assert_eq!(tag(record), KERNEL_TAG);
            self.chunk.extend_from_slice(bytes);
        } else {
            serde_json::to_writer(&mut self.chunk, record).map_err(TraceError::Encode)?;
        }
        let whole = self.chunk.len() - start;
        let len = whole - RECORD_HEADER_LEN;
        if whole > CHUNK_MAX {
            return Err(TraceError::TooLarge { len });
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        if let Some(place) = self.chunk.get_mut(start + 1..start + RECORD_HEADER_LEN) {
            place.copy_from_slice(&len);
        }
        self.pending += 1;
        Ok(())
    }

    fn write_chunk(&mut self, chunk: &[u8]) -> io::Result<u64> {
        let data = zstd::bulk::compress(chunk, LEVEL)?;
        let mut out = Vec::with_capacity(super::CHUNK_HEADER_LEN + data.len());
        out.extend(u32::try_from(data.len()).map_err(io::Error::other)?.to_le_bytes());
        out.extend(crc32fast::hash(&data).to_le_bytes());
        out.extend(data);
        self.file.write_all(&out)?;
        Ok(out.len() as u64)
    }
}

#[cfg(test)]
impl Writer {
    /// A writer to a file that is open already, to make writes fail.
    pub(super) fn on(file: File) -> Self {
        Self {
            file,
            path: "test".into(),
            len_bytes: 0,
            chunk: Vec::new(),
            pending: 0,
            oldest: None,
            stopped: false,
            dropped: 0,
            redactor: None,
        }
    }
}
