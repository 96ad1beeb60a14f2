//! Creation of the files where the C library keeps POSIX semaphores and shared memory. Later uses are not recorded.

use tracer_common::config::calibration::SHM_DEVICE;
use tracer_common::event::PosixCreate;
use tracer_common::field::Field;
use tracer_common::map::{ObjRef, kind};

use crate::emit::{self, Call};
use crate::filter;
use crate::kread;
use crate::maps::CALIBRATION;
use crate::resolve;
use crate::task;

/// The open created the file (include/linux/fs.h, 4.19 and later).
const FMODE_CREATED: u32 = 0x10_0000;

/// `shmem_create` (mm/shmem.c) of this `struct dentry` returned.
#[inline(always)]
pub fn created(call: &Call, dentry: u64) {
    if call.ret as i32 != 0 || !filter::wanted(task::ids().0) {
        return;
    }
    send_create(call, dentry);
}

/// open(2) of a file of any kind returned this descriptor.
#[inline(always)]
pub fn opened(call: &Call, fd: u32) {
    let Some(file) = resolve::file(fd) else { return };
    if file.mode() & FMODE_CREATED != 0 && filter::wanted(task::ids().0) {
        send_create(call, file.dentry());
    }
}

/// Sends the event if the file is on the C library's file system.
#[inline(always)]
fn send_create(call: &Call, dentry: u64) {
    let inode: u64 = kread::field_or_zero(dentry, Field::DentryInode);
    let sb: u64 = kread::field_or_zero(inode, Field::InodeSb);
    let device: u32 = kread::field_or_zero(sb, Field::SbDev);
    let Some(wanted) = CALIBRATION.get(SHM_DEVICE) else { return };
    if *wanted == 0 || u64::from(device) != *wanted {
        return;
    }
    let obj = ObjRef { kind: kind::FILE, ns: device, id: resolve::number(inode) };
    let mut event = PosixCreate { obj, exact: 1, _pad: 0, name: [0; 32] };
    kread::string(kread::field_or_zero(dentry, Field::DentryName), &mut event.name);
    emit::event_with_stack(call, event);
}
