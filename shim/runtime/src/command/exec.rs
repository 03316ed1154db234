//! `exec`: one more process in a container.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::foreground::{self, Signals, Watched};
use super::launch::{self, Passed, Stay};
use super::log::Log;
use super::store::{self, Folder, State, Status};
use super::terminal::{Host, Relay};
use super::{Global, Verb, config, console, pidfile, sealed};
use longshore_runtime::{Container, ExecOptions, Stdio};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, Spec};
use std::os::fd::AsFd;
use std::path::Path;

pub const VERB: Verb = Verb {
    name: "exec",
    about: "execute a further process in a container",
    operands: "<container-id> <command> [arguments]  |  -p process.json <container-id>",
    count: (1, usize::MAX),
    flags: &[
        launch::CONSOLE_SOCKET,
        launch::PIDFD_SOCKET,
        Flag::value("cwd", "working directory in the container"),
        Flag::list("env", "add an environment variable").or('e'),
        Flag::switch("tty", "give the process a terminal").or('t'),
        Flag::value("user", "user: UID[:GID]").or('u'),
        Flag::list("additional-gids", "add a group").or('g'),
        Flag::value("process", "file with the process as JSON").or('p'),
        Flag::switch("detach", "leave the process to itself once it runs").or('d'),
        launch::PID_FILE,
        Flag::value("process-label", "SELinux label of the process"),
        Flag::value("apparmor", "AppArmor profile of the process"),
        Flag::switch("no-new-privs", "set no_new_privs"),
        Flag::list("cap", "add a capability").or('c'),
        launch::PRESERVE_FDS,
        Flag::list("cgroup", "run in an existing cgroup below the container's: [CONTROLLER,…:]PATH"),
        Flag::switch("ignore-paused", "also in a paused container"),
    ],
    reach: Reach::BeforeOperands,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    exec(global, args).map_err(|error| error.of_verb("exec"))
}

fn exec(global: &Global, args: &Args) -> Result<i32> {
    sealed::ensure(store::make_root(&global.root)?)?;
    let passed = Passed::of(args)?;
    let folder = store::open(&global.root, args.id()?)?;
    let state = folder.read()?;
    check_status(&folder, &state, args.has("ignore-paused"))?;
    let record = state.container.as_ref().ok_or(Error::Status(STOPPED))?;
    let spec = folder.config()?;
    let mut process = process(args, &spec, &global.log)?;
    let mut env = process.env().clone().unwrap_or_default();
    passed.tell(&mut env);
    process.set_env(Some(env));
    let stay = if args.has("detach") { Stay::Detach } else { Stay::Foreground };
    let terminal = config::wants_terminal(Some(&process));
    launch::check_terminal(terminal, stay, args.filled("console-socket"))?;
    let pidfd = record.process().ok_or(Error::Status(STOPPED))?;
    longshore_runtime::rootless::enter(pidfd.as_fd())?;
    let mut container =
        Container::attach(&state.id, record, &spec, Some(&store::seccomp_cache(&global.root)))?;
    for part in args.list("cgroup") {
        container.enter_cgroup_below(part)?;
    }
    let host = if stay == Stay::Foreground && terminal { Some(Host::find()?) } else { None };
    let mut added = container.exec(ExecOptions {
        process: &process,
        stdio: if terminal { Stdio::Terminal } else { launch::own_stdio()? },
        console_size: host.as_ref().and_then(Host::size),
        ignore_paused: args.has("ignore-paused"),
        preserve_fds: passed.all,
    })?;
    for warning in container.warnings() {
        global.log.warn(warning);
    }
    // Not before: while the process is being set up, signals end this command as any other.
    let signals = if stay == Stay::Foreground { Some(Signals::catch()?) } else { None };
    hand_out(args, &mut added)?;
    let relay = match (host, added.take_terminal()) {
        (Some(host), Some(terminal)) => Some(Relay::new(host, terminal)?),
        _ => None,
    };
    added.start()?;
    match signals {
        Some(signals) => {
            let watched = Watched { pid: added.pid(), pidfd: added.pidfd() };
            foreground::stay(&watched, &signals, relay, &global.log)
        }
        None => Ok(0),
    }
}

fn hand_out(args: &Args, added: &mut longshore_runtime::Process) -> Result<()> {
    if let Some(socket) = args.filled("console-socket") {
        let terminal = added.take_terminal().ok_or(Error::Config("the process has no terminal"))?;
        console::connect_to(Path::new(socket))?.send("/dev/ptmx", terminal.as_fd())?;
    }
    if let Some(socket) = args.filled("pidfd-socket") {
        console::connect_to(Path::new(socket))?.send("pidfd", added.pidfd())?;
    }
    match args.filled("pid-file") {
        Some(path) => pidfile::write(Path::new(path), added.pid()),
        None => Ok(()),
    }
}

const STOPPED: &str = "cannot exec in a stopped container";

fn check_status(folder: &Folder, state: &State, ignore_paused: bool) -> Result<()> {
    match folder.status(state)? {
        Status::Stopped => Err(Error::Status(STOPPED)),
        Status::Creating => Err(Error::Status("cannot exec in a container that is being created")),
        Status::Paused if !ignore_paused => {
            Err(Error::Status("cannot exec in a paused container (use --ignore-paused to override)"))
        }
        _ => Ok(()),
    }
}

/// The process from its file, or the container's own with what the command line changes.
fn process(args: &Args, spec: &Spec, log: &Log) -> Result<Process> {
    let process = match args.filled("process") {
        Some(path) => {
            let path = Path::new(path);
            longshore_runtime::load_process(&config::read(path)?)?
        }
        None => {
            let mut process =
                spec.process().clone().ok_or(Error::Config("process property must not be empty"))?;
            match args.operands.get(1..) {
                None | Some([]) => return Err(Error::Config("exec args cannot be empty")),
                Some(words) => process.set_args(Some(words.to_vec())),
            };
            change(args, &mut process, log)?;
            process
        }
    };
    config::check_process(Some(&process))?;
    Ok(process)
}

fn change(args: &Args, process: &mut Process, log: &Log) -> Result<()> {
    if let Some(cwd) = args.filled("cwd") {
        process.set_cwd(cwd.into());
    }
    if let Some(profile) = args.filled("apparmor") {
        process.set_apparmor_profile(Some(profile.into()));
    }
    if let Some(label) = args.filled("process-label") {
        process.set_selinux_label(Some(label.into()));
    }
    if args.value("no-new-privs").is_some() {
        process.set_no_new_privileges(Some(args.has("no-new-privs")));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.list("env").map(str::to_owned));
    process.set_env(Some(env));
    process.set_terminal(Some(args.has("tty")));
    let (added, unknown): (Vec<_>, Vec<_>) = args.list("cap").map(capability).partition(Result::is_ok);
    for name in unknown.into_iter().filter_map(Result::err) {
        log.warn(&format!("ignoring unknown or unavailable capability {name:?}"));
    }
    let added: Capabilities = added.into_iter().flatten().collect();
    if !added.is_empty() {
        process.set_capabilities(Some(with_capabilities(process.capabilities().clone(), &added)));
    }
    change_user(args, process)
}

fn change_user(args: &Args, process: &mut Process) -> Result<()> {
    let number = |text: &str| {
        text.parse::<u32>().ok().filter(|id| *id != u32::MAX).ok_or_else(|| Error::Usage {
            why: format!("bad user: {text:?} is no user or group id from 0 to {}", u32::MAX - 1),
        })
    };
    let mut user = process.user().clone();
    if let Some(text) = args.filled("user") {
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (text, None),
        };
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for group in args.list("additional-gids").flat_map(|list| list.split(',')) {
        groups.push(number(group)?);
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    Ok(())
}

/// With or without `CAP_`; what is no capability is given back.
fn capability(name: &str) -> Result<oci_spec::runtime::Capability, String> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    serde_json::from_value(full.into()).map_err(|_| name.to_owned())
}

/// As runc does: bounding, effective and permitted; ambient only if something is inheritable already.
fn with_capabilities(sets: Option<LinuxCapabilities>, added: &Capabilities) -> LinuxCapabilities {
    let mut sets = sets.unwrap_or_default();
    let join = |set: &Option<Capabilities>| {
        Some(set.iter().flatten().chain(added).copied().collect::<Capabilities>())
    };
    sets.set_bounding(join(sets.bounding()));
    sets.set_effective(join(sets.effective()));
    sets.set_permitted(join(sets.permitted()));
    if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
        sets.set_ambient(join(sets.ambient()));
    }
    sets
}
