//! The agent of a seccomp program with `SCMP_ACT_NOTIFY`: who gets the listener, and what is told with it
//! (runtime-spec, "The Container Process State").

use crate::hooks::About;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time that an agent may take to accept what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent that a profile names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    path: PathBuf,
    metadata: String,
    /// The container's state without process id and status.
    state: Value,
}

fn invalid(field: &str, why: &str) -> Error {
    Error::InvalidSpec { field: format!("linux.seccomp.{field}"), why: why.into() }
}

impl Agent {
    /// The agent of a profile that asks for one.
    pub(crate) fn of(seccomp: &LinuxSeccomp, about: &About<'_>) -> Result<Option<Agent>> {
        let notify = LinuxSeccompAction::ScmpActNotify;
        let path = seccomp.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty());
        let metadata = seccomp.listener_metadata().as_deref().unwrap_or_default();
        if path.is_none() && !metadata.is_empty() {
            return Err(invalid("listenerMetadata", "needs listenerPath"));
        }
        if seccomp.default_action() == notify {
            let why = "SCMP_ACT_NOTIFY for everything would also hold up what starts the program";
            return Err(invalid("defaultAction", why));
        }
        let mut rules = seccomp.syscalls().iter().flatten().filter(|rule| rule.action() == notify).peekable();
        if rules.peek().is_none() {
            return Ok(None);
        }
        if rules.any(|rule| rule.names().iter().any(|name| name == "write")) {
            let why = "SCMP_ACT_NOTIFY for \"write\" would hold up the hand-over of the listener itself";
            return Err(invalid("syscalls", why));
        }
        let path = path.ok_or_else(|| invalid("listenerPath", "SCMP_ACT_NOTIFY needs it"))?;
        let mut state = json!({
            "ociVersion": crate::SPEC_VERSION, "id": about.id, "bundle": about.bundle.to_string_lossy(),
        });
        if let Some(annotations) = about.annotations.filter(|annotations| !annotations.is_empty()) {
            state["annotations"] = json!(annotations);
        }
        Ok(Some(Agent { path: path.to_owned(), metadata: metadata.into(), state }))
    }

    /// Takes the listener out of the process that is being set up and sends it to the agent.
    pub(crate) fn hand_over(&self, number: i32, pidfd: BorrowedFd<'_>, pid: i32, status: &str) -> Result<()> {
        let system = |doing| move |errno: Errno| Error::System { doing, source: errno.into() };
        let listener = crate::sys::process::pidfd_getfd(pidfd, number)
            .map_err(system("take the seccomp listener from the process"))?;
        self.send(listener.as_fd(), pid, status).map_err(|errno| Error::Io {
            doing: "send the seccomp listener to the agent at linux.seccomp.listenerPath",
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    fn send(&self, listener: BorrowedFd<'_>, pid: i32, status: &str) -> Result<(), Errno> {
        let message = self.message(pid, status);
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Send,
            Some(PATIENCE),
        )?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [listener];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        // The descriptor travels with the first bytes only.
        let mut rest = message.as_slice();
        let sent = sendmsg(&socket, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL)?;
        rest = &rest[sent..];
        while !rest.is_empty() {
            let sent = rustix::net::send(&socket, rest, SendFlags::NOSIGNAL)?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    fn message(&self, pid: i32, status: &str) -> Vec<u8> {
        let mut state = self.state.clone();
        state["status"] = json!(status);
        state["pid"] = json!(pid);
        let mut message = json!({
            "ociVersion": crate::SPEC_VERSION, "fds": ["seccompFd"], "pid": pid, "state": state,
        });
        if !self.metadata.is_empty() {
            message["metadata"] = json!(self.metadata);
        }
        message.to_string().into_bytes()
    }
}
