//! Packs kernel records as differences from earlier ones: most words of an event are those of the last one of its thread
//! and kind, or advance with the time. Pure.
//!
//! ```text
//! packed     = place u8, [length u16], changed, difference*
//! place      = which of 64 earlier records it differs from, and replaces; with 0x80 added: none, and a length follows
//! changed    = a bit for each 8-byte word of the record, the first word in the lowest: its difference follows
//! difference = LEB128 of the zigzag of word - expected, modulo 2^64
//! ```
//!
//! The expected first word, the time, is that of the last record of any place. Another word is expected as in the record
//! of its place; a moving word, plus the time since that record. A word moves if that made its last difference smaller.
//! Without an earlier record 0 is expected. Words beyond the record's length are cut off.

/// Lengths of records that are packed, in bytes.
pub(super) const LENGTHS: std::ops::RangeInclusive<usize> = 1..=8 * WORDS_MAX;

/// Most words of a record: the bits of a number.
const WORDS_MAX: usize = 64;
const PLACES: usize = 64;
/// Flag of a place: no earlier record.
const NEW: u8 = 0x80;
/// Range of kind, site, process and thread in the header of a kernel record: two words.
const SOURCE: std::ops::Range<usize> = 16..32;

/// The earlier records that the next one is compared with.
pub(super) struct Earlier {
    places: Vec<Last>,
    ts: u64,
}

/// The last record of a place.
#[derive(Clone)]
struct Last {
    /// In bytes; `None`: there is no record.
    len: Option<usize>,
    words: [u64; WORDS_MAX],
    /// Bits of the words that move with the time.
    moving: u64,
}

const NONE: Last = Last { len: None, words: [0; WORDS_MAX], moving: 0 };

impl Default for Earlier {
    fn default() -> Self {
        Self { places: vec![NONE; PLACES], ts: 0 }
    }
}

impl Earlier {
    /// Drops all records: the following bytes can be read without those before.
    pub(super) fn forget(&mut self) {
        self.places.iter_mut().for_each(|p| p.len = None);
        self.ts = 0;
    }

    /// Appends a record of one of these [`LENGTHS`].
    pub(super) fn pack(&mut self, record: &[u8], out: &mut Vec<u8>) {
        debug_assert!(LENGTHS.contains(&record.len()));
        let number = place_of(record);
        let Some(last) = self.places.get_mut(usize::from(number)) else { return };
        if last.len == Some(record.len()) {
            out.push(number);
        } else {
            *last = Last { len: Some(record.len()), ..NONE };
            out.push(number | NEW);
            out.extend((record.len() as u16).to_le_bytes());
        }
        let changed_at = out.len();
        let mut changed = 0;
        out.resize(changed_at + changed_bytes(record.len()), 0);
        let ts = le(record.get(..8).unwrap_or(record));
        let elapsed = last.expect(self.ts, ts);
        self.ts = ts;
        for (i, (expected, bytes)) in last.words.iter_mut().zip(record.chunks(8)).enumerate() {
            let word = le(bytes);
            let difference = word.wrapping_sub(*expected);
            if difference != 0 {
                changed |= 1 << i;
                put(zigzag(difference), out);
                last.moving = update_moving(last.moving, i, difference, elapsed);
                *expected = word;
            }
        }
        let bits: [u8; 8] = u64::to_le_bytes(changed);
        out.iter_mut().skip(changed_at).zip(bits).take(changed_bytes(record.len())).for_each(|(place, b)| *place = b);
    }

    /// Takes the next record off the front; `None`: the bytes are no packed record.
    pub(super) fn unpack(&mut self, packed: &mut &[u8]) -> Option<Vec<u8>> {
        let number = take_byte(packed)?;
        let last = self.places.get_mut(usize::from(number & !NEW))?;
        if number & NEW != 0 {
            let len = usize::from(u16::from_le_bytes([take_byte(packed)?, take_byte(packed)?]));
            if !LENGTHS.contains(&len) {
                return None;
            }
            *last = Last { len: Some(len), ..NONE };
        }
        let len = last.len?;
        let (bits, mut rest) = packed.split_at_checked(changed_bytes(len))?;
        let mut changed = le(bits);
        let first = if changed & 1 == 1 { unzigzag(get(&mut rest)?) } else { 0 };
        let ts = self.ts.wrapping_add(first);
        let elapsed = last.expect(ts, ts);
        self.ts = ts;
        changed &= !1;
        while changed != 0 {
            let i = changed.trailing_zeros() as usize;
            changed &= changed - 1;
            let difference = unzigzag(get(&mut rest)?);
            let word = last.words.get_mut(i)?;
            *word = word.wrapping_add(difference);
            last.moving = update_moving(last.moving, i, difference, elapsed);
        }
        let mut out: Vec<u8> = Vec::with_capacity(len.next_multiple_of(8));
        last.words.iter().take(len.div_ceil(8)).for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        out.truncate(len);
        *packed = rest;
        Some(out)
    }
}

impl Last {
    /// Replaces the words by those expected at `ts`, and the first one by `first`; returns the time since the record.
    fn expect(&mut self, first: u64, ts: u64) -> u64 {
        let [time, words @ ..] = &mut self.words;
        let elapsed = ts.wrapping_sub(*time);
        *time = first;
        let mut moving = self.moving >> 1;
        while moving != 0 {
            let word = words.get_mut(moving.trailing_zeros() as usize);
            word.into_iter().for_each(|w| *w = w.wrapping_add(elapsed));
            moving &= moving - 1;
        }
        elapsed
    }
}

/// Records of one thread and kind share a place; others may, too.
fn place_of(record: &[u8]) -> u8 {
    let source = record.get(SOURCE).unwrap_or_default();
    let mixed = source.chunks(8).fold(0_u64, |sum, word| (sum ^ le(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (mixed >> 58) as u8
}

fn changed_bytes(len: usize) -> usize {
    len.div_ceil(8).div_ceil(8)
}

/// Updates the bit of a word: it moves if that would have made its difference smaller. `difference` is from the expected
/// word.
fn update_moving(moving: u64, i: usize, difference: u64, elapsed: u64) -> u64 {
    let expected_moved = (moving >> i) & 1 == 1;
    let other = if expected_moved { difference.wrapping_add(elapsed) } else { difference.wrapping_sub(elapsed) };
    let other_is_nearer = zigzag(other) < zigzag(difference);
    moving ^ (u64::from(other_is_nearer && i > 0) << i)
}

/// Up to eight bytes, little-endian.
fn le(bytes: &[u8]) -> u64 {
    if let Some(word) = bytes.first_chunk() {
        return u64::from_le_bytes(*word);
    }
    bytes.iter().rev().fold(0, |word, b| (word << 8) | u64::from(*b))
}

/// Maps numbers near 0 on either side to small ones.
fn zigzag(n: u64) -> u64 {
    (n << 1) ^ ((n as i64 >> 63) as u64)
}

fn unzigzag(n: u64) -> u64 {
    (n >> 1) ^ (n & 1).wrapping_neg()
}

fn put(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn get(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(records: &[Vec<u8>]) -> usize {
        let (mut earlier, mut packed) = (Earlier::default(), Vec::new());
        records.iter().for_each(|r| earlier.pack(r, &mut packed));
        let (mut earlier, mut rest) = (Earlier::default(), packed.as_slice());
        for (i, record) in records.iter().enumerate() {
            assert_eq!(earlier.unpack(&mut rest).as_ref(), Some(record), "record {i}");
        }
        assert!(rest.is_empty());
        packed.len()
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn any_record_survives_packing() {
        let mut n = 1_u64;
        let mut next = || {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            n >> 33
        };
        let extremes = [0, 1, u64::MAX, i64::MAX as u64, 1 << 63, 0x80];
        let mut records = vec![vec![7], vec![0; 8 * WORDS_MAX], vec![0xff; 8 * WORDS_MAX]];
        for _ in 0..20_000 {
            let len = (1 + next() % 80) as usize;
            let some: Vec<u64> =
                (0..10).map(|_| if next() % 3 == 0 { next() } else { extremes[(next() % 6) as usize] }).collect();
            records.push(words(&some)[..len].to_vec());
        }
        round_trip(&records);
    }

    #[test]
    fn constant_and_moving_words_cost_little() {
        let thread = (7 << 32) | 1;
        let event = |at: u64| words(&[at, 12_345, thread, 9, 77, at - 5_000, 0, 3]);
        let records: Vec<_> = (1..=1000).map(|i| event((1 << 50) + i * 10_000)).collect();
        // Place, changed, and two bytes and a half of time.
        let len = round_trip(&records);
        assert!(len < 1000 * 5 + 100, "{len} bytes");
    }

    #[test]
    fn threads_in_turn_are_compared_each_with_its_own() {
        let event =
            |i: u64| words(&[(1 << 50) + i * 10_000, 12_345, i % 8, i % 8, 1 << (i % 8 * 8), (1 << 40) + i % 8]);
        let records: Vec<_> = (1..=1000).map(event).collect();
        let len = round_trip(&records);
        assert!(len < 1000 * 5 + 500, "{len} bytes");
    }

    #[test]
    fn other_bytes_are_refused_or_give_records_of_bounded_length() {
        for first in 0..=255 {
            for second in [0, 1, 0x7f, 0x80, 0xff] {
                let bytes = [first, second, 0, second, second, 0xff, 0x80, 0x80, 1, 2, 3];
                let (mut earlier, mut rest) = (Earlier::default(), bytes.as_slice());
                while let Some(record) = earlier.unpack(&mut rest) {
                    assert!(LENGTHS.contains(&record.len()));
                }
            }
        }
        let mut packed = Vec::new();
        Earlier::default().pack(&words(&[1 << 60, 2, 3]), &mut packed);
        for cut in 0..packed.len() {
            let cut = packed.get(..cut).expect("a part");
            assert_eq!(Earlier::default().unpack(&mut &*cut), None);
        }
    }
}
