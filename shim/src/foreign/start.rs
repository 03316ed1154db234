//! `start`: makes the socket, leaves a shim behind that serves it, and says where it is.
//!
//! What always holds: when the answer is given the socket takes connections; on a failure neither socket nor shim remain;
//! the shim has none of the descriptors on which the daemon waits for `start` to end.

use std::env;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::bootstrap::Question;
use super::flags::Flags;
use super::socket::{self, Socket};
use super::{say, seal, stdin};
use crate::error::{Error, Result};
use crate::{bundle, names, sys, task};

pub fn start(flags: &Flags) -> Result<()> {
    names::check("namespace", &flags.namespace)?;
    names::check("id", &flags.id)?;
    let bundle = bundle_of(flags)?;
    let newest = env::var("MAX_SHIM_VERSION").ok();
    let question = Question::read(&stdin()?, flags, newest.as_deref());
    let made = socket::listen(&bundle, &question.socket_dir, &flags.address, &flags.namespace, &flags.id)?;
    let path = match made {
        Socket::Taken { path } => path,
        Socket::New { listener, path } => {
            if let Err(error) = leave_shim(flags, &question, &bundle, &listener, &path) {
                let _ = std::fs::remove_file(&path);
                return Err(error);
            }
            path
        }
    };
    let address = socket::address(&path);
    // From which containerd before 1.7 reads it after a restart.
    let folder = bundle::open(&bundle)?;
    bundle::write(&folder, bundle::ADDRESS, address.as_bytes())?;
    say(&question.answer(&address))
}

/// The bundle's absolute path.
pub fn bundle_of(flags: &Flags) -> Result<PathBuf> {
    let failed = |source| Error::System { doing: "ask for the working directory", source };
    match &flags.bundle {
        Some(path) => std::path::absolute(path).map_err(failed),
        None => env::current_dir().map_err(failed),
    }
}

fn leave_shim(
    flags: &Flags,
    question: &Question,
    bundle: &Path,
    listener: &UnixListener,
    socket: &Path,
) -> Result<()> {
    // The shim inherits both.
    task::join_cgroup(&question.runc.shim_cgroup)?;
    sys::raise_oom_score();
    let failed = |source| Error::System { doing: "start the shim that stays", source };
    let program = seal::sealed_self(bundle).map_err(failed)?;
    let log = open_log(bundle).map_err(failed)?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0("containerd-shim-longshore-v1");
    command.args(["-namespace", &flags.namespace, "-id", &flags.id, "-address", &flags.address, "serve"]);
    command.current_dir(bundle).env(super::serve::SOCKET, socket);
    if env::var_os(super::serve::EVENTS).is_none() && !question.ttrpc_address.is_empty() {
        command.env(super::serve::EVENTS, &question.ttrpc_address);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
    sys::hand_over(&mut command, [listener.as_raw_fd()]);
    let child = command.spawn().map_err(failed)?;
    let folder = bundle::open(bundle)?;
    bundle::write(&folder, bundle::SHIM_PID, child.id().to_string().as_bytes())
}

/// The FIFO from which the daemon reads what the shim has to say. Open for reading too, it neither blocks nor breaks.
fn open_log(bundle: &Path) -> std::io::Result<File> {
    let path = bundle.join(bundle::LOG);
    let is_fifo = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match is_fifo {
        true => options.custom_flags(libc::O_NONBLOCK).open(path),
        false => options.open("/dev/null"),
    }
}
