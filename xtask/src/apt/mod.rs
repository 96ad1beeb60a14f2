//! Debian packages: those of this machine, and those of other suites from a private apt root.
//!
//! The private root has its own sources, lists and cache, and changes nothing on the machine.
//! It uses the machine's mirror, proxy and keyrings, and apt checks every signature.

pub(crate) mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine::{Machine, find_on_path, stdout_of};
use crate::step::Step;
use sources::{Source, Suite};

/// A private apt root with the lists of some suites. Its folder is removed on drop.
pub(crate) struct PrivateRoot {
    folder: tempfile::TempDir,
}

/// A package in a private root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The names in its `Depends` field, without versions and alternatives.
    pub(crate) depends: Vec<String>,
    /// The size of the download, in bytes.
    pub(crate) size_bytes: u64,
}

impl PrivateRoot {
    /// Fetches the package lists of `suites` from the machine's own mirror.
    pub(crate) fn open(machine: &Machine, step: &Step, suites: &[Suite]) -> Result<Self> {
        if find_on_path("apt-get").is_none() {
            bail!("this machine has no apt");
        }
        let text = sources::derive(&machine_sources()?, &codename()?, suites)?;
        fs::create_dir_all(&machine.cache).with_context(|| format!("cannot create {}", machine.cache.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("apt-")
            .tempdir_in(&machine.cache)
            .context("cannot create a private apt root")?;
        let root = Self { folder };
        for folder in ["lists/partial", "cache/archives/partial", "empty"] {
            fs::create_dir_all(root.path(folder))?;
        }
        fs::write(root.path("status"), "")?;
        fs::write(root.path("private.sources"), text)?;
        fs::write(root.path("apt.conf"), root.config())?;
        let names: Vec<&str> = suites.iter().map(|suite| suite.name).collect();
        step.now(&format!("package lists of {}", names.join(", ")));
        // A suite that is gone from the mirror fails the update, but the others are usable. A package that is
        // missing then is an error of its own.
        let (status, tail) = step.capture(root.apt("apt-get").arg("update"), &mut |_| {})?;
        if !status.success() && root.names("")?.is_empty() {
            bail!(
                "apt cannot read the package lists of {}: {}",
                names.join(", "),
                tail.last().map_or("no output", String::as_str)
            );
        }
        Ok(root)
    }

    /// The names of all packages that start with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = stdout_of(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// All versions of a package; empty if there is none.
    pub(crate) fn versions(&self, name: &str) -> Result<Vec<Package>> {
        // apt-cache fails if a package is unknown, which is no error here.
        let output = self.apt("apt-cache").args(["show", name]).output().context("cannot run apt-cache")?;
        Ok(parse_packages(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads packages and unpacks them all into `target`.
    pub(crate) fn unpack(&self, step: &Step, packages: &[Package], target: &Path) -> Result<()> {
        let downloads = self.path("downloads");
        fs::create_dir_all(&downloads)?;
        let total = packages.iter().map(|package| package.size_bytes).sum();
        let mut download = self.apt("apt-get");
        download.arg("download").current_dir(&downloads);
        for package in packages {
            download.arg(format!("{}={}", package.name, package.version));
        }
        step.run_download(&mut download, &downloads, total)?;
        fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
        for entry in fs::read_dir(&downloads)? {
            let file = entry?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                step.now(&format!("unpacking {}", file.display()));
                step.run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(target))?;
                fs::remove_file(&file)?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.path("apt.conf"));
        command.env("LC_ALL", "C");
        command
    }

    /// The options that make the root private. apt reads them after the machine's own configuration, so proxy, keyrings
    /// and certificates stay in force.
    fn config(&self) -> String {
        let at = |name: &str| self.path(name).display().to_string();
        let mut config = String::new();
        // The machine's hooks clean and index the machine's state.
        for hook in [
            "APT::Update::Pre-Invoke",
            "APT::Update::Post-Invoke",
            "APT::Update::Post-Invoke-Success",
            "DPkg::Post-Invoke",
        ] {
            config.push_str(&format!("#clear {hook};\n"));
        }
        for (option, value) in [
            ("Dir::Etc::sourcelist", at("private.sources")),
            ("Dir::Etc::sourceparts", at("empty")),
            ("Dir::Etc::preferences", at("empty/preferences")),
            ("Dir::Etc::preferencesparts", at("empty")),
            ("Dir::State::status", at("status")),
            ("Dir::State::lists", at("lists")),
            ("Dir::Cache", at("cache")),
            // Some images disable these caches; without them each query parses all lists.
            ("Dir::Cache::pkgcache", "pkgcache.bin".to_owned()),
            ("Dir::Cache::srcpkgcache", "srcpkgcache.bin".to_owned()),
            // Compressing the lists takes longer than the rest of the update.
            ("Acquire::GzipIndexes", "false".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            // apt's own user has no access to a folder below a home.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            config.push_str(&format!("{option} \"{value}\";\n"));
        }
        for index in ["DEP-11", "DEP-11-icons", "DEP-11-icons-small", "Contents-deb"] {
            config.push_str(&format!("Acquire::IndexTargets::deb::{index}::DefaultEnabled \"false\";\n"));
        }
        config
    }
}

/// Whether a Debian package is installed on this machine.
pub(crate) fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Installs packages on this machine with its own apt, as root.
pub(crate) fn install(machine: &Machine, step: &Step, packages: &[&str]) -> Result<()> {
    if find_on_path("apt-get").is_none() {
        bail!("missing {}: install them with this machine's package manager", packages.join(", "));
    }
    let why = format!("apt-get install {}", packages.join(" "));
    let apt = |arguments: &[&str]| -> Result<Command> {
        let mut command = machine.as_root("env", &why)?;
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-y"]);
        command.args(arguments);
        Ok(command)
    };
    let mut arguments = vec!["install", "--no-install-recommends"];
    arguments.extend(packages);
    let (status, _) = step.capture(&mut apt(&arguments)?, &mut |_| {})?;
    if status.success() {
        return Ok(());
    }
    // Most often the lists are empty or old.
    step.now("apt-get update");
    step.capture(&mut apt(&["update"])?, &mut |_| {})?;
    step.run(&mut apt(&arguments)?).with_context(|| format!("run `{why}` by hand to see its messages"))
}

/// The machine's own sources, from the files that its apt configuration names.
fn machine_sources() -> Result<Vec<Source>> {
    let shell = stdout_of(Command::new("apt-config").args([
        "shell",
        "LIST",
        "Dir::Etc::sourcelist/f",
        "PARTS",
        "Dir::Etc::sourceparts/d",
    ]))?;
    let value = |name: &str| {
        shell
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|quoted| PathBuf::from(quoted.trim_matches('\'')))
    };
    let mut files: Vec<PathBuf> = value("LIST").into_iter().collect();
    if let Some(parts) = value("PARTS")
        && let Ok(entries) = fs::read_dir(&parts)
    {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        // A missing or unreadable file does not affect the others.
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(sources::parse_deb822(&text)),
            Some("list") => sources.extend(sources::parse_list(&text)),
            Some(_) | None => {}
        }
    }
    Ok(sources)
}

/// The machine's Debian release, such as `bookworm`.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"').to_owned())
    };
    match value("ID").as_deref() {
        Some("debian") => Ok(value("VERSION_CODENAME").unwrap_or_else(|| "sid".to_owned())),
        other => bail!("this machine runs {}, not Debian", other.unwrap_or("an unknown distribution")),
    }
}

/// Parses the output of `apt-cache show`.
fn parse_packages(text: &str) -> Vec<Package> {
    text.split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let depends = field("Depends").unwrap_or_default();
            Some(Package {
                name: field("Package")?.to_owned(),
                version: field("Version")?.to_owned(),
                depends: depends
                    .split([',', '|'])
                    .filter_map(|item| item.split_whitespace().next())
                    .map(str::to_owned)
                    .collect(),
                size_bytes: field("Size").and_then(|size| size.parse().ok()).unwrap_or(0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_parsed() {
        let text = "Package: a\nVersion: 1\nDepends: b (= 1), c | d\nSize: 12\n\nPackage: a\n\
            Version: 2\n\n";
        let packages = parse_packages(text);
        assert_eq!(packages.len(), 2);
        assert_eq!(packages[0].depends, ["b", "c", "d"]);
        assert_eq!(packages[0].size_bytes, 12);
        assert_eq!(packages[1].version, "2");
    }

    #[test]
    fn an_empty_answer_holds_no_package() {
        assert!(parse_packages("").is_empty());
    }
}
