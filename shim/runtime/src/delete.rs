//! Back to nothing: processes, cgroups, then the poststop hooks.

use crate::sys::process::{Reap, wait};
use crate::{Container, Result};
use rustix::fd::AsFd;

/// Every piece may be gone already. Each is tried; the first failure is what is reported.
pub(crate) fn delete(mut container: Container) -> Result<()> {
    drop(container.init.gate.take());
    let _ = container.init.kill(libc::SIGKILL);
    let killed = match container.cgroups.is_populated() {
        Ok(false) => Ok(()),
        _ => container.cgroups.kill_all(libc::SIGKILL),
    };
    // The caller's zombie stays. With a pid namespace the end of its first process is the end of all.
    let _ = wait(container.init.pidfd.as_fd(), Reap::Leave);
    let removed = container.cgroups.remove();
    let hooked = match container.poststop.take() {
        Some(hooks) => hooks.run(0),
        None => Ok(()),
    };
    killed.and(removed).and(hooked)
}
