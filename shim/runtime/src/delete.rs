//! Back to nothing: processes, cgroups, the resctrl group, then the poststop hooks.

use crate::{Container, Result};

/// Every piece may be gone already. Each is tried; the first failure is what is reported.
///
/// The first process is not waited for: the kernel lets it end only after every process of its pid namespace was reaped,
/// and those that came by `exec` are reaped by the caller, who is here. Leaving the cgroups is what counts.
pub(crate) fn delete(mut container: Container) -> Result<Vec<String>> {
    drop(container.init.gate.take());
    let _ = container.init.kill(libc::SIGKILL);
    let killed = match container.cgroups.is_populated() {
        Ok(false) => Ok(()),
        _ => container.cgroups.kill_all(libc::SIGKILL),
    };
    let removed = container.cgroups.remove();
    let left = container.rdt.take().map_or(Ok(()), |group| group.remove());
    let warnings = container.poststop.take().map(|hooks| hooks.run_each(0)).unwrap_or_default();
    killed.and(removed).and(left).map(|()| warnings)
}
