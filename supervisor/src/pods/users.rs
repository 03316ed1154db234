//! Pods with users of their own (`hostUsers: false`): root in such a pod is nobody in particular on the host. The pod's user namespace is
//! held by a file like its others, which belong to it; the files of its containers appear with the pod's ids where they are mounted.
//!
//! What always holds: one range of ids for users and one for groups, each beginning with the pod's root; a container has its pod's.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::Pods;
use super::config::{IdMap, PodConfig, Sharing, UserMaps};
use super::namespaces::Files;
use super::record::Identity;
use crate::engine::spec::layers::Owners;
use crate::error::{Error, Result};

/// By these labels a snapshot appears with shifted owners.
const LABELS: [&str; 2] = ["containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"];

/// What the kernel says with an id that stands for none.
const NOBODY: u32 = u32::MAX;

impl IdMap {
    fn check(&self, what: &str) -> Result<()> {
        let refuse = |why: &str| {
            let IdMap { container, host, length } = self;
            let mapping = format!("{container} to {host}, {length} of them");
            Err(Error::invalid(format!("user namespace: mapping of {what} {mapping}"), why))
        };
        match (self.container, self.host.checked_add(self.length)) {
            (1.., _) => refuse("it must begin with the container's id 0"),
            (_, _) if self.length == 0 => refuse("it maps none"),
            (_, None | Some(NOBODY)) => refuse("it goes beyond the last id of the host"),
            _ => Ok(()),
        }
    }

    fn host_of(&self, id: u32) -> Option<u32> {
        id.checked_sub(self.container).filter(|at| *at < self.length).and_then(|at| self.host.checked_add(at))
    }

    fn to_spec(self) -> Result<LinuxIdMapping> {
        let map = LinuxIdMappingBuilder::default().container_id(self.container).host_id(self.host);
        map.size(self.length).build().map_err(Error::oci)
    }

    fn text(&self) -> String {
        format!("{}:{}:{}", self.container, self.host, self.length)
    }
}

/// As the runtime's specification has them.
pub(super) fn to_spec(maps: &[IdMap]) -> Result<Vec<LinuxIdMapping>> {
    maps.iter().map(|map| map.to_spec()).collect()
}

fn only<'a>(maps: &'a [IdMap], what: &str) -> Result<&'a IdMap> {
    match maps {
        [only] => only.check(what).map(|()| only),
        [] => Err(Error::invalid("user namespace", format!("mode POD needs a mapping of {what}"))),
        more => {
            let why = format!("{} mappings of {what} are given: one is possible", more.len());
            Err(Error::invalid("user namespace", why))
        }
    }
}

impl UserMaps {
    pub(super) fn check(&self) -> Result<()> {
        only(&self.uids, "users")?;
        only(&self.gids, "groups").map(drop)
    }

    /// The pod's root, as the host sees it.
    pub(super) fn root(&self) -> Result<(u32, u32)> {
        Ok((only(&self.uids, "users")?.host, only(&self.gids, "groups")?.host))
    }

    /// An id of the pod's that is there for certain, and not root's if there is another.
    pub(super) fn somebody(&self) -> u32 {
        let lengths = self.uids.iter().chain(&self.gids).map(|map| map.length);
        lengths.min().unwrap_or(1).saturating_sub(1).min(65535)
    }

    /// What a snapshot is told, so that its files appear with these owners.
    pub(super) fn labels(&self) -> [(String, String); 2] {
        let text = |maps: &[IdMap]| maps.iter().map(IdMap::text).collect::<Vec<_>>().join(",");
        let [uids, gids] = LABELS;
        [(uids.to_owned(), text(&self.uids)), (gids.to_owned(), text(&self.gids))]
    }

    /// Who owns what is put into a container's files from outside.
    pub(super) fn owners(&self) -> Result<Owners> {
        let range = |map: &IdMap| (map.host, map.length);
        Ok(Owners { uids: range(only(&self.uids, "users")?), gids: range(only(&self.gids, "groups")?) })
    }

    /// Refuses to run as somebody who is not in the pod.
    pub(super) fn check_identity(&self, user: &Identity) -> Result<()> {
        let refuse = |what: &str, id: u32| {
            Err(Error::invalid(format!("{what} {id}"), "the pod's user namespace does not have it"))
        };
        let has = |maps: &[IdMap], id| maps.iter().any(|map| map.host_of(id).is_some());
        if !has(&self.uids, user.uid) {
            return refuse("user", user.uid);
        }
        match user.groups.iter().chain([&user.gid]).find(|gid| !has(&self.gids, **gid)) {
            Some(gid) => refuse("group", *gid),
            None => Ok(()),
        }
    }
}

/// Namespaces that belong to a pod's user namespace, on their way to the pod.
pub(super) struct Made {
    pub network: Arc<OwnedFd>,
}

impl Pods {
    /// Whether containers can have users of their own here.
    pub fn can_map_users(&self) -> bool {
        let shifts = self.engine.snapshotter().is_ok_and(|snapshotter| {
            snapshotter.capabilities().iter().any(|capability| capability == "remap-ids")
        });
        let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
        shifts && most.trim().parse::<u64>().is_ok_and(|most| most > 0)
    }

    pub(super) fn check_users(&self, config: &PodConfig) -> Result<()> {
        let Some(users) = &config.namespaces.users else { return Ok(()) };
        users.check()?;
        for (kind, sharing) in [("pid", config.namespaces.pid), ("ipc", config.namespaces.ipc)] {
            if sharing == Sharing::Node {
                let why = "it cannot be had with the host's users only: leave one of them out";
                return Err(Error::invalid(format!("{kind} namespace of the host"), why));
            }
        }
        if !self.can_map_users() {
            let why = "it needs Linux 6.15, a snapshotter that can shift owners (overlayfs on btrfs, ext4, f2fs, tmpfs or xfs), and user \
                       namespaces that are not switched off (user.max_user_namespaces)";
            return Err(Error::precondition("user namespace of a pod", why));
        }
        Ok(())
    }
}

/// Makes a pod's namespaces in a user namespace of its own, and holds all but the network's that the pod does not have of its own.
/// Blocks.
pub(super) fn make(files: &Files, config: &PodConfig, users: &UserMaps) -> Result<Made> {
    let failed = |error: longshore_runtime::Error| {
        Error::io("making the user namespace of", "a pod", std::io::Error::other(error))
    };
    let made = longshore_runtime::make_unpeopled(&to_spec(&users.uids)?, &to_spec(&users.gids)?);
    let made = made.map_err(failed)?;
    let path = |namespace: &OwnedFd| format!("/proc/self/fd/{}", namespace.as_raw_fd());
    files.hold(&path(&made.user), &files.user())?;
    if config.namespaces.ipc != Sharing::Node {
        files.hold(&path(&made.ipc), &files.ipc())?;
    }
    if config.namespaces.network != Sharing::Node {
        files.hold(&path(&made.uts), &files.uts())?;
        files.hold(&path(&made.network), &files.network())?;
    }
    Ok(Made { network: Arc::new(made.network) })
}

/// Gives files of the host's to the pod's root.
pub(super) fn give(paths: &[std::path::PathBuf], users: &UserMaps) -> Result<()> {
    let (uid, gid) = users.root()?;
    for path in paths {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .map_err(|error| Error::io("giving to the pod's root", path, error))?;
    }
    Ok(())
}

/// Does something as the pod's root, who has no privileges of the host's. The thread ends soon.
pub(super) fn as_root<T>(users: &UserMaps, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (uid, _) = users.root()?;
    let become_ = |uid: u32| {
        let (host, other) = (rustix::process::Uid::ROOT, rustix::process::Uid::from_raw(uid));
        rustix::thread::set_thread_res_uid(host, other, host)
            .map_err(|errno| Error::io("becoming the root of", "a pod", errno.into()))
    };
    become_(uid)?;
    let done = work();
    become_(0)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(uids: &[(u32, u32, u32)]) -> UserMaps {
        let map = |&(container, host, length): &(u32, u32, u32)| IdMap { container, host, length };
        UserMaps {
            uids: uids.iter().map(map).collect(),
            gids: vec![IdMap { container: 0, host: 7, length: 9 }],
        }
    }

    #[test]
    fn one_range_that_begins_with_root_is_taken() {
        maps(&[(0, 1000, 100_000)]).check().unwrap();
        for wrong in [
            &[][..],
            &[(0, 1000, 1), (1, 5000, 1)],
            &[(1, 1000, 1)],
            &[(0, 1000, 0)],
            &[(0, u32::MAX, 1)],
            &[(0, u32::MAX - 9, 9)],
        ] {
            assert!(maps(wrong).check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ids_within_and_without() {
        let users = maps(&[(0, 1000, 10)]);
        let [uids, gids] = users.labels();
        assert_eq!((uids.1.as_str(), gids.1.as_str()), ("0:1000:10", "0:7:9"));
        let who = |uid, gid, groups: &[u32]| Identity { uid, gid, groups: groups.to_vec() };
        users.check_identity(&who(9, 8, &[0])).unwrap();
        assert!(users.check_identity(&who(10, 0, &[])).is_err());
        assert!(users.check_identity(&who(0, 9, &[])).is_err());
        assert!(users.check_identity(&who(0, 0, &[9])).is_err());
        assert_eq!(users.somebody(), 8);
    }
}
