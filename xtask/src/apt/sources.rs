//! The machine's own apt sources, parsed: its mirror and the keyring of that mirror.
//!
//! Pure: text in, sources out. The mirror's name always comes from the machine.

use anyhow::{Context, Result};

/// One enabled `deb` source, in the fields of the deb822 format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    fields: Vec<(String, String)>,
}

/// The two archives of a Debian mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Archive {
    Main,
    Security,
}

/// A suite of one of the archives, such as `trixie-backports` of the main archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) archive: Archive,
    pub(crate) name: &'static str,
}

impl Source {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.field(name).unwrap_or_default().split_whitespace()
    }

    /// The distribution's archive that this source is, if it is one of the two.
    fn archive(&self, codename: &str) -> Option<Archive> {
        // Only the distribution's archives have the component `main` of its suites.
        if !self.words("Components").any(|word| word == "main") {
            return None;
        }
        let rolling = ["stable", "oldstable", "testing", "unstable", "sid"];
        self.words("Suites").find_map(|suite| {
            let base = suite.strip_suffix("-security");
            let name = base.unwrap_or(suite);
            (name == codename || rolling.contains(&name)).then_some(match base {
                Some(_) => Archive::Security,
                None => Archive::Main,
            })
        })
    }

    /// The same source, with another suite, in the deb822 format.
    fn with_suite(&self, suite: &str) -> String {
        let mut text = format!("Types: deb\nSuites: {suite}\nComponents: main\n");
        for (key, value) in &self.fields {
            // Never `Trusted`, which disables the signature check.
            let kept = ["URIs", "Signed-By", "Check-Valid-Until"];
            if kept.iter().any(|name| name.eq_ignore_ascii_case(key)) {
                text.push_str(&format!("{key}: {value}\n"));
            }
        }
        text
    }
}

/// Parses a `.sources` file (deb822).
pub(crate) fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            let source = Source { fields: std::mem::take(&mut fields) };
            let disabled = source.field("Enabled").is_some_and(|value| ["no", "false", "0"].contains(&value.trim()));
            if source.words("Types").any(|word| word == "deb") && !disabled {
                sources.push(source);
            }
        } else if line.starts_with([' ', '\t']) {
            // A continuation line: an embedded key, or a long list.
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    sources
}

/// Parses a `.list` file (one line a source).
pub(crate) fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    // `deb-src` is another type.
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    let rest = rest.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?;
    let suite = words.next()?;
    let mut fields = vec![
        ("Types".to_owned(), "deb".to_owned()),
        ("URIs".to_owned(), uri.to_owned()),
        ("Suites".to_owned(), suite.to_owned()),
        ("Components".to_owned(), words.collect::<Vec<_>>().join(" ")),
    ];
    for option in options.split_whitespace() {
        if let Some((key, value)) = option.split_once('=') {
            fields.push((key.to_owned(), value.replace(',', " ")));
        }
    }
    Some(Source { fields })
}

/// Sources of other suites on the machine's own mirrors.
pub(crate) fn derive(sources: &[Source], codename: &str, suites: &[Suite]) -> Result<String> {
    let mut stanzas = Vec::new();
    for suite in suites {
        let source = sources.iter().find(|source| source.archive(codename) == Some(suite.archive));
        if let Some(source) = source {
            stanzas.push(source.with_suite(suite.name));
        }
    }
    // A machine without the security archive still has the main one.
    (!stanzas.is_empty())
        .then(|| stanzas.join("\n"))
        .with_context(|| format!("this machine's apt sources have no Debian mirror for `{codename}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment inside the stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/archive.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
Trusted: yes

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main
";

    fn suite(archive: Archive, name: &'static str) -> Suite {
        Suite { archive, name }
    }

    #[test]
    fn another_suite_keeps_mirror_and_keyring() -> Result<()> {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2, "the disabled stanza is left out");
        let text = derive(&sources, "bookworm", &[suite(Archive::Main, "trixie")])?;
        assert_eq!(
            text,
            "Types: deb\nSuites: trixie\nComponents: main\nURIs: http://mirror.example/debian\n\
             Signed-By: /usr/share/keyrings/archive.gpg\n"
        );
        Ok(())
    }

    #[test]
    fn an_embedded_key_is_kept_and_trusted_is_not() -> Result<()> {
        let sources = parse_deb822(DEB822);
        let suites = [suite(Archive::Security, "bullseye-security")];
        let text = derive(&sources, "bookworm", &suites)?;
        assert!(text.contains("URIs: http://mirror.example/debian-security\n"));
        assert!(text.contains("\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n"));
        assert!(!text.to_lowercase().contains("trusted"));
        Ok(())
    }

    #[test]
    fn one_line_sources_are_read() -> Result<()> {
        let list = "deb-src http://m.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main # c\n\
            deb http://m.example/other other-bookworm main\n";
        let sources = parse_list(list);
        assert_eq!(sources.len(), 2);
        let text = derive(&sources, "bookworm", &[suite(Archive::Main, "sid")])?;
        assert!(text.contains("URIs: http://m.example/debian\n"), "{text}");
        assert!(text.contains("signed-by: /k.gpg\n"), "{text}");
        Ok(())
    }

    #[test]
    fn without_a_mirror_of_this_release_there_is_an_error() {
        let sources = parse_list("deb http://m.example/tool tool-suite main\n");
        assert!(derive(&sources, "bookworm", &[suite(Archive::Main, "sid")]).is_err());
    }
}
