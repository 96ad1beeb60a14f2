//! Measures time and memory of resolving and unwinding 10,000 stacks: `cargo bench -p tracer-collector --bench symbols`.
//!
//! The stacks are of this program, whose debug information has a usual size; they take the same path as in the collector.

use std::time::Instant;

use anyhow::{Context, Result};
use tracer_collector::symbol::{Process, Resolver, Tables};
use tracer_common::event::{COPY_PAGE, COPY_PAGES, StackCopy};

const STACKS: u64 = 10_000;
const DEPTH: u64 = 16;

fn main() -> Result<()> {
    let mut process = Process::read(std::process::id());
    process.hold_all();
    let exe = std::env::current_exe().context("own path")?;
    let module = process.modules.iter().find(|m| exe.as_os_str() == m.path.as_str()).context("own module")?.clone();
    let size = std::fs::metadata(&exe).context("own file")?.len();
    println!("{} KiB of program with its debug information, {STACKS} stacks of {DEPTH} frames", size / 1024);

    // Each has its own addresses; every fourth frame is one of a few, as the ends of real stacks are.
    let len = module.end - module.start;
    let address = |stack: u64, frame: u64| {
        let n = if frame.is_multiple_of(4) { frame } else { stack * DEPTH + frame };
        module.start + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % len
    };
    let before = resident_kib();
    let mut resolver = Resolver::new(Vec::new());
    let started = Instant::now();
    let mut named = 0_u64;
    let mut first = None;
    for stack in 0..STACKS {
        let addrs: Vec<u64> = (0..DEPTH).map(|frame| address(stack, frame)).collect();
        let places = resolver.places(&process, &addrs);
        named += places.iter().filter(|p| p.iter().any(|p| p.line.is_some())).count() as u64;
        first.get_or_insert_with(|| started.elapsed());
    }
    let took = started.elapsed();
    println!(
        "naming: {:.1} ms, {:.1} us a stack, the first (which reads the files) {:.1} ms; {} of {} frames have a line",
        took.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e6 / STACKS as f64,
        first.unwrap_or_default().as_secs_f64() * 1e3,
        named,
        STACKS * DEPTH
    );
    println!(
        "naming: {} KiB more resident, {} KiB by its own account",
        resident_kib().saturating_sub(before),
        resolver.bytes() / 1024
    );

    let before = resident_kib();
    let mut tables = Tables::default();
    let copy = deep(12);
    let started = Instant::now();
    let (mut frames, mut by_tables) = (0, 0);
    for _ in 0..STACKS {
        let (addrs, covered, _) = tables.unwind(&process, &copy);
        (frames, by_tables) = (addrs.len(), covered);
    }
    let took = started.elapsed();
    println!(
        "unwinding: {:.1} us a stack of {frames} frames, {by_tables} of them by tables; {} KiB more resident",
        took.as_secs_f64() * 1e6 / STACKS as f64,
        resident_kib().saturating_sub(before)
    );
    Ok(())
}

/// A copy of this thread's stack, some calls deep.
#[inline(never)]
fn deep(calls: u32) -> Box<StackCopy> {
    let copy = if calls > 0 { deep(calls - 1) } else { copied() };
    std::hint::black_box(copy)
}

#[inline(never)]
fn copied() -> Box<StackCopy> {
    // SAFETY: plain integers, for which zero is a value.
    let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
    // SAFETY: a context to write to.
    unsafe { libc::getcontext(&raw mut context) };
    let (ip, sp, fp) = registers(&context);
    let mut copy = Box::new(StackCopy {
        ts_ns: 0,
        id: 1,
        tid: 1,
        ip,
        sp,
        fp,
        lr: 0,
        unread: 0,
        bytes: [0; COPY_PAGES * COPY_PAGE],
    });
    let base = sp & !(COPY_PAGE as u64 - 1);
    for page in 0..COPY_PAGES {
        let from = base + (page * COPY_PAGE) as u64;
        let Some(to) = copy.bytes.get_mut(page * COPY_PAGE..(page + 1) * COPY_PAGE) else { continue };
        let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
        let remote = libc::iovec { iov_base: from as *mut libc::c_void, iov_len: to.len() };
        // SAFETY: the buffer is as long as said; the kernel checks the address that is read from.
        let got = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        copy.unread |= u64::from(got < 0) << page;
    }
    copy
}

#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (u64, u64, u64) {
    let at = |n: i32| context.uc_mcontext.gregs[n as usize] as u64;
    (at(libc::REG_RIP), at(libc::REG_RSP), at(libc::REG_RBP))
}

#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (u64, u64, u64) {
    let m = &context.uc_mcontext;
    (m.pc, m.sp, m.regs[29])
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
