//! `checkpoint`: a container's processes as files, by criu.

use super::args::{Args, Flag, Reach};
use super::error::Result;
use super::{Global, Verb};
use longshore_runtime::Error;

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

fn run(_: &Global, _: &Args) -> Result<i32> {
    Err(Error::NotBuilt { feature: "checkpoint".into() }.into())
}
