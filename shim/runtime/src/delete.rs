//! Back to nothing: processes, cgroups, then the poststop hooks.

use crate::{Container, Result};

/// Every piece may be gone already. Each is tried; the first failure is what is reported.
///
/// The first process is not waited for: the kernel lets it end only after every process of its pid namespace was reaped,
/// and those that came by `exec` are reaped by the caller, who is here. Leaving the cgroups is what counts.
pub(crate) fn delete(mut container: Container) -> Result<()> {
    drop(container.init.gate.take());
    let _ = container.init.kill(libc::SIGKILL);
    let killed = match container.cgroups.is_populated() {
        Ok(false) => Ok(()),
        _ => container.cgroups.kill_all(libc::SIGKILL),
    };
    let removed = container.cgroups.remove();
    let hooked = match container.poststop.take() {
        Some(hooks) => hooks.run(0),
        None => Ok(()),
    };
    killed.and(removed).and(hooked)
}
