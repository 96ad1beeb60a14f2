//! Leaks semaphore sets from two lines, when told to, and says which lines these are. No incident: see lines.rs in the suite.

use std::io::{BufRead, Write};

unsafe extern "C" {
    fn semget(key: i32, nsems: i32, flags: i32) -> i32;
}

const MANY: usize = 128;
const FEW: usize = 12;

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

/// Has the other one inlined.
#[inline(never)]
fn few() -> (i32, u32) {
    inner()
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
    writeln!(out, "DONE {} {}", lines.0, lines.1).expect("written");
    out.flush().expect("written");
    input.read_line(&mut line).expect("a line");
}
