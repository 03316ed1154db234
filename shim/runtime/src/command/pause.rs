//! `pause`: no process of the container runs until `resume`.

use super::args::{Args, Reach};
use super::error::{Error, Result};
use super::store::{self, Status};
use super::{Global, Verb};

pub const VERB: Verb = Verb {
    name: "pause",
    about: "suspend all processes of a container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let (folder, state) = store::locked(&global.root, args.id()?)?;
    let record = state.container.as_ref().ok_or(Error::NotRunning)?;
    match folder.status(&state)? {
        Status::Running | Status::Created => record.open_cgroups()?.freeze()?,
        Status::Paused | Status::Creating | Status::Stopped => return Err(Error::NotRunning),
    }
    Ok(0)
}
