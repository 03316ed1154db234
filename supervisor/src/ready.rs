//! Tells the service manager that the daemon answers (systemd's `Type=notify`). Without one, nothing is told, and nobody is
//! waited for.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the service manager listens.
const ADDRESS: &str = "NOTIFY_SOCKET";

/// Says that requests are served.
pub fn tell() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    if let Err(error) = send(&address, b"READY=1") {
        tracing::warn!("the service manager at {address} was not told that the daemon is ready: {error}");
    }
}

fn send(address: &str, message: &[u8]) -> io::Result<()> {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap(), b"READY=1").unwrap();
        let mut message = [0; 16];
        assert_eq!(manager.recv(&mut message).unwrap(), 7);
        assert!(send("/nonexistent/notify", b"READY=1").is_err());
    }
}
