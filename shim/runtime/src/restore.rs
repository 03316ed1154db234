//! A container from the files of a checkpoint, by criu.
//!
//! What always holds: cgroups, limits, mounts and namespaces come from the config; the restored processes stand still until
//! they have been compared with it, and are killed if an image gives them more than it allows.

use crate::cgroups::{CgroupPaths, Manager, OomWatch};
use crate::container::SeccompProgram;
use crate::criu::{self, DESCRIPTORS, MASK, Parent};
use crate::criu_service::{Criu, Done, Kind as Asked, Message, Passed, field};
use crate::init::{Listener, Step};
use crate::namespaces::Namespaces;
use crate::paths::Kind;
use crate::scheduling::MemoryPolicy;
use crate::sys::process as sys;
use crate::{
    Container, Error, Process, Result, RootfsMount, Stdio, mounts, paths, restored, rootfs, scheduling,
    seccomp,
};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const LOG: &str = "restore.log";

/// What is restored, and as what.
pub struct RestoreOptions<'a> {
    /// The criu program; a bare name is looked up.
    pub criu: &'a Path,
    pub id: &'a str,
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    /// As for [`Container::create`].
    pub rootfs_mounts: &'a [RootfsMount],
    /// In the place of what the dumped process's stdio was; [`Stdio::Terminal`] exactly if `process.terminal` is true.
    pub stdio: Stdio,
    pub seccomp_cache: Option<&'a Path>,
    pub systemd_cgroup: bool,
    /// As for [`Container::create`].
    pub note_cgroups: Option<crate::options::NoteCgroups<'a>>,
    /// Folder of the image files, with plain files only.
    pub image: &'a Path,
    /// Folder of criu's logs and its pid file.
    pub work: &'a Path,
    pub tcp_established: bool,
    pub external_unix_sockets: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    pub empty_namespaces: &'a [String],
    /// Which earlier image this one may build on.
    pub parent: Parent<'a>,
    /// Memory comes when it is used, from a daemon of criu (`criu lazy-pages`) that listens in `work`.
    pub lazy_pages: bool,
    /// `TYPE:NAME` of another security profile than the dumped one, and another security context of mounts.
    pub lsm_profile: Option<&'a str>,
    pub lsm_mount_context: Option<&'a str>,
}

impl Container {
    /// Restores a container; its processes stand still until [`Container::start`]. The first one is the caller's
    /// child.
    ///
    /// # Errors
    /// No criu, an image folder with links in it, an image that gives more than the config, and what criu says.
    pub fn restore(options: RestoreOptions<'_>) -> Result<Container> {
        let linux = options.spec.linux().as_ref().ok_or_else(|| invalid("linux", "is missing"))?;
        let wants = options.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
        let stdio = match (&options.stdio, wants) {
            (Stdio::Fds { stdin, stdout, stderr }, false) => {
                vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
            }
            (Stdio::Terminal, true) => Vec::new(),
            (Stdio::Fds { .. }, true) => {
                return Err(invalid("process.terminal", "is true, but no terminal was asked for"));
            }
            (Stdio::Terminal, false) => {
                return Err(invalid("process.terminal", "is false, but a terminal was asked for"));
            }
        };
        let criu = criu::find(options.criu)?;
        criu::check_image(options.image, options.parent)?;
        // A folder for both is as the image's.
        criu::check_folder(options.work, options.work == options.image)?;
        let manager = if options.systemd_cgroup { Manager::Systemd } else { Manager::Files };
        let (cgroups, placeholder) = CgroupPaths::create(options.spec, options.id, manager)?;
        let restored = (|| {
            options.note_cgroups.map_or(Ok(()), |note| note(&cgroups))?;
            cgroups.enable_usual_controllers()?;
            let warnings = cgroups.limit_new(linux.resources().as_ref())?;
            let restored = run(&criu, &options, &cgroups, &stdio)?;
            drop(placeholder);
            if wants && restored.terminal.is_none() {
                let path = options.image.into();
                return Err(Error::UntrustedImage {
                    path,
                    why: "has no terminal, and the config has".into(),
                });
            }
            examine(&options, restored, warnings, cgroups.watch_oom()?)
        })();
        match restored {
            Ok(found) => Ok(found.into_container(options.id, cgroups)),
            Err(error) => {
                let _ = cgroups.kill_all(libc::SIGKILL);
                let _ = cgroups.remove();
                Err(error)
            }
        }
    }
}

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: field.into(), why: why.into() }
}

fn system(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::System { doing, source: errno.into() }
}

/// The mount namespace of the caller, to which it returns.
struct Aside {
    namespace: OwnedFd,
    folder: OwnedFd,
}

impl Aside {
    /// Goes to a copy that nobody else sees, and that vanishes with the last process in it.
    fn step() -> Result<Aside> {
        let open = |path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let namespace =
            open(c"/proc/self/ns/mnt", OFlags::RDONLY).map_err(system("open the mount namespace"))?;
        let folder =
            open(c".", OFlags::PATH | OFlags::DIRECTORY).map_err(system("open the working directory"))?;
        sys::unshare(libc::CLONE_NEWNS).map_err(system("make a mount namespace"))?;
        let aside = Aside { namespace, folder };
        crate::sys::mount::set_propagation(c"/", libc::MS_SLAVE | libc::MS_REC)
            .map_err(system("cut the mounts off the host's"))?;
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // A failure would leave this process among mounts that nobody else has: better that it ends.
        if sys::setns(self.namespace.as_fd(), libc::CLONE_NEWNS).is_err()
            || rustix::process::fchdir(&self.folder).is_err()
        {
            sys::exit(255)
        }
    }
}

/// Runs criu beside the host's mounts and in the container's cgroups.
fn run(
    criu: &Path,
    options: &RestoreOptions<'_>,
    cgroups: &CgroupPaths,
    stdio: &[BorrowedFd<'_>],
) -> Result<Done> {
    let root = options.spec.root().as_ref().ok_or_else(|| invalid("root", "is missing"))?;
    let root = options.bundle.join(root.path());
    let _aside = Aside::step()?;
    let folder = mount_root(options, &root)?;
    let mut passed = Passed::default();
    let mut request = request(options, &root, &mut passed)?;
    for external in criu::externals(options.spec, options.bundle, cgroups) {
        make_target(folder.as_fd(), options.spec, &external)?;
        request.text(field::EXTERNAL, format!("mnt[{}]:{}", external.inside, external.source.display()));
    }
    let mut known: Vec<String> = Vec::new();
    for (key, fd) in descriptors(options.image)?.into_iter().zip(stdio) {
        if !key.is_empty() && !known.contains(&key) {
            let fd = passed.keep(fd).map_err(system("duplicate a descriptor of stdio"))?;
            request.inherit(&key, fd);
            known.push(key);
        }
    }
    for (_, key, path) in criu::shared_namespaces(options.spec) {
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let fd = fd.map_err(|errno| Error::Io { doing: "open the namespace", path, source: errno.into() })?;
        request.inherit(key, passed.keep(fd).map_err(system("duplicate a namespace"))?);
    }
    for (kind, path) in criu::joined_namespaces(options.spec) {
        request.join_namespace(kind, &path);
    }
    execute(criu, request, options, cgroups, passed)
}

fn failure(options: &RestoreOptions<'_>, why: &str) -> Error {
    let log = options.work.join(LOG);
    let words = criu::last_words(&log);
    Error::Criu { doing: "restore", why: if words.is_empty() { why.into() } else { words }, log }
}

/// The root as criu wants it: a mount of its own, at its place.
fn mount_root(options: &RestoreOptions<'_>, root: &Path) -> Result<OwnedFd> {
    let own = [RootfsMount {
        kind: "bind".into(),
        source: root.to_string_lossy().into_owned(),
        target: String::new(),
        options: vec!["rbind".into()],
    }];
    let mounts = if options.rootfs_mounts.is_empty() { &own[..] } else { options.rootfs_mounts };
    rootfs::mount_on_host(mounts, root)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| Error::Io {
        doing: "open the rootfs",
        path: root.into(),
        source: errno.into(),
    })
}

/// criu follows links to where it mounts: there must be none (a link in the rootfs would lead to the host's files).
fn make_target(root: BorrowedFd<'_>, spec: &Spec, external: &criu::External) -> Result<()> {
    // What a new file system covers, criu makes there by itself.
    let below = |mount: &oci_spec::runtime::Mount| {
        let above = format!("/{}/", paths::clean(&mount.destination().to_string_lossy()));
        external.inside.starts_with(&above)
            && mount.typ().as_deref().is_some_and(|kind| kind != "bind" && kind != "none")
    };
    if spec.mounts().iter().flatten().any(below) {
        return Ok(());
    }
    let kind = if external.source.is_dir() { Kind::Directory } else { Kind::File };
    let target = mounts::in_root(&external.inside)?;
    paths::open_or_create(root, &target, kind, paths::Links::Refuse).map(drop).map_err(|errno| {
        Error::UntrustedImage {
            path: PathBuf::from(&external.inside),
            why: format!(
                "cannot be mounted at without following a link in the rootfs: {}",
                crate::error::errno_text(errno.raw_os_error())
            ),
        }
    })
}

/// Everything that criu is told but for what is outside of the image.
fn request(options: &RestoreOptions<'_>, root: &Path, passed: &mut Passed) -> Result<Message> {
    let mut request = Message::default();
    request.number(field::IMAGES, passed.keep_folder(options.image)?.into());
    request.number(field::WORK, passed.keep_folder(options.work)?.into());
    let leave_stopped = passed.keep(leave_stopped()?).map_err(system("duplicate criu's configuration"))?;
    request.text(field::CONFIG, format!("/proc/self/fd/{leave_stopped}"));
    request.text(field::ROOT, root.as_os_str().as_bytes());
    request.text(field::LOG_FILE, LOG);
    request.number(field::LOG_LEVEL, 4);
    // Cgroups come from the config.
    request.number(field::CGROUPS_MODE, 0);
    request.flag(field::SIBLING, true);
    request.flag(field::NOTIFICATIONS, true);
    request.text(field::EXTERNAL, format!("mnt[{MASK}]:{MASK}"));
    criu::empty_namespaces(options.empty_namespaces, &mut request)?;
    let flags = [
        (field::TERMINAL, matches!(options.stdio, Stdio::Terminal)),
        (field::TCP, options.tcp_established),
        (field::UNIX_SOCKETS, options.external_unix_sockets),
        (field::SHELL_JOB, options.shell_job),
        (field::FILE_LOCKS, options.file_locks),
        (field::AUTO_DEDUP, options.auto_dedup),
        (field::LAZY_PAGES, options.lazy_pages),
    ];
    flags.into_iter().for_each(|(field, is_set)| request.flag(field, is_set));
    for (field, value) in
        [(field::LSM_PROFILE, options.lsm_profile), (field::LSM_MOUNTS, options.lsm_mount_context)]
    {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            request.text(field, value);
        }
    }
    Ok(request)
}

/// What the service has no field for in every version: a configuration file that nobody else can write to.
fn leave_stopped() -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create(c"criu.conf", MemfdFlags::CLOEXEC)
        .map_err(system("make criu's configuration"))?;
    rustix::io::write(&file, b"leave-stopped\n").map_err(system("write criu's configuration"))?;
    Ok(file)
}

/// What the dumped process's stdio was. Only names of what comes from outside are taken.
fn descriptors(image: &Path) -> Result<Vec<String>> {
    let path = image.join(DESCRIPTORS);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|source| Error::Io { doing: "read", path: path.clone(), source })?,
    };
    let list: Vec<String> = serde_json::from_slice(&text)
        .map_err(|error| Error::UntrustedImage { path, why: error.to_string() })?;
    let inner = |key: &str, kind: &str| key.strip_prefix(kind)?.strip_suffix(']').map(str::to_owned);
    let fine = |key: &String| {
        let number = |text: String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let file = |text: String| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
        inner(key, "pipe:[").is_some_and(number)
            || inner(key, "socket:[").is_some_and(number)
            || inner(key, "file[").is_some_and(file)
    };
    Ok(list.into_iter().take(3).map(|key| if fine(&key) { key } else { String::new() }).collect())
}

fn execute(
    criu: &Path,
    request: Message,
    options: &RestoreOptions<'_>,
    cgroups: &CgroupPaths,
    mut passed: Passed,
) -> Result<Done> {
    let joins = cgroups.plan_joins()?;
    let namespaces = options.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own_cgroups = namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Cgroup && namespace.path().is_none());
    let enter_cgroups = || {
        for join in &joins {
            if let Step::JoinCgroup { tasks, .. } = join {
                rustix::io::write(tasks, b"0")?;
            }
        }
        // Its processes see the container's cgroups as the root of all.
        if own_cgroups { sys::unshare(libc::CLONE_NEWCGROUP) } else { Ok(()) }
    };
    let group = cgroups.v2_to_be_born_in().map(|group| group.dir());
    let criu = Criu::start(criu, &mut passed, group, enter_cgroups)?;
    criu.ask(Asked::Restore, request, criu::PATIENCE).map_err(|why| failure(options, &why))
}

/// What was restored, and found to be what the config allows.
struct Found {
    pid: i32,
    terminal: Option<OwnedFd>,
    pidfd: OwnedFd,
    warnings: Vec<String>,
    oom: Option<OomWatch>,
    namespaces: i32,
    seccomp: Option<SeccompProgram>,
    memory_policy: Option<MemoryPolicy>,
}

impl Found {
    fn into_container(self, id: &str, cgroups: CgroupPaths) -> Container {
        Container {
            init: Process { pid: self.pid, pidfd: self.pidfd, terminal: self.terminal, gate: None },
            id: id.into(),
            warnings: self.warnings,
            cgroups: cgroups.into(),
            oom: self.oom,
            namespaces: self.namespaces,
            seccomp: self.seccomp,
            personality: None,
            memory_policy: self.memory_policy,
            rdt: None,
            new_keyring: false,
            _mount_namespace: None,
            restored: true,
            poststart: None,
            poststop: None,
        }
    }
}

/// Looks at what was restored, before any of it runs.
fn examine(
    options: &RestoreOptions<'_>,
    restored: Done,
    warnings: Vec<String>,
    oom: Option<OomWatch>,
) -> Result<Found> {
    let Done { pid, terminal } = restored;
    let linux = options.spec.linux().as_ref().ok_or_else(|| invalid("linux", "is missing"))?;
    let process = rustix::process::Pid::from_raw(pid).ok_or(Error::NotRunning)?;
    let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())
        .map_err(system("open the restored process"))?;
    restored::verify(options.spec, pid)?;
    let profile = linux.seccomp().as_ref();
    let profile = profile.map(|profile| seccomp::plan(profile, options.seccomp_cache, Listener::None));
    let seccomp = match profile.transpose()? {
        Some(Step::Seccomp { program, flags, listener }) => {
            Some(SeccompProgram { program, flags, listener, agent: None })
        }
        _ => None,
    };
    let namespaces = Namespaces::plan(linux)?.flags();
    let memory_policy = scheduling::memory_policy(linux)?;
    Ok(Found { pid, terminal, pidfd, warnings, oom, namespaces, seccomp, memory_policy })
}
