//! Makes files where the user wants them, never through a symbolic link: as root one would lead anywhere.
//!
//! What holds a trace is readable by its owner only, and takes the place of another file only if that is asked for.
//! A report is made anew at any time: it takes the place of an older one, and is as readable as other files are.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why a file was not made. The message has the cause in it, which therefore is none of the error's sources.
#[derive(Debug, thiserror::Error)]
pub enum OutputFileError {
    #[error("{path:?} exists; give another name, or --force to replace it")]
    Exists { path: PathBuf },
    #[error("{path:?} is a symbolic link and is not followed; give the name of a regular file")]
    Symlink { path: PathBuf },
    #[error("{path:?} is no regular file and is not replaced; give another name")]
    NotRegular { path: PathBuf },
    #[error("cannot create {path:?}: {cause}; choose a directory that exists, is writable and has space")]
    Create { path: PathBuf, cause: io::Error },
}

/// Makes a file with these first bytes. With `force` a regular file of that name is replaced in one step.
///
/// # Errors
/// The name is taken, is a symbolic link or no regular file, or the file cannot be made.
pub fn create(path: &Path, force: bool, bytes: &[u8]) -> Result<File, OutputFileError> {
    let fail = |cause| OutputFileError::Create { path: path.to_owned(), cause };
    match open(path, OWN) {
        Ok(mut file) => file.write_all(bytes).map(|()| file).map_err(|e| {
            // It is ours and of no use; the error that matters is the first.
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

/// Whether [`create`] would refuse the name for what it is now: so that a long run does not end with that.
///
/// # Errors
/// As [`create`], as far as it can be known beforehand.
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

/// Writes a report: to a new file, in place of a regular file, or to a device or FIFO that is there (`/dev/null`).
///
/// # Errors
/// As [`check_report`], and failures of the write; an older file of that name then stays as it was.
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

/// Whether [`write_report`] would refuse the name for what it is now.
///
/// # Errors
/// The name is a symbolic link, a folder, a block device or a socket, or its folder does not exist.
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

/// A new file takes the name's place; renaming never follows a link.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let mut file = open(&temporary, mode)?;
    let renamed = file.write_all(bytes).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(e) = renamed {
        // The error that matters is the first.
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
    fn what_is_there_stays_unless_asked() {
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
    fn a_report_takes_the_place_of_an_older_one_and_of_nothing_else() {
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
