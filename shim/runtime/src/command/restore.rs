//! `restore`: a container from the files of a checkpoint.

use super::args::{Args, Flag, Reach};
use super::checkpoint::{
    CGROUPS, DEDUP, EMPTY_NS, IMAGE, IMAGE_PATH, LAZY, LOCKS, SHELL, TCP, UNIX, WORK_PATH,
};
use super::error::{Error, Result};
use super::foreground::{self, Signals, Watched};
use super::launch::{self, Claim, Launched, Made, Stay};
use super::store::{self, State};
use super::terminal::{Host, Relay};
use super::{Global, Verb, config, run, sealed};
use longshore_runtime::{Container, ParentImage, RestoreOptions, Stdio};
use std::path::Path;

pub const VERB: Verb = Verb {
    name: "restore",
    about: "restore a container from a checkpoint",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[
        launch::CONSOLE_SOCKET,
        IMAGE_PATH,
        WORK_PATH,
        TCP,
        UNIX,
        SHELL,
        LOCKS,
        CGROUPS,
        launch::BUNDLE,
        Flag::switch("detach", "leave the container to itself once it runs").or('d'),
        launch::PID_FILE,
        Flag::switch("no-subreaper", "do not reap processes that the container leaves behind"),
        launch::NO_PIVOT,
        EMPTY_NS,
        DEDUP,
        LAZY,
        Flag::value("lsm-profile", "security profile: TYPE:NAME"),
        Flag::value("lsm-mount-context", "security context of mounts"),
    ],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    restore(global, args).map_err(|error| error.of_verb("restore"))
}

fn restore(global: &Global, args: &Args) -> Result<i32> {
    sealed::ensure(store::make_root(&global.root)?)?;
    if args.has("no-pivot") {
        let why = "criu restores a container's mounts itself, always by pivot_root; leave --no-pivot out";
        return Err(Error::Usage { why: why.into() });
    }
    match args.filled("manage-cgroups-mode") {
        None | Some("soft" | "ignore") => {}
        Some(_) => {
            return Err(Error::Usage {
                why: "cgroups of a restored container are those of its config: --manage-cgroups-mode soft or ignore"
                    .into(),
            });
        }
    }
    if !args.has("no-subreaper")
        && let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
    {
        global.log.warn(&format!("cannot become a subreaper: {errno}"));
    }
    let stays = !args.has("detach");
    let terminal = config::bundle_wants_terminal(args.filled("bundle"))?;
    let stay = if stays { Stay::Foreground } else { Stay::Detach };
    launch::check_terminal(terminal, stay, args.filled("console-socket"))?;
    let host = if terminal && stays { Some(Host::find()?) } else { None };
    let mut launched = make(global, args)?;
    // Not before: while the container is being restored, signals end this command as any other.
    let signals = if stays { Signals::catch().map(Some) } else { Ok(None) };
    let outcome = signals.and_then(|signals| {
        let relay = match (host, launched.container.take_terminal()) {
            (Some(host), Some(terminal)) => Some(Relay::new(host, terminal)?),
            _ => None,
        };
        launched.container.start()?;
        let Some(signals) = &signals else { return Ok(0) };
        launched.folder.unlock();
        let watched = Watched { pid: launched.container.pid(), pidfd: launched.container.pidfd() };
        foreground::stay(&watched, signals, relay, &global.log)
    });
    if stays || outcome.is_err() {
        run::end(global, launched);
    }
    outcome
}

fn make(global: &Global, args: &Args) -> Result<Launched> {
    let id = args.id()?;
    let bundle = config::bundle(args.filled("bundle"))?;
    let claim = Claim::new(store::claim(&global.root, id)?);
    let folder = claim.folder()?;
    let mut state = State::new(id, bundle.path, &bundle.spec, global.systemd_cgroup);
    folder.write_config(&bundle.bytes)?;
    folder.write(&state)?;
    let image = Path::new(args.filled("image-path").unwrap_or(IMAGE));
    let empty: Vec<String> = args.list("empty-ns").map(str::to_owned).collect();
    let terminal = config::wants_terminal(bundle.spec.process().as_ref());
    let container = Container::restore(RestoreOptions {
        criu: &global.criu,
        id,
        bundle: &state.bundle,
        spec: &bundle.spec,
        rootfs_mounts: &[],
        stdio: if terminal { Stdio::Terminal } else { launch::own_stdio()? },
        seccomp_cache: Some(&store::seccomp_cache(&global.root)),
        systemd_cgroup: global.systemd_cgroup,
        note_cgroups: Some(&|cgroups| folder.note(&global.root, &state, cgroups)),
        image,
        work: args.filled("work-path").map_or(image, Path::new),
        tcp_established: args.has("tcp-established"),
        external_unix_sockets: args.has("ext-unix-sk"),
        shell_job: args.has("shell-job"),
        file_locks: args.has("file-locks"),
        auto_dedup: args.has("auto-dedup"),
        empty_namespaces: &empty,
        parent: ParentImage::Linked,
        lazy_pages: args.has("lazy-pages"),
        lsm_profile: args.filled("lsm-profile"),
        lsm_mount_context: args.filled("lsm-mount-context"),
    })?;
    let mut made = Made::new(container);
    let container = made.container()?;
    for warning in container.warnings() {
        global.log.warn(warning);
    }
    launch::hand_out(args, container)?;
    state.container = Some(container.record()?);
    folder.write(&state)?;
    Ok(Launched { notify: None, container: made.keep()?, folder: claim.keep()? })
}
