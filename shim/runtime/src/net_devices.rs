//! `linux.netDevices`: network devices of the host that move into the container's network namespace, with their permanent
//! global addresses, and are up there.
//!
//! What always holds: they are back as they were if the container does not come to be, and the namespace's for good if it
//! does.

use crate::namespaces::Namespaces;
use crate::sys::SysResult;
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
    pub(crate) fn move_to(&self, pid: i32) -> Result<Option<Moved>> {
        if self.devices.is_empty() {
            return Ok(None);
        }
        let open = |path: String| {
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
                Error::Io { doing: "open the network namespace", path: path.into(), source: errno.into() }
            })
        };
        let opened;
        let namespace = match &self.joined {
            Some(fd) => fd.as_fd(),
            None => {
                opened = open(format!("/proc/{pid}/ns/net"))?;
                opened.as_fd()
            }
        };
        let system = |errno: Errno| Error::System { doing: "open a netlink socket", source: errno.into() };
        let mut moved = Moved {
            home: open("/proc/thread-self/ns/net".into())?,
            here: Socket::open().map_err(system)?,
            there: Socket::open_in(namespace).map_err(system)?,
            devices: Vec::with_capacity(self.devices.len()),
        };
        self.devices.iter().try_for_each(|(outside, inside)| moved.take(namespace, outside, inside))?;
        Ok(Some(moved))
    }
}

/// Devices that were moved; dropped without having been kept, they go back.
pub(crate) struct Moved {
    home: OwnedFd,
    here: Socket,
    there: Socket,
    devices: Vec<Device>,
}

/// What a device was before.
struct Device {
    name: String,
    was_up: bool,
    addresses: Vec<Address>,
    /// Its number where it is now.
    index: u32,
}

impl Moved {
    /// The container has come to be: they are its.
    pub(crate) fn keep(mut self) {
        self.devices.clear();
    }

    fn take(&mut self, namespace: BorrowedFd<'_>, outside: &str, inside: &str) -> Result<()> {
        let failed = |doing: &'static str| {
            move |errno: Errno| {
                invalid(outside, format!("{doing}: {}", crate::error::errno_text(errno.raw_os_error())))
            }
        };
        let link = self.here.link(outside).map_err(failed("the host has no such device"))?;
        let addresses = self.here.addresses_of(link.index).map_err(failed("read its addresses"))?;
        self.here
            .move_device(link.index, namespace, inside)
            .map_err(failed("move it to the container's network namespace (is the name taken there?)"))?;
        // It keeps its index unless that is taken there; a template such as `eth%d` was filled in by the kernel.
        let found = match inside.contains("%d") {
            false => self.there.index_of(inside),
            true => Ok(link.index),
        };
        let index = *found.as_ref().unwrap_or(&link.index);
        self.devices.push(Device { name: outside.into(), was_up: link.is_up, addresses, index });
        found.map_err(failed("find it in the container's network namespace"))?;
        if let Some(device) = self.devices.last() {
            for address in &device.addresses {
                self.there.add_address(index, address).map_err(failed("give it back its addresses"))?;
            }
        }
        self.there.bring_up(index).map_err(failed("bring it up"))
    }

    fn bring_back(&mut self, device: &Device) -> SysResult<()> {
        self.there.move_device(device.index, self.home.as_fd(), &device.name)?;
        let index = self.here.index_of(&device.name)?;
        for address in &device.addresses {
            self.here.add_address(index, address)?;
        }
        if device.was_up { self.here.bring_up(index) } else { Ok(()) }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        for device in std::mem::take(&mut self.devices) {
            // The failure that led here is what is told.
            let _ = self.bring_back(&device);
        }
    }
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
