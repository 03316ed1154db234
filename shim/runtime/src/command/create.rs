//! `create`: a container whose program waits for `start`.

use super::args::{Args, Reach};
use super::error::Result;
use super::launch::{self, Stay};
use super::{Global, Verb, sealed, store};

pub const VERB: Verb = Verb {
    name: "create",
    about: "create a container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[
        launch::BUNDLE,
        launch::CONSOLE_SOCKET,
        launch::PIDFD_SOCKET,
        launch::PID_FILE,
        launch::NO_PIVOT,
        launch::NO_NEW_KEYRING,
        launch::PRESERVE_FDS,
    ],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let create = || {
        sealed::ensure(store::make_root(&global.root)?)?;
        launch::launch(global, args, Stay::Create, None)
    };
    create().map(|_| 0).map_err(|error| error.of_verb("create"))
}
