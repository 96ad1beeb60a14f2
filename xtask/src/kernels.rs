//! Kernels for VMs: Debian's cloud kernels of several releases, fetched through a private apt root and unpacked into the
//! cache. A cached kernel is never fetched again.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::sources::{Archive, Suite};
use crate::apt::{Package, PrivateRoot};
use crate::machine::{Arch, Machine, find_on_path};
use crate::step::Step;

/// A series of kernels; tests use its newest release.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// The value of `--kernel`.
    pub(crate) name: &'static str,
    /// Start of its releases; empty for `7.x`, every release from 7.0 on.
    prefix: &'static str,
    suites: &'static [Suite],
    /// Whether it is part of the matrix; other kernels run only on request.
    pub(crate) in_matrix: bool,
}

/// Oldest first. The build numbers come from the package lists.
pub(crate) const FAMILIES: [Family; 5] = [
    Family {
        name: "5.10",
        prefix: "5.10.",
        suites: &[main("bullseye"), security("bullseye-security")],
        in_matrix: true,
    },
    Family { name: "6.1", prefix: "6.1.", suites: &[main("bookworm"), security("bookworm-security")], in_matrix: true },
    Family { name: "6.12", prefix: "6.12.", suites: &[main("trixie"), security("trixie-security")], in_matrix: true },
    Family { name: "6.18", prefix: "6.18.", suites: &[main("trixie-backports")], in_matrix: false },
    Family { name: "7.x", prefix: "", suites: &[main("stable-backports"), main("unstable")], in_matrix: true },
];

const fn main(name: &'static str) -> Suite {
    Suite { archive: Archive::Main, name }
}

const fn security(name: &'static str) -> Suite {
    Suite { archive: Archive::Security, name }
}

/// A kernel in the cache, ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) family: &'static str,
    /// Its `uname -r`.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
}

impl Family {
    /// The family of `7`, `7.x`, `7.2` or `6.12`.
    pub(crate) fn named(name: &str) -> Result<&'static Self> {
        let exact = FAMILIES.iter().find(|family| family.name == name);
        let newest = FAMILIES.iter().find(|family| family.prefix.is_empty());
        let found = exact.or_else(|| newest.filter(|family| family.contains(&format!("{name}."))));
        found.with_context(|| {
            let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
            format!("no kernel family `{name}`: choose from {}", names.join(", "))
        })
    }

    fn contains(&self, release: &str) -> bool {
        if self.prefix.is_empty() {
            let major = release.split('.').next().unwrap_or_default();
            major.parse().is_ok_and(|major: u32| major >= 7)
        } else {
            release.starts_with(self.prefix)
        }
    }
}

/// The family's newest kernel in the cache.
pub(crate) fn find(machine: &Machine, family: &'static Family) -> Option<Kernel> {
    let entries = fs::read_dir(machine.cache.join("kernels")).ok()?;
    let mut releases: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|release| family.contains(release))
        .collect();
    releases.sort_by(|left, right| compare_releases(left, right));
    releases.into_iter().rev().find_map(|release| {
        let image = image_of(&machine.cache.join("kernels").join(&release), &release);
        image.is_file().then_some(Kernel { family: family.name, release, image })
    })
}

/// Returns the family's kernel; fetches it if the cache has none.
pub(crate) fn ensure(machine: &Machine, family: &'static Family, log_dir: &Path) -> Result<Kernel> {
    if let Some(found) = find(machine, family) {
        return Ok(found);
    }
    let step = Step::start(
        &format!("kernel {}", family.name),
        "Debian's cloud kernel for the VMs; downloads package lists and 25 to 60 MB, once",
        log_dir,
    )?;
    let kernel = fetch(machine, family, &step).with_context(|| {
        format!(
            "kernel {} is missing: give this machine access to its Debian mirror, or unpack a kernel \
             package into {}/kernels/RELEASE",
            family.name,
            machine.cache.display()
        )
    })?;
    step.done(&kernel.release);
    Ok(kernel)
}

fn fetch(machine: &Machine, family: &'static Family, step: &Step) -> Result<Kernel> {
    let root = PrivateRoot::open(machine, step, family.suites)?;
    let names = root.names("linux-image-")?;
    let Some((release, name)) = newest(family, machine.arch, &names) else {
        bail!("the mirror has no cloud kernel {}", family.name);
    };
    step.now(&format!("fetching {name}"));
    let package =
        newest_version(root.versions(&name)?).with_context(|| format!("the package lists do not describe {name}"))?;
    // In newer releases image and modules are separate packages.
    let mut packages = Vec::new();
    for dependency in &package.depends {
        let part = ["linux-binary-", "linux-modules-"]
            .iter()
            .any(|prefix| dependency.strip_prefix(prefix) == Some(release.as_str()));
        if part {
            packages.extend(newest_version(root.versions(dependency)?));
        }
    }
    packages.push(package);
    let kernels = machine.cache.join("kernels");
    fs::create_dir_all(&kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
    // Unpacked in a temporary folder and then moved, so that nobody finds half a kernel.
    let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(&kernels)?;
    root.unpack(step, &packages, partial.path())?;
    prepare_modules(step, partial.path(), &release)?;
    prepare_image(partial.path(), &release)?;
    let folder = kernels.join(&release);
    fs::rename(partial.keep(), &folder).with_context(|| format!("cannot move the kernel to {}", folder.display()))?;
    Ok(Kernel { family: family.name, image: image_of(&folder, &release), release })
}

/// Puts the modules below `lib/modules`, with the index that modprobe needs.
fn prepare_modules(step: &Step, folder: &Path, release: &str) -> Result<()> {
    if !folder.join("lib").exists() && folder.join("usr/lib/modules").is_dir() {
        std::os::unix::fs::symlink("usr/lib", folder.join("lib"))?;
    }
    let depmod = find_on_path("depmod").context("no depmod: apt-get install kmod")?;
    step.now("indexing the modules");
    step.run(Command::new(depmod).arg("-a").arg("-b").arg(folder).arg(release))
}

/// Links the image below `boot`, where older packages have it.
fn prepare_image(folder: &Path, release: &str) -> Result<()> {
    let image = image_of(folder, release);
    if image.is_file() {
        return Ok(());
    }
    let beside_modules = format!("usr/lib/modules/{release}/vmlinuz");
    if !folder.join(&beside_modules).is_file() {
        bail!("the packages of {release} contain no vmlinuz");
    }
    fs::create_dir_all(folder.join("boot"))?;
    std::os::unix::fs::symlink(Path::new("..").join(beside_modules), &image)
        .with_context(|| format!("cannot link {}", image.display()))
}

fn image_of(folder: &Path, release: &str) -> PathBuf {
    folder.join(format!("boot/vmlinuz-{release}"))
}

/// The newest release of the family among package names, and its package. Prefers signed packages; a suite may have
/// only unsigned ones.
fn newest(family: &Family, arch: Arch, names: &[String]) -> Option<(String, String)> {
    let flavour = format!("-cloud-{}", arch.debian());
    ["", "-unsigned"].iter().find_map(|signed| {
        let end = format!("{flavour}{signed}");
        names
            .iter()
            .filter_map(|name| {
                let base = name.strip_prefix("linux-image-")?.strip_suffix(&end)?;
                // `6.1` alone is a meta-package.
                let full = base.split('.').count() >= 3;
                (full && family.contains(base)).then(|| (format!("{base}{flavour}"), name.clone()))
            })
            .max_by(|left, right| compare_releases(&left.0, &right.0))
    })
}

fn newest_version(packages: Vec<Package>) -> Option<Package> {
    packages.into_iter().max_by(|left, right| compare_releases(&left.version, &right.version))
}

/// Compares releases by their numbers, so that 6.1.0-50 is newer than 6.1.0-9.
fn compare_releases(left: &str, right: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|character: char| !character.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(left).cmp(&numbers(right)).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_newest_release_of_a_family_is_taken() -> Result<()> {
        let names = names(&[
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-5.10.0-47-cloud-amd64-dbg",
            "linux-image-5.10.0-48-cloud-amd64-unsigned",
            "linux-image-5.10.0-49-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-7.2.13+deb14-cloud-amd64",
            "linux-image-7.2.9+deb13-cloud-amd64",
        ]);
        for (family, release) in [
            ("5.10", "5.10.0-46-cloud-amd64"),
            ("6.1", "6.1.0-0.deb11.52-cloud-amd64"),
            ("7.x", "7.2.13+deb14-cloud-amd64"),
        ] {
            let found = newest(Family::named(family)?, Arch::X86_64, &names);
            assert_eq!(found.map(|(release, _)| release).as_deref(), Some(release));
        }
        assert_eq!(newest(Family::named("6.12")?, Arch::X86_64, &names), None);
        Ok(())
    }

    #[test]
    fn an_unsigned_kernel_is_used_if_there_is_no_signed_one() -> Result<()> {
        let names = names(&["linux-image-7.3.4+deb14-cloud-amd64-unsigned"]);
        let found = newest(Family::named("7")?, Arch::X86_64, &names);
        assert_eq!(
            found,
            Some(("7.3.4+deb14-cloud-amd64".to_owned(), "linux-image-7.3.4+deb14-cloud-amd64-unsigned".to_owned()))
        );
        Ok(())
    }

    #[test]
    fn families_are_named_as_people_do() -> Result<()> {
        assert_eq!(Family::named("7.2")?.name, "7.x");
        assert_eq!(Family::named("6.1")?.name, "6.1");
        assert!(Family::named("4.19").is_err());
        Ok(())
    }

    #[test]
    fn families_do_not_overlap() {
        for release in ["5.10.0-46-x", "6.1.0-50-x", "6.12.107-x", "6.18.15-x", "7.2.13-x"] {
            let holders = FAMILIES.iter().filter(|family| family.contains(release));
            assert_eq!(holders.count(), 1, "{release}");
        }
    }

    #[test]
    fn the_matrix_runs_from_the_oldest_to_the_newest() {
        assert!(FAMILIES[0].in_matrix);
        assert!(FAMILIES[FAMILIES.len() - 1].in_matrix);
    }
}
