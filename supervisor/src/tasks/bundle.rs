//! Bundles: the folder in which a task lives on disk, `<state>/tasks/<namespace>/<id>`, mode 0700.
//!
//! What always holds: nothing is mounted in a bundle, its `rootfs` is an empty folder that is removed as such and never
//! descended into; what is written here is read again only by the daemon after a restart and by the bundle's shim.
//! Nothing is flushed to disk: the state folder is on a tmpfs, and a container does not outlive the host.
//!
//! For tools that know containerd's folders, `<state>/io.containerd.runtime.v2.task` leads to the same place; `log` leads to
//! what the shims say, and `shim-binary-path` says which program the shim is. Where several containers have one shim, `shim.sock`
//! and `shim.pid` lead to its folder.
//!
//! Files: `config.json`, `task.pb` ([`CreateRecord`]), `acknowledged` (a client was told that the task exists),
//! `forwarded` (how far events were published); by the shim: `shim.sock`, `shim.pid`, `init.pid`, `exit/<init|exec id>`.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_proto::containerd::task::v3::CreateTaskRequest;
use longshore_proto::longshore::shim::v1::ExitRecord;
use prost::Message;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// What the daemon keeps of a task for the daemon after it.
#[derive(Clone, PartialEq, Message)]
pub struct CreateRecord {
    /// What the shim was asked.
    #[prost(message, optional, tag = "1")]
    pub request: Option<CreateTaskRequest>,
    /// The shim's pid and the time of its start, which tell whether it still lives.
    #[prost(int32, tag = "2")]
    pub shim_pid: i32,
    #[prost(uint64, tag = "3")]
    pub shim_started_at: u64,
    /// Where the container's cgroups are, for the case that its shim is gone.
    #[prost(string, tag = "4")]
    pub cgroups_path: String,
    /// Set if the shim is not ours; then it is not told by its pid.
    #[prost(message, optional, tag = "5")]
    pub foreign: Option<super::foreign::ForeignRecord>,
    /// Set if the shim has all containers of this group.
    #[prost(string, tag = "6")]
    pub group: String,
}

/// How far the events of a task were published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The last sequence number of the shim.
    pub sequence: u64,
    /// The exit of the first process was.
    pub exited: bool,
}

/// The folder of one task.
#[derive(Clone, Debug)]
pub struct Bundle {
    path: PathBuf,
}

/// The folder of all tasks.
pub fn tasks_folder(state: &Path) -> PathBuf {
    state.join("tasks")
}

/// The folder of shims that have several containers.
pub fn shims_folder(state: &Path) -> PathBuf {
    state.join("shims")
}

/// Makes containerd's name for the folder of all tasks; whatever has the name already keeps it.
pub fn link_tasks_folder(state: &Path) {
    let link = state.join("io.containerd.runtime.v2.task");
    if let Err(error) = symlink("tasks", &link)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        tracing::warn!(link = %link.display(), %error, "cannot link the folder of all tasks");
    }
}

impl Bundle {
    /// Makes the folder with what the shim needs in it; the caller owns the id. On an error nothing of it is left.
    ///
    /// # Errors
    /// I/O.
    pub fn create(
        state: &Path,
        namespace: &Namespace,
        id: &str,
        spec: &[u8],
        record: &CreateRecord,
    ) -> Result<Self> {
        let parent = tasks_folder(state).join(namespace.as_str());
        let bundle = Self { path: parent.join(id) };
        let made = bundle.make_folder().or_else(|error| match error.kind() {
            // The first task of this namespace; or the last one's removal took the folder away just now.
            io::ErrorKind::NotFound => {
                private_folder().recursive(true).create(&parent).and_then(|()| bundle.make_folder())
            }
            // The caller owns the id, so this is what an earlier removal could not remove.
            io::ErrorKind::AlreadyExists => {
                bundle.remove();
                private_folder().recursive(true).create(&parent).and_then(|()| bundle.make_folder())
            }
            _ => Err(error),
        });
        made.map_err(|error| Error::io("making the bundle", &bundle.path, error))?;
        match bundle.fill(spec, record) {
            Ok(()) => Ok(bundle),
            Err(error) => {
                bundle.remove();
                Err(Error::io("writing the bundle", &bundle.path, error))
            }
        }
    }

    /// A folder that is there.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn make_folder(&self) -> io::Result<()> {
        private_folder().create(&self.path)
    }

    fn fill(&self, spec: &[u8], record: &CreateRecord) -> io::Result<()> {
        private_folder().create(self.path.join("rootfs"))?;
        private_folder().create(self.path.join("exit"))?;
        self.write("config.json", spec)?;
        self.write("task.pb", &record.encode_to_vec())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
    }

    /// Notes which program the shim is.
    pub fn name_shim(&self, program: &Path) -> Result<()> {
        self.write("shim-binary-path", program.as_os_str().as_bytes())
            .map_err(|error| Error::io("writing the bundle", &self.path, error))
    }

    /// Lets the bundle's `log` lead to the FIFO `name` of the state folder, into which the shims of the pool write.
    pub fn link_log(&self, name: &str) -> Result<()> {
        symlink(format!("../../../{name}"), self.path.join("log"))
            .map_err(|error| Error::io("linking the log in", &self.path, error))
    }

    /// Lets the bundle lead to a shim whose folder is `folder` of [`shims_folder`].
    pub fn link_shim(&self, folder: &Path) -> Result<()> {
        let name = folder.file_name().unwrap_or_default();
        let link = |file: &str| {
            symlink(Path::new("../../../shims").join(name).join(file), self.path.join(file))
                .map_err(|error| Error::io("linking the shim in", &self.path, error))
        };
        link("shim.sock").and_then(|()| link("shim.pid"))
    }

    /// Notes that a client was told that the task exists, so that it is kept even if it never starts.
    pub fn acknowledge(&self) -> Result<()> {
        self.write("acknowledged", b"").map_err(|e| Error::io("writing the bundle", &self.path, e))
    }

    pub fn is_acknowledged(&self) -> bool {
        self.path.join("acknowledged").exists()
    }

    /// Where the container's cgroups are, if its shim had systemd make them.
    pub fn cgroups_record(&self) -> Option<String> {
        fs::read_to_string(self.path.join("cgroups")).ok().filter(|record| !record.is_empty())
    }

    /// Whether the shim got as far as making the container's first process.
    pub fn has_init(&self) -> bool {
        self.path.join("init.pid").exists()
    }

    pub fn record(&self) -> Option<CreateRecord> {
        CreateRecord::decode(fs::read(self.path.join("task.pb")).ok()?.as_slice()).ok()
    }

    /// Replaces the record, by rename.
    ///
    /// # Errors
    /// I/O.
    pub fn set_record(&self, record: &CreateRecord) -> Result<()> {
        self.write(".task.pb", &record.encode_to_vec())
            .and_then(|()| fs::rename(self.path.join(".task.pb"), self.path.join("task.pb")))
            .map_err(|e| Error::io("writing the bundle", &self.path, e))
    }

    /// Notes how far events were published; a failure costs no more than one published twice.
    pub fn set_forwarded(&self, forwarded: Forwarded) {
        let text = format!("{} {}\n", forwarded.sequence, if forwarded.exited { "exited" } else { "alive" });
        if let Err(error) = self.write("forwarded", text.as_bytes())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(bundle = %self.path.display(), %error, "cannot note which events were published");
        }
    }

    pub fn forwarded(&self) -> Forwarded {
        let text = fs::read_to_string(self.path.join("forwarded")).unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let sequence = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        Forwarded { sequence, exited: words.next() == Some("exited") }
    }

    /// How a process ended, if its shim or the daemon wrote it down. `exec_id` is empty for the first process.
    pub fn exit_record(&self, exec_id: &str) -> Option<ExitRecord> {
        let bytes = fs::read(self.exit_path(exec_id)).ok()?;
        ExitRecord::decode(bytes.as_slice()).ok()
    }

    /// All exec ids that have an exit record.
    pub fn exited_execs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path.join("exit")) else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name != "init" && !name.starts_with('.'))
            .collect()
    }

    /// Writes how the first process ended, for a shim that could not.
    pub fn write_exit_record(&self, record: &ExitRecord) -> io::Result<()> {
        let name = if record.exec_id.is_empty() { "init" } else { &record.exec_id };
        let temporary = self.path.join("exit").join(format!(".{name}.daemon"));
        fs::write(&temporary, record.encode_to_vec())?;
        fs::rename(temporary, self.exit_path(&record.exec_id))
    }

    fn exit_path(&self, exec_id: &str) -> PathBuf {
        self.path.join("exit").join(if exec_id.is_empty() { "init" } else { exec_id })
    }

    /// As [`connect`].
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        connect(&self.path, limit).await
    }

    /// Removes the folder and, if it was the last of its namespace, the namespace's. What cannot be removed is left
    /// for the next start, and said.
    pub fn remove(&self) {
        for name in [
            "shim.sock",
            "shim.pid",
            "init.pid",
            "config.json",
            "task.pb",
            "acknowledged",
            "forwarded",
            "shim-binary-path",
            "log",
        ] {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = remove_files(&self.path.join("exit"));
        for name in ["exit", "rootfs"] {
            let _ = fs::remove_dir(self.path.join(name));
        }
        let mut removed = fs::remove_dir(&self.path);
        if removed.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::DirectoryNotEmpty) {
            let _ = remove_files(&self.path);
            removed = fs::remove_dir(&self.path);
        }
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(bundle = %self.path.display(), %error, "cannot remove the bundle");
            }
            _ => {
                // Fails while the namespace has other tasks.
                let _ = self.path.parent().map(fs::remove_dir);
            }
        }
    }
}

/// Connects to the shim that listens in a folder, however long its path is.
///
/// # Errors
/// `ConnectionRefused`: the shim is gone; `NotFound`: it was never there; `TimedOut`: it takes no connections.
pub async fn connect(folder: &Path, limit: Duration) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder: OwnedFd = rustix::fs::open(folder, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd()))?;
    let deadline = Instant::now() + limit;
    loop {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            // As many connections as it lets wait are waiting.
            Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn private_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Removes the files of a folder and nothing below it.
fn remove_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_in_a_bundle_is_found_again_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let namespace = Namespace::parse("ns").unwrap();
        let record = CreateRecord { shim_pid: 7, cgroups_path: "/a/b".into(), ..CreateRecord::default() };
        let bundle = Bundle::create(state.path(), &namespace, "c1", b"{}", &record).unwrap();
        assert_eq!(bundle.record().unwrap(), record);
        assert_eq!(bundle.forwarded(), Forwarded::default());
        let forwarded = Forwarded { sequence: 12, exited: true };
        bundle.set_forwarded(forwarded);
        assert_eq!(bundle.forwarded(), forwarded);
        assert!(!bundle.is_acknowledged());
        bundle.acknowledge().unwrap();
        assert!(bundle.is_acknowledged());
        let exit = ExitRecord { container_id: "c1".into(), exit_status: 9, ..ExitRecord::default() };
        bundle.write_exit_record(&exit).unwrap();
        bundle.name_shim(Path::new("/bin/shim")).unwrap();
        bundle.link_log("shims.fifo").unwrap();
        std::fs::write(state.path().join("shims.fifo"), "").unwrap();
        assert!(bundle.path().join("log").exists(), "it leads to the state folder");
        assert_eq!(bundle.exit_record("").unwrap(), exit);
        // The id was free again although something of its bundle was left.
        let bundle = Bundle::create(state.path(), &namespace, "c1", b"{}", &record).unwrap();
        assert!(!bundle.is_acknowledged() && bundle.exit_record("").is_none());
        let shim = shims_folder(state.path()).join("7-1");
        std::fs::create_dir_all(&shim).unwrap();
        std::fs::write(shim.join("shim.pid"), "7").unwrap();
        bundle.link_shim(&shim).unwrap();
        assert_eq!(std::fs::read_to_string(bundle.path().join("shim.pid")).unwrap(), "7");
        bundle.remove();
        assert!(!state.path().join("tasks/ns").exists());
        assert!(shim.join("shim.pid").exists(), "it is the shim's");
    }

    #[tokio::test]
    async fn a_socket_is_reached_under_a_path_longer_than_an_address() {
        let state = tempfile::tempdir().unwrap();
        let deep = state.path().join("d".repeat(100));
        let namespace = Namespace::parse("ns").unwrap();
        let bundle =
            Bundle::create(&deep, &namespace, &"c".repeat(76), b"{}", &CreateRecord::default()).unwrap();
        let limit = Duration::from_secs(1);
        assert_eq!(bundle.connect(limit).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        let folder = fs::File::open(bundle.path()).unwrap();
        let path = format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd());
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        bundle.connect(limit).await.unwrap();
        drop(listener);
        assert_eq!(bundle.connect(limit).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
