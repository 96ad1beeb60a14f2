//! Creates one object, which must not exist yet.

use std::ffi::CString;
use std::io;

/// Identifies a created object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Id(i32),
    Name(String),
}

/// Creates a set of `nsems` semaphores with the value 0; a private one without a key.
///
/// # Errors
/// The kernel refuses: EEXIST if the key is in use, ENOSPC at a limit.
pub fn make_sem(key: Option<i32>, nsems: i32, mode: u32) -> io::Result<Made> {
    // SAFETY: semget takes numbers only.
    id(unsafe { libc::semget(key.unwrap_or(libc::IPC_PRIVATE), nsems, flags(mode)) })
}

/// Creates a segment of `size` bytes.
///
/// # Errors
/// As [`make_sem`].
pub fn make_shm(key: Option<i32>, size: usize, mode: u32) -> io::Result<Made> {
    // SAFETY: shmget takes numbers only.
    id(unsafe { libc::shmget(key.unwrap_or(libc::IPC_PRIVATE), size, flags(mode)) })
}

/// Creates a message queue.
///
/// # Errors
/// As [`make_sem`].
pub fn make_msg(key: Option<i32>, mode: u32) -> io::Result<Made> {
    // SAFETY: msgget takes numbers only.
    id(unsafe { libc::msgget(key.unwrap_or(libc::IPC_PRIVATE), flags(mode)) })
}

/// Creates a POSIX message queue with the system's default sizes.
///
/// # Errors
/// EEXIST if one of this name exists; EMFILE or ENOSPC at a limit.
pub fn make_mq(name: &str, mode: u32) -> io::Result<Made> {
    let full = slashed(name)?;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    // SAFETY: the name ends with NUL; with a null pointer the kernel takes its default attributes.
    let queue = unsafe { libc::mq_open(full.as_ptr(), flags, mode, std::ptr::null_mut::<libc::mq_attr>()) };
    if queue < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened above and is used nowhere else.
    unsafe { libc::mq_close(queue) };
    Ok(Made::Name(full.to_string_lossy().into_owned()))
}

/// Creates a POSIX named semaphore.
///
/// # Errors
/// EEXIST if one of this name exists; EINVAL for a value above `SEM_VALUE_MAX`.
pub fn make_posix_sem(name: &str, value: u32, mode: u32) -> io::Result<Made> {
    let full = slashed(name)?;
    // SAFETY: the name ends with NUL; mode and value are the two variable arguments of O_CREAT.
    let sem = unsafe { libc::sem_open(full.as_ptr(), libc::O_CREAT | libc::O_EXCL, mode, value) };
    if sem == libc::SEM_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the semaphore was opened above and is used nowhere else.
    unsafe { libc::sem_close(sem) };
    Ok(Made::Name(full.to_string_lossy().into_owned()))
}

fn flags(mode: u32) -> libc::c_int {
    libc::IPC_CREAT | libc::IPC_EXCL | libc::c_int::try_from(mode & 0o777).unwrap_or(0)
}

fn id(r: libc::c_int) -> io::Result<Made> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(Made::Id(r)) }
}

fn slashed(name: &str) -> io::Result<CString> {
    let full = if name.starts_with('/') { name.to_owned() } else { format!("/{name}") };
    CString::new(full).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
