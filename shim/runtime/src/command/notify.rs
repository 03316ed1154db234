//! `NOTIFY_SOCKET`: a container that says it is ready tells whoever watches over this command, as systemd does.
//!
//! What always holds: the container sees a folder of its own with one socket in it, never the host's socket; of what it
//! sends only a line that begins with `READY=` goes on.

use super::error::{Error, Result};
use super::limits;
use oci_spec::runtime::{Mount, MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

const FOLDER: &str = "notify";
const SOCKET: &str = "notify.sock";
const INSIDE: &str = "/run/notify";

/// The host's socket, as the environment names it.
pub struct Notify {
    host: OsString,
    folder: PathBuf,
}

impl Notify {
    /// `None` if nobody wants to be told.
    pub fn wanted(folder: &std::path::Path) -> Option<Notify> {
        let host = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        Some(Notify { host, folder: folder.join(FOLDER) })
    }

    /// Gives the container a socket to talk to.
    pub fn add_to(&self, spec: &mut Spec) -> Result<()> {
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
        let mount: Mount = MountBuilder::default()
            .destination(INSIDE)
            .typ("bind")
            .source(&self.folder)
            .options(options)
            .build()
            .map_err(|_| Error::Config("the notify socket's folder cannot be mounted"))?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.push(mount);
        spec.set_mounts(Some(mounts));
        if let Some(process) = spec.process_mut() {
            let mut env = process.env().clone().unwrap_or_default();
            env.retain(|variable| !variable.starts_with("NOTIFY_SOCKET="));
            env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
            process.set_env(Some(env));
        }
        Ok(())
    }

    /// Makes the folder that is mounted; once the container's folder is there.
    pub fn make_folder(&self) -> Result<()> {
        let made = fs::DirBuilder::new().mode(0o755).create(&self.folder);
        made.map_err(Error::io("make the notify socket's folder", &self.folder))?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o755))
            .map_err(Error::io("open up the notify socket's folder", &self.folder))
    }

    /// Whether the container was made with one.
    pub fn is_prepared(&self) -> bool {
        self.folder.is_dir()
    }

    /// Opens the socket for the container; before it runs.
    pub fn bind(&self) -> Result<UnixDatagram> {
        let path = self.folder.join(SOCKET);
        // By way of a descriptor, as the path may be longer than a socket's address.
        let dir = fs::File::open(&self.folder).map_err(Error::io("open", &self.folder))?;
        let short = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
        let socket = UnixDatagram::bind(short).map_err(Error::io("make the notify socket", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
            .map_err(Error::io("open up the notify socket", &path))?;
        Ok(socket)
    }

    /// Waits until the container is ready or gone, and tells the host. `main` is what the host is told as main process.
    pub fn forward(&self, socket: &UnixDatagram, pidfd: BorrowedFd<'_>, main: i32) -> Result<()> {
        loop {
            let mut ready =
                [PollFd::new(socket, PollFlags::IN), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            match poll(&mut ready, None::<&Timespec>) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other.map_err(Error::system("wait for the container to be ready"))?,
            };
            if !ready[0].revents().is_empty() {
                let mut message = [0; limits::NOTIFY];
                let length = socket.recv(&mut message).map_err(Error::system("read from the container"))?;
                let line =
                    message[..length].split(|byte| *byte == b'\n').find(|line| line.starts_with(b"READY="));
                if let Some(line) = line {
                    return self.tell(line, main);
                }
            } else if !ready[1].revents().is_empty() {
                return Ok(());
            }
        }
    }

    fn tell(&self, ready: &[u8], main: i32) -> Result<()> {
        let failed = || Error::io("tell that the container is ready", &self.host);
        let address = match self.host.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&self.host),
        };
        let address = address.map_err(failed())?;
        let socket = UnixDatagram::unbound().map_err(failed())?;
        socket.set_write_timeout(Some(limits::SOCKET)).map_err(failed())?;
        let mut text = ready.to_vec();
        text.extend_from_slice(format!("\nMAINPID={main}\n").as_bytes());
        socket.send_to_addr(&text, &address).map_err(failed())?;
        Ok(())
    }
}
