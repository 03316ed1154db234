//! The calls on loop devices, which only ioctl(2) has, and mount_setattr(2), which rustix lacks.
//!
//! What always holds: the structures are as linux/loop.h and linux/mount.h lay them out, and every pointer is to one that lives through
//! the call.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_SET_STATUS64: libc::c_ulong = 0x4C04;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;

pub const READ_ONLY: u32 = 1;
pub const AUTOCLEAR: u32 = 4;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    pub flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

impl Info {
    fn new(flags: u32, name: &[u8]) -> Self {
        let mut file_name = [0; 64];
        // The last byte stays NUL.
        let length = name.len().min(file_name.len() - 1);
        file_name[..length].copy_from_slice(&name[..length]);
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            sizelimit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// How far a change of a mount goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    One,
    /// With all that is mounted below.
    Recursive,
}

/// Makes the mount that `tree` is the root of read-only. ENOSYS before Linux 5.12.
pub fn set_read_only(tree: BorrowedFd<'_>, reach: Reach) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if reach == Reach::Recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string; `attributes` is a whole `struct mount_attr`, which the kernel only reads, of the size that
    // the last argument says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of a device that nobody uses, at the moment.
pub fn free_number(control: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })
}

/// Makes `device` show `file`. EBUSY if somebody else was faster.
pub fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, flags: u32, name: &[u8]) -> io::Result<()> {
    let config =
        Config { fd: file.as_raw_fd() as u32, block_size: 0, info: Info::new(flags, name), reserved: [0; 8] };
    // SAFETY: `config` is a whole `struct loop_config`, which the kernel only reads, during the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }).map(drop)
}

pub fn status(device: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = Info::new(0, b"");
    // SAFETY: `info` is a whole `struct loop_info64`, of plain numbers, which the kernel fills during the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) })?;
    Ok(info)
}

pub fn set_status(device: BorrowedFd<'_>, info: &Info) -> io::Result<()> {
    // SAFETY: `info` is a whole `struct loop_info64`, which the kernel only reads, during the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_STATUS64, std::ptr::from_ref(info)) }).map(drop)
}
