//! Shared parts of this module's tests, and the whole way from an address to a line.

use std::process::{Command, Stdio};

use super::*;

#[inline(never)]
fn marked() -> u32 {
    std::hint::black_box(line!())
}

/// The first address of [`marked`], and the line of its body; without optimization it belongs to the line above.
pub(super) fn here() -> (u64, [u32; 2]) {
    (marked as fn() -> u32 as usize as u64, [marked() - 1, marked()])
}

#[test]
fn own_stack() {
    let (addr, expected) = here();
    let mut process = Process::read(std::process::id());
    let (module, _) = process.locate(addr).expect("own code");
    process.hold(module);
    let mut resolver = Resolver::new(Vec::new());
    // Like a return address, behind the call.
    let places = resolver.places(&process, &[addr + 1, 0, u64::MAX]);
    let lines: Vec<_> = places.iter().map(|p| p.last().and_then(|p| p.line)).collect();
    // map_files needs a right that a test run may lack; the path leads to the same file then.
    assert!(lines[0].is_some_and(|l| expected.contains(&l)) && lines[1..] == [None, None], "{places:?}");
    assert!(resolver.bytes() > 0);
}

#[test]
fn the_vdso_has_functions() {
    let process = Process::read(std::process::id());
    let vdso = process.modules.iter().find(|m| m.path == "[vdso]").expect("vdso");
    let elf = vdso.start;
    let mut resolver = Resolver::new(Vec::new());
    let names: Vec<String> = (0..vdso.end - vdso.start)
        .step_by(16)
        .filter_map(|at| resolver.places(&process, &[elf + at]).first()?.first()?.function.clone())
        .collect();
    assert!(names.iter().any(|n| n.contains("clock_gettime")), "{names:?}");
}

#[tokio::test]
async fn the_thread_answers_and_the_end_waits() {
    let (addr, _) = here();
    let mut symbols = Symbolizer::start(Vec::new());
    let process = Arc::new(Process::read(std::process::id()));
    for id in 0..3 {
        symbols.ask(Request { id, process: process.clone(), addrs: vec![addr + 1] });
    }
    // An unknown address stays without a place.
    symbols.ask(Request { id: 3, process, addrs: vec![1] });
    let first = symbols.next().await;
    let mut all = vec![first];
    symbols.finish(&mut |r| all.push(r)).await;
    let ids: Vec<i32> =
        all.iter().filter_map(|r| if let Record::Symbols { id, .. } = r { Some(*id) } else { None }).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(symbols.problem(), None);
}

#[test]
fn stacks_that_do_not_fit_are_counted() {
    let mut symbols = Symbolizer::off();
    assert!(!symbols.is_on() && symbols.problem().is_none());
    symbols.left_out = 2;
    assert!(symbols.problem().is_some_and(|p| p.contains("2 user stacks")));
}

/// A perf map of a living process is used only if it belongs to the process's user.
#[test]
fn code_compiled_at_run_time() {
    let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("spawn");
    let path = std::path::PathBuf::from(format!("/tmp/perf-{}.map", child.id()));
    std::fs::write(&path, "10000 100 py::work:/srv/app.py\n").expect("map");
    let name = || {
        let process = Process::read(child.id());
        let places = Resolver::new(Vec::new()).places(&process, &[0x10011]);
        places.first().and_then(|p| p.first()).cloned()
    };
    let found = name();
    std::fs::remove_file(&path).expect("remove");
    std::os::unix::fs::symlink("/etc/passwd", &path).expect("link");
    let linked = name();
    std::fs::remove_file(&path).expect("remove");
    child.kill().expect("kill");
    child.wait().expect("wait");
    let want = Place { function: Some("work".into()), file: Some("/srv/app.py".into()), line: None, inlined: false };
    assert_eq!(found, Some(want));
    assert_eq!(linked, None);
}
