//! `linux.netDevices`: network devices of the host that move into the container's network namespace, with their permanent
//! global addresses, and are up there. They are the namespace's from then on: nobody brings them back.

use crate::namespaces::Namespaces;
use crate::sys::netlink::{Address, Socket};
use crate::{Error, Result};
use oci_spec::runtime::Linux;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Longest name of a device, without NUL.
const NAME_MAX: usize = 15;

/// The devices of one container.
pub(crate) struct NetDevices {
    /// Names outside and inside.
    devices: Vec<(String, String)>,
    /// The namespace, if it is joined.
    joined: Option<OwnedFd>,
}

fn invalid(name: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: format!("linux.netDevices[{name:?}]"), why: why.into() }
}

impl NetDevices {
    /// Checks the names; nothing is moved yet.
    pub(crate) fn plan(linux: &Linux, namespaces: &Namespaces) -> Result<NetDevices> {
        let mut devices = Vec::new();
        for (outside, device) in linux.net_devices().iter().flatten() {
            let inside = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(outside);
            for name in [outside, inside] {
                check_name(name).map_err(|why| invalid(outside, format!("{name:?} {why}")))?;
            }
            if !namespaces.has(libc::CLONE_NEWNET) {
                return Err(invalid(outside, "needs a network namespace in linux.namespaces"));
            }
            devices.push((outside.clone(), inside.to_owned()));
        }
        devices.sort();
        let joined = match (devices.is_empty(), namespaces.network_to_join()) {
            (false, Some(fd)) => Some(
                fd.try_clone_to_owned()
                    .map_err(|source| Error::System { doing: "duplicate the network namespace", source })?,
            ),
            _ => None,
        };
        Ok(NetDevices { devices, joined })
    }

    /// Moves them to the network namespace of a process that is in its new one, or to the one that is joined.
    pub(crate) fn move_to(&self, pid: i32) -> Result<()> {
        if self.devices.is_empty() {
            return Ok(());
        }
        let opened;
        let namespace = match &self.joined {
            Some(fd) => fd.as_fd(),
            None => {
                let path = format!("/proc/{pid}/ns/net");
                let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                opened = fd.map_err(|errno| Error::Io {
                    doing: "open the network namespace",
                    path: path.into(),
                    source: errno.into(),
                })?;
                opened.as_fd()
            }
        };
        let system = |errno: Errno| Error::System { doing: "open a netlink socket", source: errno.into() };
        let mut here = Socket::open().map_err(system)?;
        let mut there = Socket::open_in(namespace).map_err(system)?;
        self.devices
            .iter()
            .try_for_each(|(outside, inside)| move_one(&mut here, &mut there, namespace, outside, inside))
    }
}

fn move_one(
    here: &mut Socket,
    there: &mut Socket,
    namespace: BorrowedFd<'_>,
    outside: &str,
    inside: &str,
) -> Result<()> {
    let failed = |doing: &'static str| {
        move |errno: Errno| {
            invalid(outside, format!("{doing}: {}", crate::error::errno_text(errno.raw_os_error())))
        }
    };
    let index = here.index_of(outside).map_err(failed("the host has no such device"))?;
    let addresses: Vec<Address> = here.addresses_of(index).map_err(failed("read its addresses"))?;
    here.move_device(index, namespace, inside)
        .map_err(failed("move it to the container's network namespace (is the name taken there?)"))?;
    // It keeps its index unless that is taken there; a template such as `eth%d` was filled in by the kernel.
    let index = match inside.contains("%d") {
        false => there.index_of(inside).map_err(failed("find it in the container's network namespace"))?,
        true => index,
    };
    for address in &addresses {
        there.add_address(index, address).map_err(failed("give it back its addresses"))?;
    }
    there.bring_up(index).map_err(failed("bring it up"))
}

fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = name.replacen("%d", "", 1);
    match () {
        () if name.is_empty() || name.len() > NAME_MAX => Err("is not 1 to 15 bytes long"),
        () if matches!(name, "." | "..") => Err("is no name of a device"),
        () if plain
            .chars()
            .any(|c| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control()) =>
        {
            Err("has a character that names of devices cannot have")
        }
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for fine in ["eth0", "eth%d", "a.b-c_d"] {
            assert!(check_name(fine).is_ok(), "{fine}");
        }
        for wrong in ["", "..", "a/b", "a b", "%s", "%d%d", "sixteen-bytes-xx", "a\n"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
