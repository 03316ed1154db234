//! `restore`: a container from the files of a checkpoint.

use super::args::{Args, Flag, Reach};
use super::checkpoint::{CGROUPS, DEDUP, EMPTY_NS, IMAGE_PATH, LAZY, LOCKS, SHELL, TCP, UNIX, WORK_PATH};
use super::error::Result;
use super::{Global, Verb, launch};
use longshore_runtime::Error;

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

fn run(_: &Global, _: &Args) -> Result<i32> {
    Err(Error::NotBuilt { feature: "restore".into() }.into())
}
