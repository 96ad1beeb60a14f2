//! Parsers of option values.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use tracer_common::site::Mechanism;

use tracer_analysis::detectors::DETECTORS;
use tracer_report::listing;

/// Finding codes that match a pattern.
#[derive(Debug, Clone)]
pub struct Codes(pub Vec<&'static str>);

/// An IPC namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    Own,
    Inode(u32),
}

/// Parses the name of one of `all`, each a value, its name and its help.
pub(super) fn choice<T: Copy + Send + Sync + 'static>(
    all: &'static [(T, &'static str, &'static str)],
) -> impl TypedValueParser<Value = T> {
    let shown = |(_, name, help): &(T, &'static str, &'static str)| {
        let value = PossibleValue::new(*name);
        if help.is_empty() { value } else { value.help(*help) }
    };
    PossibleValuesParser::new(all.iter().map(shown))
        .try_map(|name| all.iter().find(|c| c.1 == name).map(|c| c.0).ok_or("unknown name"))
}

/// Parses `250ms`, `10s`, `1.5s`, `5m`, `2h`; a bare number is in seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let value: f64 =
        number.parse().map_err(|_| "expected a number with a unit, for example 250ms or 10s".to_owned())?;
    let seconds = match unit {
        "us" => value / 1e6,
        "ms" => value / 1e3,
        "s" | "" => value,
        "m" | "min" => value * 60.0,
        "h" => value * 3600.0,
        other => return Err(format!("unknown unit {other:?}: use us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

pub(super) fn listed_kind(text: &str) -> Result<&'static str, String> {
    listing::kind(text).map(|k| k.name).ok_or_else(|| {
        let names: Vec<_> = listing::KINDS.iter().map(|k| k.name).collect();
        format!("no such kind of object; the kinds are {}", names.join(", "))
    })
}

pub(super) fn namespace(text: &str) -> Result<Namespace, String> {
    match text {
        "own" => Ok(Namespace::Own),
        number => number.parse().map(Namespace::Inode).map_err(|_| "expected an inode number, or own".to_owned()),
    }
}

pub(super) fn mode(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok().filter(|m| *m <= 0o777);
    bits.ok_or_else(|| "expected octal permission bits, 0 to 0777".to_owned())
}

/// Parses a key by its 32 bits: C prints keys as negative numbers, too. 0 is IPC_PRIVATE.
pub(super) fn key(text: &str) -> Result<i32, String> {
    let bits = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok().map(u32::cast_signed),
        None => text
            .parse::<i64>()
            .ok()
            .and_then(|n| i32::try_from(n).ok().or_else(|| u32::try_from(n).ok().map(u32::cast_signed))),
    };
    bits.filter(|k| *k != 0)
        .ok_or_else(|| "expected a 32-bit number other than 0, for example 0x5eed or 24301".to_owned())
}

pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: usize = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        other => return Err(format!("unknown unit {other:?}: use K, M or G")),
    };
    let count = number.parse::<usize>().ok().filter(|n| *n > 0).and_then(|n| n.checked_mul(factor));
    count.ok_or_else(|| "expected a number of bytes, for example 4096 or 16M".to_owned())
}

/// Parses the size of a part of a recording. The minimum leaves room for several times what each part begins with.
pub(super) fn part_bytes(text: &str) -> Result<u64, String> {
    at_least(text, 1 << 20, "1M")?.try_into().map_err(|_| "too large".to_owned())
}

/// Parses the memory of the flight recorder.
pub(super) fn memory_bytes(text: &str) -> Result<usize, String> {
    at_least(text, 4 << 20, "4M")
}

fn at_least(text: &str, least: usize, name: &str) -> Result<usize, String> {
    let n = bytes(text)?;
    if n < least { Err(format!("the minimum is {name}")) } else { Ok(n) }
}

/// Parses a finding code, or a pattern with one `*` at its start or end.
pub(super) fn codes(text: &str) -> Result<Codes, String> {
    let matches = |code: &str| match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(end), _) => code.ends_with(end),
        (_, Some(start)) => code.starts_with(start),
        (None, None) => code == text,
    };
    let found: Vec<_> = DETECTORS.iter().map(|d| d.code).filter(|c| matches(c)).collect();
    if found.is_empty() { code(text).map(|_| Codes(Vec::new())) } else { Ok(Codes(found)) }
}

pub(super) fn mechanism(text: &str) -> Result<Mechanism, String> {
    Mechanism::ALL.iter().copied().find(|m| m.name() == text).ok_or_else(|| {
        let names: Vec<_> = Mechanism::ALL.iter().map(|m| m.name()).collect();
        format!("no such mechanism; the mechanisms are {}", names.join(", "))
    })
}

pub(super) fn code(text: &str) -> Result<String, String> {
    if DETECTORS.iter().any(|d| d.code == text) {
        return Ok(text.to_owned());
    }
    let codes: Vec<_> = DETECTORS.iter().map(|d| d.code).collect();
    Err(format!("no such finding; the codes are {}", codes.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_modes_and_sizes() {
        for (text, want) in [
            ("0x0056a4d5", Some(0x0056_a4d5)),
            ("0xffffffff", Some(-1)),
            ("-1", Some(-1)),
            ("4294967295", Some(-1)),
            ("24301", Some(24301)),
            ("0", None),
            ("0x100000000", None),
            ("key", None),
        ] {
            assert_eq!(key(text).ok(), want, "{text}");
        }
        for (text, want) in [("0600", Some(0o600)), ("777", Some(0o777)), ("1777", None), ("8", None), ("", None)] {
            assert_eq!(mode(text).ok(), want, "{text}");
        }
        for (text, want) in
            [("1", Some(1)), ("4K", Some(4096)), ("0", None), ("1T", None), ("99999999999999999999", None)]
        {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn durations_take_units() {
        for (text, want) in [
            ("250ms", Some(Duration::from_millis(250))),
            ("10s", Some(Duration::from_secs(10))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("2", Some(Duration::from_secs(2))),
            ("5m", Some(Duration::from_secs(300))),
            ("-1s", None),
            ("5 parsecs", None),
            ("", None),
            ("1e30h", None),
        ] {
            assert_eq!(duration(text).ok(), want, "{text}");
        }
    }
}
