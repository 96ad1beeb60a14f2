//! Makes the files that hold what a trace holds, traces and reports: readable by their owner only, never through a
//! symbolic link, and never in place of another file unless that is asked for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file was not made.
#[derive(Debug, thiserror::Error)]
pub enum NewFileError {
    #[error("{path:?} exists; give another name, or --force to replace it")]
    Exists { path: PathBuf },
    #[error("{path:?} is a symbolic link and is not followed; give the name of a regular file")]
    Symlink { path: PathBuf },
    #[error("{path:?} is no regular file and is not replaced; give another name")]
    NotRegular { path: PathBuf },
    #[error("cannot create {path:?}: {source}; choose a directory that exists, is writable and has space")]
    Create { path: PathBuf, source: io::Error },
}

/// Makes a file with these first bytes. With `force` a regular file of that name is replaced in one step.
///
/// # Errors
/// The name is taken, is a symbolic link or no regular file, or the file cannot be made.
pub fn create(path: &Path, force: bool, bytes: &[u8]) -> Result<File, NewFileError> {
    let fail = |source| NewFileError::Create { path: path.to_owned(), source };
    match open(path) {
        Ok(mut file) => file.write_all(bytes).map(|()| file).map_err(|e| {
            // It is ours and of no use; the error that matters is the first.
            let _ = std::fs::remove_file(path);
            fail(e)
        }),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            check(path, force)?;
            replace(path, bytes).map_err(fail)
        }
        Err(e) => Err(fail(e)),
    }
}

/// Whether [`create`] would refuse the name for what it is now: so that a long run does not end with that.
///
/// # Errors
/// As [`create`], as far as it can be known beforehand.
pub fn check(path: &Path, force: bool) -> Result<(), NewFileError> {
    let path = path.to_owned();
    match std::fs::symlink_metadata(&path).map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_symlink() => Err(NewFileError::Symlink { path }),
        Ok(kind) if !kind.is_file() => Err(NewFileError::NotRegular { path }),
        Ok(_) if !force => Err(NewFileError::Exists { path }),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && folder(&path).is_dir() => Ok(()),
        Err(source) => Err(NewFileError::Create { path, source }),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// O_EXCL: fails if the name exists in any form, also as a link.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// A new file takes the name's place; renaming never follows a link.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let mut file = open(&temporary)?;
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
        assert!(matches!(check(&path, false), Err(NewFileError::Exists { .. })));
        assert!(matches!(create(&path, false, b"two"), Err(NewFileError::Exists { .. })));
        assert_eq!(std::fs::read(&path).expect("read"), b"one");
        create(&path, true, b"two").expect("forced");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary file stays");
    }

    #[test]
    fn links_and_folders_are_refused_before_and_at_the_end() {
        let dir = tempfile::tempdir().expect("dir");
        let (victim, link) = (dir.path().join("victim"), dir.path().join("link"));
        std::fs::write(&victim, "safe").expect("write");
        std::os::unix::fs::symlink(&victim, &link).expect("link");
        for force in [false, true] {
            assert!(matches!(check(&link, force), Err(NewFileError::Symlink { .. })));
            assert!(matches!(create(&link, force, b"x"), Err(NewFileError::Symlink { .. })));
            assert!(matches!(check(dir.path(), force), Err(NewFileError::NotRegular { .. })));
            assert!(matches!(check(&dir.path().join("no/such"), force), Err(NewFileError::Create { .. })));
        }
        assert_eq!(std::fs::read(&victim).expect("read"), b"safe");
    }
}
