//! Sorts the ring buffer's records by time, which are nearly sorted already. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Records held back until no older one can arrive.
#[derive(Default)]
pub struct Reorder {
    heap: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    arrivals: u64,
}

impl Reorder {
    /// Takes one record; its first eight bytes are its time. A shorter record sorts first.
    pub fn push(&mut self, bytes: Vec<u8>) {
        let ts = bytes.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b));
        self.arrivals += 1;
        self.heap.push(Reverse((ts, self.arrivals, bytes)));
    }

    /// Calls `each` with every record up to `until_ns` of the boot clock, the oldest first.
    pub fn release(&mut self, until_ns: u64, mut each: impl FnMut(Vec<u8>)) {
        while self.heap.peek().is_some_and(|Reverse((ts, ..))| *ts <= until_ns) {
            if let Some(Reverse((.., bytes))) = self.heap.pop() {
                each(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_and_keeps_arrival_order_of_equals() {
        let mut r = Reorder::default();
        for (ts, tag) in [(5u64, 0u8), (3, 1), (5, 2), (9, 3)] {
            let mut bytes = ts.to_ne_bytes().to_vec();
            bytes.push(tag);
            r.push(bytes);
        }
        let mut out = Vec::new();
        r.release(5, |b| out.push(b[8]));
        assert_eq!(out, [1, 0, 2]);
        r.release(u64::MAX, |b| out.push(b[8]));
        assert_eq!(out, [1, 0, 2, 3]);
    }
}
