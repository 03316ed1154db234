//! Who the program will be: user, groups, capabilities, keyring. Runs in the child.

use crate::sys::{SysResult, process};
use rustix::io::Errno;
use std::ffi::CStr;

/// Capabilities are numbered from 0 and fit in 64 bits.
const CAPABILITIES: u64 = 64;

/// Becomes root of the user namespace; groups of the host do not belong there.
pub(super) fn become_root() -> SysResult<()> {
    process::set_gid(0)?;
    process::set_uid(0)?;
    match process::set_groups(&[]) {
        // Without privilege over the map, setgroups is denied; the groups are unmapped then anyway.
        Err(Errno::PERM) => {}
        other => other?,
    }
    stay_hidden()
}

/// A change of user sets this back to what `fs.suid_dumpable` says.
fn stay_hidden() -> SysResult<()> {
    process::prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// Gives this process a session keyring of its own, where the kernel has keyrings and the quota allows one.
pub(super) fn new_keyring(name: &CStr) -> SysResult<()> {
    match process::join_session_keyring(name) {
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        other => other,
    }
}

/// Drops every capability that is not in `keep` from the bounding set.
pub(super) fn shrink_bounding_set(keep: u64) -> SysResult<()> {
    for capability in 0..CAPABILITIES {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match process::prctl(libc::PR_CAPBSET_DROP, capability) {
            // Beyond the last capability of this kernel.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Switches user and groups, keeping permitted capabilities until [`set_capabilities`] decides.
pub(super) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> SysResult<()> {
    process::prctl(libc::PR_SET_KEEPCAPS, 1)?;
    match process::set_groups(groups) {
        Err(Errno::PERM) if groups.is_empty() => {}
        other => other?,
    }
    process::set_gid(gid)?;
    process::set_uid(uid)?;
    process::prctl(libc::PR_SET_KEEPCAPS, 0)?;
    stay_hidden()
}

/// Sets the four thread sets; ambient ones that are not inheritable and permitted too are left out, as the kernel would.
pub(super) fn set_capabilities(
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
) -> SysResult<()> {
    process::set_capabilities(effective, permitted, inheritable)?;
    process::prctl_ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0)?;
    for capability in (0..CAPABILITIES).filter(|c| ambient & permitted & inheritable & (1 << c) != 0) {
        process::prctl_ambient(libc::PR_CAP_AMBIENT_RAISE, capability)?;
    }
    Ok(())
}
