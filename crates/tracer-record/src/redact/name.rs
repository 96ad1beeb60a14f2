//! Tokens for names, and the parts of a name that stay because the analysis reads them.

use std::borrow::Cow;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::public;
use crate::library::{LIBRARY, SYSTEM, module_stem};

/// Hexadecimal digits of a token.
const DIGITS: usize = 10;
/// Letters of the token of a first word.
const LETTERS: usize = 6;
/// Bytes of a file's name that the kernel half sends: a longer one is cut, and then known by its beginning.
const CUT: usize = 31;
/// Bytes of a path in `sun_path`, without the zero at its end.
const SUN_PATH: usize = 107;
/// The suffix of a link or a mapping whose file has no name any more.
const DELETED: &str = " (deleted)";

/// The names of one trace. Equal names get equal tokens; without the key nobody can try names out.
#[derive(Clone)]
pub(crate) struct Names {
    hasher: SipHasher24,
}

impl Names {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self { hasher: SipHasher24::new_with_key(key) }
    }

    fn hash(&self, domain: u8, text: &str) -> u128 {
        let mut hasher = self.hasher;
        std::hash::Hasher::write(&mut hasher, &[domain]);
        std::hash::Hasher::write(&mut hasher, text.as_bytes());
        hasher.finish128().as_u128()
    }

    /// The digits of a name.
    fn digits(&self, text: &str, n: usize) -> String {
        let mut digits = format!("{:032x}", self.hash(b'n', text));
        digits.truncate(n);
        digits
    }

    /// Two hashes one behind the other: as many digits as an id has.
    pub(crate) fn long_digits(&self, text: &str, n: usize) -> String {
        let mut digits = format!("{:032x}{:032x}", self.hash(b'1', text), self.hash(b'2', text));
        digits.truncate(n);
        digits
    }

    /// A token for a whole name, that of a host or a process, after the prefix `kind`. Empty stays empty.
    pub(crate) fn whole(&self, kind: &str, text: &str) -> String {
        if text.is_empty() { String::new() } else { format!("{kind}-{}", self.digits(text, DIGITS)) }
    }

    /// A process's or thread's name; the token has the 15 bytes that such a name may have.
    pub(crate) fn comm(&self, text: &str) -> String {
        self.whole("comm", text)
    }

    /// A path, part by part, also one that is not absolute.
    pub(crate) fn path(&self, path: &str) -> String {
        let mut out = String::with_capacity(path.len());
        for (i, part) in path.split('/').enumerate() {
            if i > 0 {
                out.push('/');
            }
            out.push_str(&self.part(part));
        }
        out
    }

    /// The target of a descriptor's link, the file of a mapping, or a program.
    pub(crate) fn link(&self, link: &str) -> String {
        let (name, deleted) = link.strip_suffix(DELETED).map_or((link, ""), |name| (name, DELETED));
        match name.strip_prefix("anon_inode:") {
            Some(name) => format!("anon_inode:{}{deleted}", self.part(name)),
            None => self.path(name) + deleted,
        }
    }

    /// A part of a path, or the last one alone, as the kernel half sends it: both must come out alike.
    pub(crate) fn part(&self, part: &str) -> String {
        if part.is_empty() || public::is_name(part) {
            return part.to_owned();
        }
        // The meaning of these words must not be lost: memory without a file, a C library's semaphore, a library of the
        // system in a build of its own.
        let stem = module_stem(part);
        let library = SYSTEM.contains(&stem).then(|| part.get(..=stem.len())).flatten();
        let known = ["memfd:", "sem."].into_iter().chain(library).find_map(|k| Some((k, part.strip_prefix(k)?)));
        match known {
            Some((known, rest)) if public::is_name(rest) => format!("{known}{rest}"),
            Some((known, rest)) => format!("{known}{}", self.token(rest, CUT.saturating_sub(known.len()))),
            None => self.token(part, CUT),
        }
    }

    /// The name of a POSIX object, with its leading slash: equal words get equal tokens in all of them.
    pub(crate) fn posix(&self, name: &str) -> String {
        match name.strip_prefix('/') {
            Some(name) => format!("/{}", self.token(name, CUT)),
            None => self.token(name, CUT),
        }
    }

    /// A name of which `room` bytes may be known elsewhere: a longer one begins with the token of its beginning.
    ///
    /// The first word stands before the dash, so that leftover names stay alike: `worker-1`, `worker-2`.
    fn token(&self, name: &str, room: usize) -> String {
        if name.is_empty() {
            return String::new();
        }
        let (head, rest) = cut(name, room);
        let word = self.word(head);
        if head.len() == name.len() && bytes_of(name) < room {
            return format!("{word}-{}", self.digits(name, DIGITS));
        }
        let digits = self.digits(head, room.saturating_sub(word.len() + 1));
        match rest {
            "" => format!("{word}-{digits}"),
            _ => format!("{word}-{digits}.{}", self.digits(name, DIGITS)),
        }
    }

    /// Letters for the first word of a name; nothing for a name that begins with no word.
    fn word(&self, name: &str) -> String {
        let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
        let first = name.get(..end).unwrap_or(name);
        if first.is_empty() {
            return "0".repeat(LETTERS);
        }
        let mut left = self.hash(b'w', first);
        let letter = |_| {
            let at = u8::try_from(left % 26).unwrap_or(0);
            left /= 26;
            char::from(b'a' + at)
        };
        (0..LETTERS).map(letter).collect()
    }

    /// The name of a unix socket: a path, or an abstract name behind an `@`.
    pub(crate) fn socket(&self, name: &str) -> String {
        if let Some(name) = name.strip_prefix('@') {
            return format!("@{}", self.token(name, usize::MAX));
        }
        let path = self.path(name);
        if path.len() <= SUN_PATH { path } else { format!("/{}", self.token(name, usize::MAX)) }
    }

    /// A function's name stays. One with a path in it goes, all of it: where a path ends cannot be known.
    pub(crate) fn function(&self, name: &str) -> String {
        // Division, in C++.
        let bare = ["operator/(", "operator/=(", "operator/<"].iter().fold(Cow::from(name), |bare, division| {
            if bare.contains(division) { bare.replace(division, "").into() } else { bare }
        });
        if !bare.contains(['/', '\\']) {
            return name.to_owned();
        }
        let library = LIBRARY.iter().find(|l| name.starts_with(**l)).unwrap_or(&"");
        format!("{library}fn-{}", self.digits(name, DIGITS))
    }

    /// A kernel's release: the words of its builder go.
    pub(crate) fn kernel(&self, release: &str) -> String {
        let word = |word: &str| match public::is_kernel_word(word) {
            true => word.to_owned(),
            false => self.digits(word, DIGITS),
        };
        by_words(release, |c| ".-+_~".contains(c), word)
    }

    /// The name of a host.
    pub(crate) fn host(&self, text: &str) -> String {
        self.whole("host", text)
    }

    /// A version of ipctrace.
    pub(crate) fn version(&self, text: &str) -> String {
        self.known(text, public::is_version)
    }

    pub(crate) fn architecture(&self, text: &str) -> String {
        self.known(text, public::is_architecture)
    }

    pub(crate) fn site(&self, text: &str) -> String {
        self.known(text, public::is_site)
    }

    pub(crate) fn mechanism(&self, text: &str) -> String {
        self.known(text, public::is_mechanism)
    }

    pub(crate) fn backend(&self, text: &str) -> String {
        self.known(text, public::is_backend)
    }

    /// The name of a limit.
    pub(crate) fn limit(&self, text: &str) -> String {
        self.known(text, public::is_limit)
    }

    /// A word of a fixed set; one that is not in it is somebody's name.
    fn known(&self, text: &str, is_known: impl FnOnce(&str) -> bool) -> String {
        if is_known(text) { text.to_owned() } else { self.whole("name", text) }
    }

    /// A sentence of ipctrace: of its own words and numbers all stay, of others none.
    pub(crate) fn sentence(&self, sentence: &str) -> String {
        let is_punctuation = |c: char| "(),;:\"".contains(c);
        by_words(sentence, char::is_whitespace, |word| {
            let core = word.trim_matches(is_punctuation);
            let Some(at) = word.find(core).filter(|_| !core.is_empty()) else { return word.to_owned() };
            let token: Cow<'_, str> = if public::is_word(core) || core.split(':').all(public::is_word) {
                core.into()
            } else if core.starts_with('/') {
                self.path(core).into()
            } else {
                "[redacted]".into()
            };
            let (before, after) = (word.get(..at), word.get(at + core.len()..));
            format!("{}{token}{}", before.unwrap_or_default(), after.unwrap_or_default())
        })
    }
}

/// A text with its words changed and the separators between them kept.
fn by_words(text: &str, is_between: impl Fn(char) -> bool, change: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(&is_between) {
        let end = piece.char_indices().next_back().filter(|(_, c)| is_between(*c)).map_or(piece.len(), |(at, _)| at);
        let (word, between) = piece.split_at(end);
        if !word.is_empty() {
            out.push_str(&change(word));
        }
        out.push_str(between);
    }
    out
}

/// Bytes that a name had before invalid UTF-8 was replaced; one for each replacement, as in most encodings.
fn bytes_of(name: &str) -> usize {
    name.chars().map(bytes_of_char).sum()
}

fn bytes_of_char(c: char) -> usize {
    if c == char::REPLACEMENT_CHARACTER { 1 } else { c.len_utf8() }
}

/// The first `room` bytes of a name as it was, and what is behind them.
fn cut(name: &str, room: usize) -> (&str, &str) {
    let mut bytes: usize = 0;
    let behind = |(_, c): &(usize, char)| {
        bytes = bytes.saturating_add(bytes_of_char(*c));
        bytes > room
    };
    let at = name.char_indices().find(behind).map_or(name.len(), |(at, _)| at);
    name.split_at(at)
}

#[cfg(test)]
#[path = "name_tests.rs"]
mod tests;
