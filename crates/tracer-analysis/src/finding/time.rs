//! Times as text: calendar times from the boot clock, and durations. Nothing here reads a clock.

use std::fmt::Write;

use tracer_record::Session;

const NS_PER_S: i128 = 1_000_000_000;
const S_PER_DAY: i128 = 86_400;

/// Calendar time (RFC 3339, UTC, milliseconds) of a boot clock time in nanoseconds.
pub fn rfc3339(session: &Session, boot_ns: u64) -> String {
    wall_rfc3339(i128::from(session.wall_ns) - i128::from(session.start_ns) + i128::from(boot_ns))
}

/// Calendar time of nanoseconds since 1970, truncated to milliseconds.
/// RFC 3339 has the years 0 to 9999; other times are clamped to them.
pub fn wall_rfc3339(ns: i128) -> String {
    let (mut text, below) = to_the_second(ns);
    // Writing to a String cannot fail.
    let _ = write!(text, ".{:03}Z", below / 1_000_000);
    text
}

/// As [`wall_rfc3339`], with all nanoseconds.
pub fn wall_rfc3339_ns(ns: i128) -> String {
    let (mut text, below) = to_the_second(ns);
    let _ = write!(text, ".{below:09}Z");
    text
}

/// Parses what [`wall_rfc3339`] and [`wall_rfc3339_ns`] write into nanoseconds since 1970; `None` for anything else.
pub fn parse_rfc3339(text: &str) -> Option<i128> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, below) = time.split_once('.')?;
    let three = |text: &str, by: char| -> Option<[i128; 3]> {
        let mut parts = text.split(by).map(|part| part.parse::<u32>().map(i128::from));
        let all = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
        parts.next().is_none().then_some(all)
    };
    let ([year, month, day], [h, m, s]) = (three(date, '-')?, three(time, ':')?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !matches!(below.len(), 3 | 9) {
        return None;
    }
    let below = i128::from(below.parse::<u32>().ok()?) * if below.len() == 3 { 1_000_000 } else { 1 };
    let seconds = days(year, month, day) * S_PER_DAY + h * 3600 + m * 60 + s;
    Some(seconds * NS_PER_S + below)
}

/// Days since 1970-01-01: the inverse of [`civil`].
fn days(year: i128, month: i128, day: i128) -> i128 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The text up to the second, and the remaining nanoseconds.
fn to_the_second(ns: i128) -> (String, i128) {
    let first = -62_167_219_200 * NS_PER_S;
    let last = 253_402_300_800 * NS_PER_S - 1;
    let ns = ns.clamp(first, last);
    let (seconds, below) = (ns.div_euclid(NS_PER_S), ns.rem_euclid(NS_PER_S));
    let (days, second) = (seconds.div_euclid(S_PER_DAY), seconds.rem_euclid(S_PER_DAY));
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    (format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}"), below)
}

/// (year, month, day) of days since 1970-01-01 in the Gregorian calendar.
/// Years are counted from March, so that the leap day is the last one; 400 years have 146,097 days.
fn civil(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 = March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next, month, day)
}

/// Milliseconds truncated to microseconds; further digits are noise.
#[allow(clippy::cast_precision_loss)] // microseconds stay exact for 285 years
pub fn milliseconds(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1_000.0
}

/// As [`seconds`], of nanoseconds.
#[allow(clippy::cast_precision_loss)] // three digits are shown
pub fn duration(ns: u64) -> String {
    seconds(ns as f64 / 1e9)
}

/// Seconds in the largest unit that fits, with at most three digits: `350 ms`, `8.23 s`, `12 min`, `3.5 h`, `2.1 days`.
pub fn seconds(s: f64) -> String {
    let (value, unit) = match s.abs() {
        a if a < 1e-3 && a > 0.0 => (s * 1e6, "µs"),
        a if a < 1.0 => (s * 1e3, "ms"),
        a if a < 120.0 => (s, "s"),
        a if a < 7_200.0 => (s / 60.0, "min"),
        a if a < 172_800.0 => (s / 3_600.0, "h"),
        _ => (s / 86_400.0, "days"),
    };
    let digits = match value.abs() {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => return format!("{value:.0} {unit}"),
    };
    let text = format!("{value:.digits$}");
    format!("{} {unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (s, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_396_175_618, "2014-03-30T10:33:38.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000Z"),
            (999_999_999_999, "9999-12-31T23:59:59.999Z"),
            (-62_167_219_200, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(wall_rfc3339(s * NS_PER_S), want);
        }
        assert_eq!(wall_rfc3339(1_999_999), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn days_are_consecutive() {
        let mut before = civil(-800_000);
        for day in -799_999..800_000 {
            let (y, m, d) = civil(day);
            let leap = before.0 % 4 == 0 && (before.0 % 100 != 0 || before.0 % 400 == 0);
            let len = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][before.1 as usize - 1];
            let want = if before.2 < len {
                (before.0, before.1, before.2 + 1)
            } else if before.1 < 12 {
                (before.0, before.1 + 1, 1)
            } else {
                (before.0 + 1, 1, 1)
            };
            assert_eq!((y, m, d), want);
            assert_eq!(days(y, m, d), day);
            before = (y, m, d);
        }
    }

    #[test]
    fn written_times_parse_back() {
        for ns in [0, 1, 999_999_999, 1_396_175_618_123_456_789, -1, 253_402_300_799_999_999_999] {
            assert_eq!(parse_rfc3339(&wall_rfc3339_ns(ns)), Some(ns));
            assert_eq!(parse_rfc3339(&wall_rfc3339(ns)), Some(ns.div_euclid(1_000_000) * 1_000_000));
        }
        for text in ["", "Z", "1970-01-01T00:00:00Z", "1970-13-01T00:00:00.000Z", "1970-01-01T00:00:00.0Z", "-1-1T:Z"] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn relative_to_the_session() {
        let session = Session { start_ns: 100 * 1_000_000_000, wall_ns: 1_000 * 1_000_000_000, ..Session::default() };
        assert_eq!(rfc3339(&session, 100 * 1_000_000_000), "1970-01-01T00:16:40.000Z");
        assert_eq!(rfc3339(&session, 0), "1970-01-01T00:15:00.000Z");
        assert_eq!(rfc3339(&Session { start_ns: u64::MAX, ..session }, 0).len(), 24);
    }

    #[test]
    fn durations() {
        for (s, want) in [
            (0.0, "0 ms"),
            (0.05, "50 ms"),
            (1.0, "1 s"),
            (59.94, "59.9 s"),
            (180.0, "3 min"),
            (86_400.0, "24 h"),
            (0.501_4, "501 ms"),
            (0.1, "100 ms"),
            (10_000_000.0, "116 days"),
        ] {
            assert_eq!(seconds(s), want);
        }
    }
}
