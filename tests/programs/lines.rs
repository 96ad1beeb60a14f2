//! Leaks semaphore sets at two lines, blocks at a third line until its reader, which rests at a fourth, reads, and prints
//! these line numbers.
//!
//! Prints `READY`, waits for a line on standard input, and prints `DONE` and the numbers. The test e2e/fault/lines.rs
//! compiles and runs it.

use std::io::{BufRead, PipeWriter, Read, Write};

unsafe extern "C" {
    fn semget(key: i32, nsems: i32, flags: i32) -> i32;
}

const MANY: usize = 128;
const FEW: usize = 12;
const WAITS: usize = 6;
/// More than a pipe holds: each write blocks until the reader, which pauses first, reads.
const PIECE: usize = 1 << 17;

#[inline(never)]
fn many() -> (i32, u32) {
    // SAFETY: semget takes plain numbers.
    let id = unsafe { semget(0, 1, 0o600) }; let line = line!();
    (std::hint::black_box(id), line)
}

#[inline(always)]
fn inner() -> (i32, u32) {
    // SAFETY: as above.
    let id = unsafe { semget(0, 1, 0o600) }; let line = line!();
    (std::hint::black_box(id), line)
}

/// The compiler inlines `inner` here.
#[inline(never)]
fn few() -> (i32, u32) {
    inner()
}

#[inline(never)]
fn feed(to: &mut PipeWriter, piece: &[u8]) -> u32 {
    to.write_all(piece).expect("written"); let line = line!();
    std::hint::black_box(line)
}

#[inline(never)]
fn rest() -> u32 {
    std::thread::sleep(std::time::Duration::from_millis(400)); let line = line!();
    std::hint::black_box(line)
}

/// Returns the line of the blocked write and the line where the reader rests.
fn wait_for_a_reader() -> (u32, u32) {
    let (mut from, mut to) = std::io::pipe().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut piece = vec![0; PIECE];
        let mut line = 0;
        for _ in 0..WAITS {
            line = rest();
            from.read_exact(&mut piece).expect("read");
        }
        line
    });
    let piece = vec![b'.'; PIECE];
    let lines: Vec<u32> = (0..WAITS).map(|_| feed(&mut to, &piece)).collect();
    (lines[0], reader.join().expect("joined"))
}

fn main() {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    println!("READY");
    input.read_line(&mut line).expect("a line");
    let mut out = std::io::stdout().lock();
    let mut lines = (0, 0);
    for n in 0..MANY + FEW {
        let (id, line) = if n < MANY { many() } else { few() };
        *(if n < MANY { &mut lines.0 } else { &mut lines.1 }) = line;
        writeln!(out, "ID {id}").expect("written");
    }
    let (wait, rest) = wait_for_a_reader();
    writeln!(out, "DONE {} {} {wait} {rest}", lines.0, lines.1).expect("written");
    out.flush().expect("written");
    input.read_line(&mut line).expect("a line");
}
