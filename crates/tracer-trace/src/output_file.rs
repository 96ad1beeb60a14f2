//! Creates output files. It must not follow a symbolic link, which may lead anywhere: ipctrace runs as root.
//!
//! A trace is readable by its owner only, and replaces another file only on request. A report can be written again, so it
//! replaces an older one, with the permissions of other files.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file was not created. The message includes the cause, which is therefore no source of the error.
#[derive(Debug, thiserror::Error)]
pub enum OutputFileError {
    #[error("{path:?} exists; give another name, or --force to replace it")]
    Exists { path: PathBuf },
    #[error("{path:?} is a symbolic link, which ipctrace does not follow; give the name of a regular file")]
    Symlink { path: PathBuf },
    #[error("{path:?} is not a regular file; give another name")]
    NotRegular { path: PathBuf },
    #[error("cannot create {path:?}: {cause}; choose a directory that exists, is writable and has space")]
    Create { path: PathBuf, cause: io::Error },
}

/// Creates a file with these first bytes. With `force` it replaces a regular file of that name in one step.
///
/// # Errors
/// The file exists and `force` is not set, is a symbolic link or no regular file, or cannot be created.
pub fn create(path: &Path, force: bool, bytes: &[u8]) -> Result<File, OutputFileError> {
    let fail = |cause| OutputFileError::Create { path: path.to_owned(), cause };
    match open(path, OWN) {
        Ok(mut file) => file.write_all(bytes).map(|()| file).map_err(|e| {
            // This call created it, and it is incomplete; report the first error.
            let _ = std::fs::remove_file(path);
            fail(e)
        }),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            check(path, force)?;
            replace(path, bytes, OWN).map_err(fail)
        }
        Err(e) => Err(fail(e)),
    }
}

/// Checks before a long run whether [`create`] would refuse this name now.
///
/// # Errors
/// As [`create`], except for failures of the creation itself.
pub fn check(path: &Path, force: bool) -> Result<(), OutputFileError> {
    let path = path.to_owned();
    match std::fs::symlink_metadata(&path).map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_symlink() => Err(OutputFileError::Symlink { path }),
        Ok(kind) if !kind.is_file() => Err(OutputFileError::NotRegular { path }),
        Ok(_) if !force => Err(OutputFileError::Exists { path }),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && folder(&path).is_dir() => Ok(()),
        Err(cause) => Err(OutputFileError::Create { path, cause }),
    }
}

/// Writes a report: to a new file, in place of a regular file, or to an existing device or FIFO (`/dev/null`).
///
/// # Errors
/// As [`check_report`], or the write failed; then an older file of that name is unchanged.
pub fn write_report(path: &Path, text: &[u8]) -> Result<(), OutputFileError> {
    let fail = |cause| OutputFileError::Create { path: path.to_owned(), cause };
    if is_stream(path) {
        let flags = libc::O_NOFOLLOW | libc::O_NOCTTY;
        let mut stream = OpenOptions::new().write(true).custom_flags(flags).open(path).map_err(fail)?;
        return stream.write_all(text).map_err(fail);
    }
    check(path, true)?;
    replace(path, text, SHARED).map(|_| ()).map_err(fail)
}

/// Checks whether [`write_report`] would refuse this name now.
///
/// # Errors
/// The name is a symbolic link, a directory, a block device or a socket, or its directory does not exist.
pub fn check_report(path: &Path) -> Result<(), OutputFileError> {
    if is_stream(path) { Ok(()) } else { check(path, true) }
}

fn is_stream(path: &Path) -> bool {
    let kind = std::fs::symlink_metadata(path).map(|meta| meta.file_type());
    kind.is_ok_and(|kind| kind.is_char_device() || kind.is_fifo())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Permissions of a new file, before the umask.
const OWN: u32 = 0o600;
const SHARED: u32 = 0o666;

/// O_EXCL: fails if the name exists in any form, also as a link.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Writes a new file and renames it over the old one; a rename never follows a link.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let mut file = open(&temporary, mode)?;
    let renamed = file.write_all(bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = renamed {
        // Report the first error.
        let _ = std::fs::remove_file(&temporary);
        return Err(e);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_existing_file_is_replaced_only_on_request() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("report.html");
        check(&path, false).expect("free");
        create(&path, false, b"one").expect("new");
        assert!(matches!(check(&path, false), Err(OutputFileError::Exists { .. })));
        assert!(matches!(create(&path, false, b"two"), Err(OutputFileError::Exists { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), b"one");
        create(&path, true, b"two").expect("forced");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_report_replaces_an_older_one_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let (path, link) = (dir.path().join("report.json"), dir.path().join("link"));
        for text in [&b"a long first one"[..], b"two"] {
            write_report(&path, text).expect("written");
            assert_eq!(std::fs::read(&path).expect("read"), text);
        }
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert!(matches!(write_report(&link, b"x"), Err(OutputFileError::Symlink { .. })));
        assert!(matches!(write_report(dir.path(), b"x"), Err(OutputFileError::NotRegular { .. })));
        assert!(matches!(check_report(&dir.path().join("no/such")), Err(OutputFileError::Create { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 2, "no temporary file stays");
        write_report(Path::new("/dev/null"), b"x").expect("a device");
    }

    #[test]
    fn links_and_folders_are_refused_before_and_at_the_end() {
        let dir = tempfile::tempdir().expect("dir");
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        std::fs::write(&victim, "safe").expect("write");
        std::os::unix::fs::symlink(&victim, &link).expect("link");
        for force in [false, true] {
            assert!(matches!(check(&link, force), Err(OutputFileError::Symlink { .. })));
            assert!(matches!(create(&link, force, b"x"), Err(OutputFileError::Symlink { .. })));
            assert!(matches!(check(dir.path(), force), Err(OutputFileError::NotRegular { .. })));
            assert!(matches!(check(&dir.path().join("no/such"), force), Err(OutputFileError::Create { .. })));
        }
        assert_eq!(std::fs::read(&victim).expect("read"), b"safe");
    }
}
