//! Mounts that are to pass between the host and a container: only where the host passes them on.

use std::path::{Path, PathBuf};

use super::config::Propagation;
use crate::error::{Error, Result};

/// Refuses what the host's mount cannot do. Blocks.
pub(super) fn check(asked: Propagation, source: &str) -> Result<()> {
    const TABLE: &str = "/proc/self/mountinfo";
    if asked == Propagation::Private {
        return Ok(());
    }
    let table = std::fs::read_to_string(TABLE).map_err(|error| Error::io("reading", TABLE, error))?;
    within(&table, asked, Path::new(source))
}

fn within(table: &str, asked: Propagation, source: &Path) -> Result<()> {
    let Some((point, fields)) = mount_of(table, source) else { return Ok(()) };
    let has = |kind: &str| fields.iter().any(|field| field.starts_with(kind));
    let (is_fit, wanted) = match asked {
        Propagation::Private => (true, ""),
        Propagation::HostToContainer => (has("shared:") || has("master:"), "a shared or slave mount"),
        Propagation::Bidirectional => (has("shared:"), "a shared mount"),
    };
    if is_fit {
        return Ok(());
    }
    let point = point.display();
    let why =
        format!("it is on {point}, which is not {wanted}: run `mount --make-rshared {point}` on the host");
    Err(Error::precondition(format!("mount propagation of {:?}", source.display()), why))
}

/// The mount that a path is on: its place, and what it says of propagation. Of two at one place the later one is seen.
fn mount_of<'a>(table: &'a str, path: &Path) -> Option<(PathBuf, Vec<&'a str>)> {
    let mounts = table.lines().filter_map(|line| {
        let (own, _) = line.split_once(" - ")?;
        let mut fields = own.split(' ').skip(4);
        Some((crate::mounts::table::path(fields.next()?), fields.skip(1).collect()))
    });
    mounts.filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_pass_only_where_the_host_passes_them_on() {
        let table = "\
            20 1 8:1 / / rw,relatime - ext4 /dev/root rw\n\
            21 20 8:2 / /data rw,relatime shared:7 - ext4 /dev/sdb rw\n\
            22 20 8:2 / /slave\\040x rw,relatime master:7 - ext4 /dev/sdb rw\n\
            23 20 8:2 / /odd\\011\\012\\134x rw,relatime shared:8 - ext4 /dev/sdb rw\n";
        let check = |asked, path: &str| within(table, asked, Path::new(path)).is_ok();
        assert!(check(Propagation::Private, "/tmp"));
        assert!(!check(Propagation::HostToContainer, "/database"));
        assert!(check(Propagation::Bidirectional, "/odd\t\n\\x/below"));
        assert!(!check(Propagation::Bidirectional, "/tmp"));
        assert!(check(Propagation::HostToContainer, "/data/x") && check(Propagation::Bidirectional, "/data"));
        assert!(
            check(Propagation::HostToContainer, "/slave x") && !check(Propagation::Bidirectional, "/slave x")
        );
    }
}
