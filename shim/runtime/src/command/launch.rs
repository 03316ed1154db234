//! Making a container for `create` and `run`: what both do alike, and the undoing of all of it.
//!
//! What always holds: a failure leaves no process, cgroup or folder behind.

use super::args::{Args, Flag};
use super::error::{Error, Result};
use super::notify::Notify;
use super::store::{self, Folder, State};
use super::{Global, config, console, limits, pidfile};
use longshore_runtime::cgroups::CgroupPaths;
use longshore_runtime::handover::Handover;
use longshore_runtime::{Container, CreateOptions, Stdio};
use std::os::fd::AsFd;
use std::path::Path;

/// Flags of `create` and `run`.
pub const BUNDLE: Flag =
    Flag::value("bundle", "the bundle's folder (default: the working directory)").or('b');
pub const CONSOLE_SOCKET: Flag =
    Flag::value("console-socket", "socket that receives the terminal's master side");
pub const PIDFD_SOCKET: Flag =
    Flag::value("pidfd-socket", "socket that receives a pidfd of the first process");
pub const PID_FILE: Flag = Flag::value("pid-file", "file to write the process id to");
pub const NO_PIVOT: Flag =
    Flag::switch("no-pivot", "move the rootfs to / instead of pivot_root, for a root on a ramdisk");
pub const NO_NEW_KEYRING: Flag = Flag::switch("no-new-keyring", "stay in the caller's session keyring");
pub const PRESERVE_FDS: Flag =
    Flag::value("preserve-fds", "pass on so many descriptors above stdio and $LISTEN_FDS");

/// Whether this command stays with the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Another command opens the gate.
    Create,
    /// We open the gate and leave.
    Detach,
    /// We open the gate and wait.
    Foreground,
}

/// A container that was made.
pub struct Launched {
    pub folder: Folder,
    pub container: Container,
    pub notify: Option<Notify>,
}

/// Descriptors that are passed on, and how many of them came by socket activation.
pub struct Passed {
    pub listen: u32,
    pub all: u32,
}

impl Passed {
    /// Must be asked before anything is opened.
    pub fn of(args: &Args) -> Result<Passed> {
        let listen = listen_fds();
        let preserve: u32 = args.number("preserve-fds")?.unwrap_or(0);
        if listen.saturating_add(preserve) > limits::PRESERVE_FDS {
            return Err(Error::Usage {
                why: format!("more than {} descriptors cannot be passed on", limits::PRESERVE_FDS),
            });
        }
        let is_open = |fd: u32| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
        if let Some(missing) = (0..listen).find(|number| !is_open(3 + number)) {
            let why = format!("LISTEN_FDS is {listen}, but descriptor {} is not open", 3 + missing);
            return Err(Error::Usage { why });
        }
        if let Some(number) = (0..preserve).find(|number| !is_open(3 + listen + number)) {
            return Err(Error::NoDescriptor { number, count: preserve });
        }
        Ok(Passed { listen, all: listen + preserve })
    }

    /// Tells the process of descriptors that came by socket activation.
    pub fn tell(&self, env: &mut Vec<String>) {
        if self.listen > 0 {
            env.retain(|variable| {
                !variable.starts_with("LISTEN_FDS=") && !variable.starts_with("LISTEN_PID=")
            });
            env.extend([format!("LISTEN_FDS={}", self.listen), "LISTEN_PID=1".into()]);
        }
    }
}

/// How many descriptors socket activation has given to this very process.
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// The stdio of this command.
pub fn own_stdio() -> Result<Stdio> {
    let duplicate = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(Error::system("duplicate a descriptor of stdio"))
    };
    Ok(Stdio::Fds {
        stdin: duplicate(std::io::stdin().as_fd())?,
        stdout: duplicate(std::io::stdout().as_fd())?,
        stderr: duplicate(std::io::stderr().as_fd())?,
    })
}

/// Refuses a terminal that nobody would have, and a socket that nobody would use.
pub fn check_terminal(terminal: bool, stay: Stay, console_socket: Option<&str>) -> Result<()> {
    match (stay == Stay::Foreground, terminal, console_socket) {
        (false, true, None) => Err(Error::Config(
            "cannot allocate tty if longshore-runtime will detach without setting console socket",
        )),
        (true, _, Some(_)) | (_, false, Some(_)) => Err(Error::Config(
            "cannot use console socket if longshore-runtime will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// Makes a container whose first process waits at its gate.
pub fn launch(global: &Global, args: &Args, stay: Stay, size: Option<(u16, u16)>) -> Result<Launched> {
    let id = args.id()?;
    let passed = Passed::of(args)?;
    let mut bundle = config::bundle(args.filled("bundle"))?;
    let socket = args.filled("console-socket");
    check_terminal(config::wants_terminal(bundle.spec.process().as_ref()), stay, socket)?;
    let claim = Claim::new(store::claim(&global.root, id)?);
    let folder = claim.folder()?;
    let notify = Notify::wanted(&folder.path);
    if let Some(notify) = &notify {
        notify.make_folder()?;
        notify.add_to(&mut bundle.spec)?;
    }
    if passed.listen > 0
        && let Some(process) = bundle.spec.process_mut()
    {
        let mut env = process.env().clone().unwrap_or_default();
        passed.tell(&mut env);
        process.set_env(Some(env));
    }
    let mut state = State::new(id, bundle.path, &bundle.spec, global.systemd_cgroup);
    folder.write_config(&bundle.bytes)?;
    folder.write(&state)?;
    for warning in longshore_runtime::rootless::enter_new(&mut bundle.spec)? {
        global.log.warn(&warning);
    }
    let terminal = config::wants_terminal(bundle.spec.process().as_ref());
    let note = |cgroups: &CgroupPaths| folder.note(&global.root, &state, cgroups);
    let container = Container::create(CreateOptions {
        id,
        bundle: &state.bundle,
        spec: &bundle.spec,
        rootfs_mounts: &[],
        stdio: if terminal { Stdio::Terminal } else { own_stdio()? },
        console_size: size,
        seccomp_cache: Some(&store::seccomp_cache(&global.root)),
        no_pivot: args.has("no-pivot"),
        no_new_keyring: args.has("no-new-keyring"),
        hand_over: if stay == Stay::Create { Some(Handover::make(folder.fd())?) } else { None },
        preserve_fds: passed.all,
        init: None,
        systemd_cgroup: global.systemd_cgroup,
        note_cgroups: Some(&note),
    })?;
    let mut made = Made::new(container);
    let container = made.container()?;
    for warning in container.warnings() {
        global.log.warn(warning);
    }
    hand_out(args, container)?;
    state.container = Some(container.record()?);
    folder.write(&state)?;
    Ok(Launched { notify, container: made.keep()?, folder: claim.keep()? })
}

/// Gives the callers' sockets and file what they wait for.
pub fn hand_out(args: &Args, container: &mut Container) -> Result<()> {
    if let Some(socket) = args.filled("console-socket") {
        let terminal = container.take_terminal().ok_or(Error::Config("the container has no terminal"))?;
        console::connect_to(Path::new(socket))?.send("/dev/ptmx", terminal.as_fd())?;
    }
    if let Some(socket) = args.filled("pidfd-socket") {
        console::connect_to(Path::new(socket))?.send("pidfd", container.pidfd())?;
    }
    match args.filled("pid-file") {
        Some(path) => pidfile::write(Path::new(path), container.pid()),
        None => Ok(()),
    }
}

/// The folder of a container that may not come to be.
pub struct Claim(Option<Folder>);

impl Claim {
    pub fn new(folder: Folder) -> Claim {
        Claim(Some(folder))
    }

    pub fn folder(&self) -> Result<&Folder> {
        self.0.as_ref().ok_or(Error::NotExist)
    }

    pub fn keep(mut self) -> Result<Folder> {
        self.0.take().ok_or(Error::NotExist)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = folder.remove();
        }
    }
}

/// A container that may have to be unmade.
pub struct Made(Option<Container>);

impl Made {
    pub fn new(container: Container) -> Made {
        Made(Some(container))
    }

    pub fn container(&mut self) -> Result<&mut Container> {
        self.0.as_mut().ok_or(Error::NotRunning)
    }

    pub fn keep(mut self) -> Result<Container> {
        self.0.take().ok_or(Error::NotRunning)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(container) = self.0.take() {
            let _ = container.delete();
        }
    }
}
