//! `checkpoint`: a container's processes as files, by criu.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::store::{self, Status};
use super::{Global, Verb};
use longshore_runtime::{Checkpoint, CheckpointOptions};
use std::path::Path;

/// Flags that `checkpoint` and `restore` share.
pub const IMAGE_PATH: Flag = Flag::value("image-path", "folder of criu's image files");
pub const WORK_PATH: Flag = Flag::value("work-path", "folder of criu's work files and logs");
pub const TCP: Flag = Flag::switch("tcp-established", "with open TCP connections");
pub const UNIX: Flag = Flag::switch("ext-unix-sk", "with connections to Unix sockets outside");
pub const SHELL: Flag = Flag::switch("shell-job", "with the terminal that it was started in");
pub const LOCKS: Flag = Flag::switch("file-locks", "with file locks");
pub const LAZY: Flag = Flag::switch("lazy-pages", "fetch memory when it is used, by userfaultfd");
pub const CGROUPS: Flag = Flag::value("manage-cgroups-mode", "soft (default), full, strict or ignore");
pub const EMPTY_NS: Flag = Flag::list("empty-ns", "a namespace that is made, but not restored");
pub const DEDUP: Flag = Flag::switch("auto-dedup", "without memory that an earlier image has");

pub const VERB: Verb = Verb {
    name: "checkpoint",
    about: "checkpoint a running container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[
        IMAGE_PATH,
        WORK_PATH,
        Flag::value("parent-path", "folder of an earlier image, of --pre-dump"),
        Flag::switch("leave-running", "let the container run on"),
        TCP,
        Flag::switch("tcp-skip-in-flight", "without TCP connections that are being made"),
        Flag::switch("link-remap", "with open files that have no name any more"),
        UNIX,
        SHELL,
        LAZY,
        Flag::value("status-fd", "descriptor to which criu writes a zero byte when lazy pages are ready"),
        Flag::value("page-server", "ADDRESS:PORT of a page server"),
        LOCKS,
        Flag::switch("pre-dump", "memory only; the container runs on"),
        CGROUPS,
        EMPTY_NS,
        DEDUP,
    ],
    reach: Reach::Anywhere,
    run,
};

/// Where images go if nobody says: as with runc.
pub const IMAGE: &str = "checkpoint";

fn run(global: &Global, args: &Args) -> Result<i32> {
    let folder = store::open(&global.root, args.id()?)?;
    folder.lock()?;
    let state = folder.read()?;
    let record = state.container.as_ref().ok_or(Error::NotRunning)?;
    match folder.status(&state)? {
        Status::Running | Status::Paused => {}
        Status::Created | Status::Creating | Status::Stopped => return Err(Error::NotRunning),
    }
    let spec = folder.config()?;
    let empty: Vec<String> = args.list("empty-ns").map(str::to_owned).collect();
    let checkpoint = Checkpoint::prepare(&CheckpointOptions {
        criu: &global.criu,
        pid: record.pid,
        cgroups: &record.open_cgroups()?,
        spec: &spec,
        bundle: &state.bundle,
        image: Path::new(args.filled("image-path").unwrap_or(IMAGE)),
        work: args.filled("work-path").map(Path::new),
        parent: args.filled("parent-path"),
        pre_dump: args.has("pre-dump"),
        leave_running: args.has("leave-running"),
        tcp_established: args.has("tcp-established"),
        tcp_skip_in_flight: args.has("tcp-skip-in-flight"),
        link_remap: args.has("link-remap"),
        external_unix_sockets: args.has("ext-unix-sk"),
        shell_job: args.has("shell-job"),
        file_locks: args.has("file-locks"),
        auto_dedup: args.has("auto-dedup"),
        cgroups_mode: args.filled("manage-cgroups-mode"),
        empty_namespaces: &empty,
        lazy_pages: args.has("lazy-pages"),
        status_fd: args.number("status-fd")?,
        page_server: args.filled("page-server").map(page_server).transpose()?,
    })?;
    checkpoint.run()?;
    Ok(0)
}

fn page_server(text: &str) -> Result<(&str, u16)> {
    let parts = text.rsplit_once(':').and_then(|(address, port)| Some((address, port.parse().ok()?)));
    parts.filter(|(address, _)| !address.is_empty()).ok_or_else(|| Error::Usage {
        why: format!("--page-server {text:?} is not of the form ADDRESS:PORT"),
    })
}
