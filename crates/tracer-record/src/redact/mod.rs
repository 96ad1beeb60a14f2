//! Takes names out of records: each becomes a token, the same for the same name, and nothing else changes.
//!
//! What a field holds stands beside the field, in the record's type: see [`field`].
//! Pure: the key comes from outside, is kept nowhere, and without it a name cannot be guessed and tried.

mod cgroup;
pub(crate) mod event;
pub(crate) mod field;
mod name;
mod public;

use crate::record::Record;
use field::{Names, Redact};

/// Bytes of the key.
pub const KEY_LEN: usize = 16;

/// Redacts the records of one trace.
#[derive(Clone)]
pub struct Redactor {
    names: Names,
}

impl Redactor {
    /// Tokens depend on the key: without it nobody can compute one.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        Self { names: Names::new(key) }
    }

    /// The record without names.
    #[must_use]
    pub fn record(&self, mut record: Record) -> Record {
        record.redact(&self.names);
        if let Record::Session(session) = &mut record {
            session.redacted = true;
        }
        record
    }

    /// A sentence about a trace: every word that is not one of ipctrace's own goes.
    pub fn sentence(&self, sentence: &str) -> String {
        self.names.sentence(sentence)
    }
}
