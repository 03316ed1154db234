//! Loading an eBPF program for the device controller of cgroup v2 and attaching it.

use super::{SysResult, check};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One eBPF instruction in the kernel's layout (8 bytes): opcode, registers (dst low, src high), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
/// Most programs of one cgroup that the kernel attaches (BPF_CGROUP_MAX_PROGS).
const ATTACHED_MAX: usize = 64;
/// By which ours are told from those of others, such as systemd's.
const NAME: [u8; 16] = *b"longshore_device";
/// The kernel's names have a NUL at their end.
const NAME_LENGTH: usize = 15;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ByIdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

fn bpf<T>(command: libc::c_int, attr: &T) -> SysResult<libc::c_long> {
    // SAFETY: attr has the layout of the command's part of `union bpf_attr`, of the size passed; the kernel takes
    // missing fields as zero.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr as *const T, size_of::<T>()) })
}

/// Loads a device program.
pub(crate) fn load_device_program(program: &[Instruction]) -> SysResult<OwnedFd> {
    let license = c"Apache-2.0";
    let mut prog_name = NAME;
    prog_name[NAME_LENGTH] = 0;
    let attr = LoadAttr {
        prog_name,
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Default::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &attr)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The device program of ours that is attached to a cgroup.
pub(crate) fn attached_device_program(cgroup: BorrowedFd<'_>) -> SysResult<Option<OwnedFd>> {
    let mut ids = [0u32; ATTACHED_MAX];
    let query = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ATTACHED_MAX as u32,
        ..Default::default()
    };
    bpf(BPF_PROG_QUERY, &query)?;
    for prog_id in ids.into_iter().take_while(|id| *id != 0) {
        // One that is gone meanwhile is not ours: nobody else changes ours.
        let Ok(fd) = bpf(BPF_PROG_GET_FD_BY_ID, &ByIdAttr { prog_id, ..Default::default() }) else {
            continue;
        };
        // SAFETY: a new descriptor that nobody else owns.
        let program = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        if name_of(program.as_fd())?[..NAME_LENGTH] == NAME[..NAME_LENGTH] {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

/// The name in `struct bpf_prog_info`, of which the first 80 bytes are asked for.
fn name_of(program: BorrowedFd<'_>) -> SysResult<[u8; 16]> {
    const NAME_AT: usize = 64;
    let mut info = [0u64; 10];
    let attr = InfoAttr {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    let mut name = [0; 16];
    for (slot, word) in name.chunks_exact_mut(8).zip(&info[NAME_AT / 8..]) {
        slot.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(name)
}

/// Attaches a device program to a cgroup in the place of an earlier one, or beside what is attached already; all of them
/// must agree to an access.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> SysResult<()> {
    let attr = AttachAttr {
        replace_bpf_fd: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replaced.is_some() { BPF_F_REPLACE } else { 0 },
    };
    bpf(BPF_PROG_ATTACH, &attr).map(drop)
}
