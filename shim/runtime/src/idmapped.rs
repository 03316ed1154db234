//! Idmapped mounts: a mapping is a user namespace that nobody lives in, and a detached mount takes it on before it is
//! attached anywhere.

use crate::namespaces::{self, Namespaces};
use crate::sys::mount::{MountAttr, Reach, set_attributes};
use crate::sys::process::{self, Reap};
use crate::{Error, Result};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder, Mount as MountSpec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::cell::OnceCell;

/// Where the mappings of a container's mounts come from.
pub(crate) struct IdMaps<'a> {
    container: Container<'a>,
    /// A namespace with the container's own maps, once one was needed.
    own: OnceCell<OwnedFd>,
}

/// The container's own mapping.
enum Container<'a> {
    /// It has no user namespace.
    None,
    Mapped(&'a Linux),
    Joined(OwnedFd),
}

impl<'a> IdMaps<'a> {
    pub(crate) fn of(namespaces: &Namespaces, linux: &'a Linux) -> Result<IdMaps<'a>> {
        let container = match namespaces.user_to_join() {
            Some(fd) => Container::Joined(
                fd.try_clone_to_owned()
                    .map_err(|source| Error::System { doing: "duplicate the user namespace", source })?,
            ),
            None if namespaces.new & libc::CLONE_NEWUSER != 0 => Container::Mapped(linux),
            None => Container::None,
        };
        Ok(IdMaps { container, own: OnceCell::new() })
    }

    /// Lets the owners of a detached mount appear mapped: by the mount's own maps, or else as in the container's user
    /// namespace.
    pub(crate) fn apply(
        &self,
        index: usize,
        mount: &MountSpec,
        tree: BorrowedFd<'_>,
        reach: Reach,
    ) -> Result<()> {
        let field = format!("mounts[{index}].uidMappings");
        let invalid = |why: &str| Error::InvalidSpec { field: field.clone(), why: why.into() };
        let uid = mount.uid_mappings().as_deref().unwrap_or_default();
        let gid = mount.gid_mappings().as_deref().unwrap_or_default();
        let made;
        let namespace = match (uid.is_empty(), gid.is_empty()) {
            (false, false) => {
                made = make(uid, gid)?;
                made.as_fd()
            }
            (true, true) => self.containers_own().map_err(|error| {
                error.unwrap_or_else(|| {
                    invalid("are missing, and the container has no user namespace whose maps could be used")
                })
            })?,
            _ => return Err(invalid("and gidMappings must be given together")),
        };
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_IDMAP,
            userns_fd: std::os::fd::AsRawFd::as_raw_fd(&namespace) as u64,
            ..Default::default()
        };
        set_attributes(tree, reach, &attr).map_err(|errno| match errno {
            Errno::INVAL => invalid(&format!(
                "the file system of {:?} cannot be mounted with mapped owners, or is so mounted already",
                mount.source().as_deref().unwrap_or(std::path::Path::new(""))
            )),
            errno => Error::System { doing: "map the owners of a mount", source: errno.into() },
        })
    }

    /// `Err(None)` if the container has no user namespace.
    fn containers_own(&self) -> Result<BorrowedFd<'_>, Option<Error>> {
        match &self.container {
            Container::None => Err(None),
            Container::Joined(fd) => Ok(fd.as_fd()),
            Container::Mapped(linux) => {
                if let Some(fd) = self.own.get() {
                    return Ok(fd.as_fd());
                }
                let uid = linux.uid_mappings().as_deref().unwrap_or_default();
                let gid = linux.gid_mappings().as_deref().unwrap_or_default();
                let fd = make(uid, gid).map_err(Some)?;
                Ok(self.own.get_or_init(|| fd).as_fd())
            }
        }
    }
}

/// A user namespace with maps as mount options have them: `CONTAINER:HOST:SIZE`, several with commas between.
pub(crate) fn of_options(uid: &str, gid: &str) -> Result<OwnedFd> {
    make(&maps_of(uid)?, &maps_of(gid)?)
}

fn maps_of(text: &str) -> Result<Vec<LinuxIdMapping>> {
    let invalid = || Error::InvalidSpec {
        field: "rootfs mount".into(),
        why: format!("{text:?} is no map of ids (CONTAINER:HOST:SIZE, several with commas between)"),
    };
    let map = |part: &str| {
        let mut numbers = part.split(':').map(|number| number.parse::<u32>().ok());
        let mut next = || numbers.next().flatten();
        let map = LinuxIdMappingBuilder::default().container_id(next()?).host_id(next()?).size(next()?);
        numbers.next().is_none().then_some(map)?.build().ok()
    };
    text.split(',').map(|part| map(part).ok_or_else(invalid)).collect()
}

/// A user namespace with these maps, held by its descriptor alone.
fn make(uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let [user] = held([libc::CLONE_NEWUSER], uid, gid)?;
    Ok(user)
}

/// Namespaces in which nobody lives: they are there for as long as these descriptors, or what is made of them.
#[derive(Debug)]
pub struct Unpeopled {
    pub user: OwnedFd,
    /// These belong to the user namespace: its root may do in them what the host's may on the host.
    pub network: OwnedFd,
    pub ipc: OwnedFd,
    pub uts: OwnedFd,
}

/// Makes a user namespace with these maps, and others that belong to it. May be called by a thread of a program that has others: the
/// process that is born in them does nothing but wait for its end.
///
/// # Errors
/// Maps that the kernel refuses, and namespaces that it does not make (`user.max_user_namespaces` and the like).
pub fn make_unpeopled(uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Result<Unpeopled> {
    let kinds = [libc::CLONE_NEWUSER, libc::CLONE_NEWNET, libc::CLONE_NEWIPC, libc::CLONE_NEWUTS];
    let [user, network, ipc, uts] = held(kinds, uid, gid)?;
    Ok(Unpeopled { user, network, ipc, uts })
}

/// New namespaces of these kinds, a user namespace among them, each held by a descriptor.
fn held<const N: usize>(
    kinds: [libc::c_int; N],
    uid: &[LinuxIdMapping],
    gid: &[LinuxIdMapping],
) -> Result<[OwnedFd; N]> {
    let system = |doing| move |errno: Errno| Error::System { doing, source: errno.into() };
    let flags = kinds.iter().fold(0, |all, kind| all | *kind);
    let maker = rustix::process::getpid();
    let holder = process::spawn(flags as u64, None, move || {
        let _ = process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
        // Who made it may be gone already, and would never be heard of.
        if rustix::process::getppid() == Some(maker) {
            loop {
                process::pause();
            }
        }
        0
    })
    .map_err(system("make a user namespace for a mapping"))?;
    let fill = || {
        namespaces::write_maps(holder.pid, uid, gid)?;
        let open = |kind: libc::c_int| {
            let path = format!("/proc/{}/ns/{}", holder.pid, namespaces::file_of(kind));
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(system("open a namespace of a mapping"))
        };
        let mut opened = Vec::with_capacity(N);
        for kind in kinds {
            opened.push(open(kind)?);
        }
        let lost =
            |_| Error::System { doing: "open the namespaces of a mapping", source: Errno::NOENT.into() };
        <[OwnedFd; N]>::try_from(opened).map_err(lost)
    };
    let made = fill();
    let _ = process::pidfd_send_signal(holder.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(holder.pidfd.as_fd(), Reap::Take);
    made
}
