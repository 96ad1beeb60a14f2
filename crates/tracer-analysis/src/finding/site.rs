//! The code site of a stack: its innermost frame that belongs to the program, not to a system library.
//!
//! Detectors split their groups by site, but only where the stacks are certain to contain that frame.

use std::collections::BTreeMap;

use crate::finding::StackFrame;
use crate::model::Model;
use tracer_record::StackId;
use tracer_record::library::{LIBRARY, SYSTEM, module_stem};

/// A stack with its names, ready for output.
#[derive(Debug, Default)]
pub struct Shown {
    /// Innermost first, with the frames of inlined functions.
    pub frames: Vec<StackFrame>,
    pub truncated: bool,
    /// The innermost frame of the program's own code, as text.
    pub(crate) site: Option<String>,
    /// No frame before the site can be missing.
    pub(crate) exact: bool,
    /// The site has a function name; otherwise it is a file and an offset.
    named: bool,
}

/// The stack with this id, cut to at most `max` frames.
pub fn shown(model: &Model, stack: StackId, max: usize) -> Option<Shown> {
    let known = model.stack(stack)?;
    let mut out: Vec<StackFrame> = Vec::new();
    // Frames whose addresses come from unwind tables; the first is the instruction pointer.
    let mut exact = 0;
    let mut truncated = false;
    for (i, frame) in known.frames.iter().enumerate() {
        let addr = format!("{:#x}", frame.addr);
        let offset = frame.offset.map(|o| format!("+{o:#x}"));
        let places = model.places(stack).get(i).map(Vec::as_slice).unwrap_or_default();
        out.extend(places.iter().map(|p| StackFrame {
            addr: addr.clone(),
            symbol: p.function.clone().or_else(|| offset.clone()),
            file: p.file.clone(),
            line: p.line,
            module: frame.module.clone(),
            inlined: p.inlined,
        }));
        if places.is_empty() {
            out.push(StackFrame { addr, symbol: offset, module: frame.module.clone(), ..StackFrame::default() });
        }
        if i < known.unwound.max(1) {
            exact = out.len();
        }
        if out.len() >= max {
            truncated = out.len() > max || i + 1 < known.frames.len();
            out.truncate(max);
            break;
        }
    }
    let own = out.iter().position(is_own);
    let frame = own.and_then(|at| out.get(at));
    let site = frame.map(frame_text);
    let named = frame.and_then(|f| f.symbol.as_deref()).is_some_and(|symbol| !symbol.starts_with('+'));
    Some(Shown { truncated, site, exact: own.is_some_and(|at| at < exact), named, frames: out })
}

/// The site of a stack, as text.
pub(crate) fn of(model: &Model, stack: StackId) -> Option<String> {
    shown(model, stack, usize::MAX)?.site
}

/// Whether a frame belongs to a system library or a language's runtime.
pub fn is_system(frame: &StackFrame) -> bool {
    let module = frame.module.as_deref().and_then(|m| m.rsplit('/').next()).unwrap_or_default();
    let stem = module_stem(module);
    // Rust's standard library is compiled into each program; its paths contain the compiler's commit.
    let library = |name: &str| LIBRARY.iter().any(|l| name.starts_with(l));
    SYSTEM.contains(&stem)
        || frame.file.as_deref().is_some_and(|f| f.starts_with("/rustc/"))
        || frame.symbol.as_deref().is_some_and(library)
}

/// The innermost frame of the program's own code, from which a stack's site is made.
pub fn own(frames: &[StackFrame]) -> Option<&StackFrame> {
    frames.iter().find(|f| is_own(f))
}

/// Whether a frame is known to belong to the program itself.
fn is_own(frame: &StackFrame) -> bool {
    (frame.module.is_some() || frame.file.is_some()) && !is_system(frame)
}

/// A frame as text: `FILE:LINE in FUNCTION`, or the known parts of that.
fn frame_text(f: &StackFrame) -> String {
    let place = match (&f.file, f.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.clone(),
        (None, _) => String::new(),
    };
    let module = f.module.as_deref().unwrap_or(&f.addr);
    match f.symbol.as_deref() {
        Some(symbol) if place.is_empty() && symbol.starts_with('+') => format!("{module}{symbol}"),
        Some(symbol) if place.is_empty() => format!("{symbol} in {module}"),
        Some(symbol) if !symbol.starts_with('+') => format!("{place} in {symbol}"),
        _ if place.is_empty() => module.to_owned(),
        _ => format!("{place} in {module}"),
    }
}

/// The site of a stack, and whether it has a function name; `None` unless the stack is exact: frame pointers skip the
/// caller of a function that keeps none.
fn exact_site(model: &Model, stack: Option<StackId>) -> Option<(String, bool)> {
    let shown = shown(model, stack?, usize::MAX).filter(|s| s.exact)?;
    Some((shown.site?, shown.named))
}

/// Splits items by the code site that they come from.
///
/// A part is kept if `stands_alone` accepts it as a finding of its own. Items of other or unknown sites join the largest
/// part. With fewer than two parts all items stay together.
pub(crate) fn parts<T>(
    model: &Model,
    items: Vec<T>,
    stack: impl Fn(&T) -> Option<StackId>,
    stands_alone: impl Fn(&[T]) -> bool,
) -> Vec<Vec<T>> {
    let sites: Vec<Option<(String, bool)>> = items.iter().map(|item| exact_site(model, stack(item))).collect();
    // A site whose function name was resolved too late is not a different site.
    let any_named = sites.iter().flatten().any(|(_, named)| *named);
    let mut by: BTreeMap<Option<String>, Vec<(usize, T)>> = BTreeMap::new();
    for (at, (item, site)) in items.into_iter().zip(sites).enumerate() {
        let site = site.filter(|(_, named)| *named || !any_named).map(|(site, _)| site);
        by.entry(site).or_default().push((at, item));
    }
    let (mut out, mut rest) = (Vec::new(), Vec::new());
    for (site, part) in by {
        let (order, part): (Vec<usize>, Vec<T>) = part.into_iter().unzip();
        let kept = site.is_some() && stands_alone(&part);
        let part: Vec<(usize, T)> = order.into_iter().zip(part).collect();
        if kept { out.push(part) } else { rest.extend(part) }
    }
    if out.len() < 2 {
        rest.extend(out.drain(..).flatten());
    }
    // Of two equally large parts take the one that came first: redaction may replace names, so they must not decide.
    match out.iter_mut().max_by_key(|p| (p.len(), std::cmp::Reverse(p.first().map(|(at, _)| *at)))) {
        Some(largest) => largest.extend(rest),
        None => out.push(rest),
    }
    let in_order = |mut part: Vec<(usize, T)>| {
        part.sort_by_key(|(at, _)| *at);
        part.into_iter().map(|(_, item)| item).collect()
    };
    out.into_iter().map(in_order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Stream;
    use tracer_record::{Frame, Place, Record};

    fn frame(module: &str, symbol: &str, file: Option<&str>) -> StackFrame {
        StackFrame {
            addr: "0x1".into(),
            symbol: Some(symbol.into()),
            file: file.map(Into::into),
            line: file.map(|_| 7),
            module: (!module.is_empty()).then(|| module.into()),
            inlined: false,
        }
    }

    #[test]
    fn whose_code_a_frame_is() {
        for (module, file, want) in [
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", None, true),
            ("/lib/libc-2.31.so (deleted)", None, true),
            ("/lib64/ld-linux-x86-64.so.2", None, true),
            ("[vdso]", None, true),
            ("/opt/app", Some("/rustc/abc/library/core/src/ops/function.rs"), true),
            ("/opt/app", Some("/src/app/main.rs"), false),
            ("/opt/libcache.so", None, false),
            ("/opt/ldap", None, false),
            ("", None, false),
        ] {
            assert_eq!(is_system(&frame(module, "f", file)), want, "{module} {file:?}");
        }
        assert!(is_system(&frame("/opt/app", "std::vector<int>::push_back(int&&)", None)));
        assert!(!is_system(&frame("/opt/app", "stdio_pool", None)));
    }

    #[test]
    fn the_first_own_frame_as_text() {
        let libc = frame("/lib/libc.so.6", "semget", None);
        let std = frame("/opt/app", "core::ops::call", Some("/rustc/abc/library/core/src/ops.rs"));
        let work = frame("/opt/app", "work", Some("/src/app.rs"));
        let all = [libc.clone(), std, work.clone()];
        assert_eq!(all.iter().position(is_own), Some(2));
        assert!(!is_own(&StackFrame { addr: "0x1".into(), ..StackFrame::default() }));
        assert_eq!(frame_text(&work), "/src/app.rs:7 in work");
        assert_eq!(frame_text(&frame("/opt/app", "work", None)), "work in /opt/app");
        assert_eq!(frame_text(&frame("/opt/app", "+0x10", None)), "/opt/app+0x10");
        assert_eq!(frame_text(&frame("/opt/app", "+0x10", Some("a.c"))), "a.c:7 in /opt/app");
    }

    #[test]
    fn parts_by_line() {
        let mut s = Stream::new();
        let stack = |s: &mut Stream, id: i32, line: u32, unwound| {
            let frame = |module: &str| Frame { addr: 1, module: Some(module.into()), offset: Some(1) };
            s.record(Record::Stack { id, frames: vec![frame("/lib/libc.so.6"), frame("/opt/app")], unwound });
            let place =
                Place { function: Some("f".into()), file: Some("a.c".into()), line: Some(line), inlined: false };
            s.record(Record::Symbols { id, places: vec![vec![], vec![place]] });
        };
        // Two stacks of line 7, one of line 8, one that may lack frames.
        for (id, line, unwound) in [(1, 7, 2), (2, 7, 2), (3, 8, 2), (4, 9, 1)] {
            stack(&mut s, id, line, unwound);
        }
        let model = s.model(1_000);
        let split = |ids: &[i32], least: usize| {
            parts(&model, ids.to_vec(), |id| (*id >= 0).then_some(StackId(*id)), |part| part.len() >= least)
        };
        assert_eq!(split(&[3, 1, 2, 1], 1), [vec![1, 2, 1], vec![3]]);
        // One that would not stand alone, one of an unknown line, and one that is not exact.
        assert_eq!(split(&[3, 1, 2, -1, 4], 2), [vec![3, 1, 2, -1, 4]]);
        assert_eq!(split(&[3, 3, 1, 2, 1, -1, 4], 2), [vec![1, 2, 1, -1, 4], vec![3, 3]]);
        assert_eq!(split(&[-1, 4], 1), [vec![-1, 4]]);
        // Names missing for one stack of a line, and for all.
        let unnamed = |s: &mut Stream, id: i32, offset: u64| {
            let frame = Frame { addr: 1, module: Some("/opt/app".into()), offset: Some(offset) };
            s.record(Record::Stack { id, frames: vec![frame], unwound: 1 });
        };
        unnamed(&mut s, 5, 1);
        unnamed(&mut s, 6, 2);
        let model = s.model(1_000);
        let split = |ids: &[i32]| parts(&model, ids.to_vec(), |id| Some(StackId(*id)), |_| true);
        assert_eq!(split(&[1, 5, 2, 3]), [vec![1, 5, 2], vec![3]]);
        assert_eq!(split(&[1, 5, 2]), [vec![1, 5, 2]]);
        assert_eq!(split(&[5, 6]), [vec![5], vec![6]]);
    }
}
