//! Properties of the model for hostile streams: whatever the kernel or a file contains, nothing panics, and the model stays
//! bounded.
//!
//! Records follow from their types: a serde deserializer that reads numbers builds every record and every field, and kernel
//! records follow from the table of events. So no field and no event is missing here.

use super::Model;
use crate::detectors;
use crate::fixture::{P, START, Stream};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngSeed, TestRunner};
use serde::Deserialize;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor};
use std::collections::BTreeSet;
use std::sync::LazyLock;
use tracer_common::event::{Body, Header};
use tracer_record::decode::header_bytes;
use tracer_record::{Record, Session, decode};

/// Longest stream of one case.
const MAX_RECORDS: usize = 200;
/// Most numbers drawn for one record; a record that needs more uses them again.
const MAX_NUMBERS: usize = 48;
/// Room for the payload of any event.
const MAX_PAYLOAD: usize = 1_024;

/// Each kind of event with the bytes of its payload, from the table of events.
static EVENTS: LazyLock<Vec<(u16, usize)>> = LazyLock::new(|| {
    let payload = |kind| {
        let mut len = 0;
        Body::decode(kind, &[0; MAX_PAYLOAD]).ok()?.encode(|bytes| len += bytes.len());
        Some((kind, len))
    };
    (0..=u16::MAX).filter_map(payload).collect()
});

macro_rules! kinds {
    ($($kind:ident)*) => {
        /// All kinds of records.
        const KINDS: &[&str] = &[$(stringify!($kind)),*];

        /// The kind of a record. A new kind that serde skips, as it does `Kernel`, needs an arm in [`record`].
        fn kind(record: &Record) -> &'static str {
            match record { $(Record::$kind { .. } => stringify!($kind)),* }
        }
    };
}

kinds! {
    Session Kernel Baseline Closing Tick Lost Blocked Refused Children Holders FdTable Process ForkLimits PipeUser Queues
    Stack SameStack Symbols End Sockets Futexes Threads Readers
}

/// Text of every field: names of objects and files, links of descriptors, and what a terminal or a parser may stumble over.
const WORDS: &[&str] = &[
    "",
    "a",
    "/a-1",
    "/a-2",
    "socket:[",
    "socket:[3]",
    "pipe:[3]",
    "anon_inode:[eventfd]",
    "/srv/a (deleted)",
    "/a/docker-\u{fffd}.scope",
    "pids.max",
    "\u{1b}[2J",
];

/// Numbers of which a record is built. They shrink to zeros, empty lists and absent options.
#[derive(Clone, Debug)]
struct Numbers {
    all: Vec<u64>,
    at: usize,
}

impl Numbers {
    fn new(all: Vec<u64>) -> Self {
        Self { all, at: 0 }
    }

    fn next(&mut self) -> u64 {
        let number = self.all.get(self.at % self.all.len().max(1)).copied().unwrap_or(0);
        self.at += 1;
        number
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == one_in - 1
    }

    /// A time of the session, or a number.
    fn u64(&mut self) -> u64 {
        let raw = self.next();
        match raw % 10 {
            0..=3 => raw / 10 % 6,
            4..=7 => START + raw / 10 % 20_000_000_000,
            8 => raw,
            _ => u64::MAX - raw / 10 % 3,
        }
    }

    /// Mostly small, so that records refer to the same objects; sometimes extreme.
    fn u32(&mut self) -> u32 {
        let raw = self.next();
        match raw % 10 {
            0..=7 => (raw / 10 % 6) as u32,
            8 => (raw >> 32) as u32,
            _ => u32::MAX - (raw / 10 % 3) as u32,
        }
    }

    /// A record of the kernel half, sometimes of an unknown kind or too short.
    fn kernel(&mut self) -> Record {
        let (known, len) = EVENTS[self.below(EVENTS.len())];
        let header = Header {
            ts_ns: self.u64(),
            start_ns: self.u64(),
            kind: if self.chance(16) { self.u32() as u16 } else { known },
            site: self.below(70) as u16,
            tgid: self.u32(),
            tid: self.u32(),
            uid: self.u32(),
            stack: self.u32().cast_signed(),
            comm: [b'a'; 16],
            ..Header::default()
        };
        let mut bytes = header_bytes(&header);
        let end = bytes.len() + len;
        while bytes.len() < end {
            // The payload has fields of 4 and of 8 bytes.
            if self.chance(2) {
                bytes.extend(self.u64().to_ne_bytes());
            } else {
                bytes.extend(self.u32().to_ne_bytes());
                bytes.extend(self.u32().to_ne_bytes());
            }
        }
        bytes.truncate(end);
        if self.chance(16) {
            bytes.truncate(self.below(end));
        }
        Record::Kernel(bytes)
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $numbers:ident => $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let $numbers = self;
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Numbers {
    type Error = Error;

    numbers! {
        deserialize_bool visit_bool n => n.chance(2);
        deserialize_u8 visit_u8 n => n.u32() as u8;
        deserialize_u16 visit_u16 n => n.u32() as u16;
        deserialize_u32 visit_u32 n => n.u32();
        deserialize_u64 visit_u64 n => n.u64();
        deserialize_i32 visit_i32 n => n.u32().cast_signed();
        deserialize_i64 visit_i64 n => n.u64().cast_signed();
        deserialize_char visit_char n => ['R', 'S', 'T', 'Z', 'D', '\u{1b}'][n.below(6)];
        deserialize_str visit_str n => WORDS[n.below(WORDS.len())];
        deserialize_string visit_str n => WORDS[n.below(WORDS.len())];
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.chance(2) { visitor.visit_some(self) } else { visitor.visit_none() }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.below(5);
        visitor.visit_seq(Items { numbers: self, left })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { numbers: self, left: len })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_seq(Items { numbers: self, left: fields.len() })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name = variants[self.below(variants.len())];
        visitor.visit_enum(Variant { numbers: self, name })
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("records have no field of this type yet: add it above"))
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 f64 bytes byte_buf unit unit_struct newtype_struct tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    numbers: &'a mut Numbers,
    left: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.numbers).map(Some)
    }
}

struct Variant<'a> {
    numbers: &'a mut Numbers,
    name: &'static str,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.numbers)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.numbers.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.numbers.deserialize_tuple(fields.len(), visitor)
    }
}

fn numbers() -> impl Strategy<Value = Numbers> {
    vec(any::<u64>(), 1..MAX_NUMBERS).prop_map(Numbers::new)
}

/// Half of the records are events.
fn record() -> impl Strategy<Value = Record> {
    numbers().prop_map(|mut n| if n.chance(2) { n.kernel() } else { Record::deserialize(&mut n).expect("a record") })
}

/// The session of other tests, or any.
fn session() -> impl Strategy<Value = Session> {
    let any = numbers().prop_map(|mut n| Session::deserialize(&mut n).expect("a session"));
    prop_oneof![Just(Stream::new().session), any]
}

/// The same cases in each run, unless `PROPTEST_RNG_SEED` has another seed; `PROPTEST_CASES` has more of them.
fn config() -> ProptestConfig {
    let from_environment = ProptestConfig::default();
    ProptestConfig {
        rng_seed: match from_environment.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            RngSeed::Fixed(seed) => RngSeed::Fixed(seed),
        },
        failure_persistence: None,
        ..from_environment
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_panics(session in session(), records in vec(record(), 1..MAX_RECORDS), at_ns in START..START + (1 << 35)) {
        let mut model = Model::new(&session);
        for (n, record) in records.iter().enumerate() {
            // An error is a record that cannot be decoded.
            let _ = model.apply(record);
            if n % 50 == 49 {
                detectors::run(&model, at_ns);
            }
        }
        detectors::run(&model, at_ns);
        model.problems();
    }
}

#[test]
fn every_kind_of_record_and_event_is_generated() {
    assert_eq!(EVENTS.len(), Body::NAMES.len(), "an event has more than {MAX_PAYLOAD} bytes");
    let mut runner = TestRunner::new(config());
    let (mut kinds, mut events) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..4_000 {
        let record = record().new_tree(&mut runner).expect("a record").current();
        kinds.insert(kind(&record));
        if let Record::Kernel(bytes) = &record
            && let Ok(event) = decode::kernel(bytes)
        {
            events.insert(event.body.name());
        }
    }
    assert_eq!(kinds, KINDS.iter().copied().collect());
    assert_eq!(events, Body::NAMES.iter().copied().collect());
}

#[test]
fn memory_is_bounded_and_what_was_dropped_is_reported() {
    let mut s = Stream::new();
    let mut model = Model::new(&s.session);
    for i in 0..100_000u32 {
        s.records.clear();
        s.gone(u64::from(i), P(10 + i, "x"));
        for record in &s.records {
            model.apply(record).unwrap();
        }
    }
    assert!(model.processes.iter().count() <= 70_000);
    assert!(!model.problems().is_empty());
}
