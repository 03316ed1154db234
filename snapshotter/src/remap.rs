//! Owners of files that appear shifted, for containers with a user namespace: labels ask for it, and whoever mounts does it.

use std::path::Path;

use crate::{Error, Labels, Result};

/// Maps of user and group ids: `CONTAINER:HOST:SIZE`, several with commas between.
const UIDS: &str = "containerd.io/snapshot/uidmapping";
const GIDS: &str = "containerd.io/snapshot/gidmapping";

/// Where layers of overlay can be mounted with shifted owners before they are attached anywhere: since Linux 6.15 …
const KERNEL: (u32, u32) = (6, 15);
/// … on these file systems: btrfs, ext4, f2fs, tmpfs, xfs.
const FILE_SYSTEMS: [u32; 5] = [0x9123_683e, 0xef53, 0xf2f5_2010, 0x0102_1994, 0x5846_5342];

/// Who owns the root of a snapshot on disk, so that it is the container's root; `None` without the labels.
pub fn root(key: &str, labels: &Labels) -> Result<Option<(u32, u32)>> {
    let invalid = |label, why| Error::InvalidMapping { key: key.to_owned(), label, why };
    let host = |label: &'static str, text: &str| root_of(text).map_err(|why| invalid(label, why));
    match (labels.get(UIDS), labels.get(GIDS)) {
        (None, None) => Ok(None),
        (Some(uids), Some(gids)) => Ok(Some((host(UIDS, uids)?, host(GIDS, gids)?))),
        (Some(_), None) => Err(invalid(GIDS, "is missing")),
        (None, Some(_)) => Err(invalid(UIDS, "is missing")),
    }
}

/// The options by which a mount says so.
pub fn options(labels: &Labels) -> Vec<String> {
    let option = |name, label| labels.get(label).map(|map| format!("{name}={map}"));
    [option("uidmap", UIDS), option("gidmap", GIDS)].into_iter().flatten().collect()
}

/// The host's id for the container's 0.
fn root_of(text: &str) -> std::result::Result<u32, &'static str> {
    let mut root = None;
    for part in text.split(',') {
        let mut numbers = part.split(':').map(|number| number.parse::<u32>().ok());
        let (Some(Some(container)), Some(Some(host)), Some(Some(1..)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        else {
            return Err("is not CONTAINER:HOST:SIZE, several with commas between");
        };
        if container == 0 {
            root = Some(host);
        }
    }
    root.ok_or("maps no root: one part must begin with 0")
}

/// Whether this host can mount what is below `root` so.
pub fn is_possible(root: &Path) -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_str().unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let kind = rustix::fs::statfs(root).map_or(0, |found| found.f_type as u32);
    kernel >= KERNEL && FILE_SYSTEMS.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_clients_write_them() {
        assert_eq!(root_of("0:100000:65536"), Ok(100_000));
        assert_eq!(root_of("1:5:10,0:7:1"), Ok(7));
        for wrong in ["", "0:1", "0:1:0", "0:1:2:3", "a:1:2", "-1:0:1", "1:2:3", "0:1:2,"] {
            assert!(root_of(wrong).is_err(), "{wrong:?}");
        }
    }
}
