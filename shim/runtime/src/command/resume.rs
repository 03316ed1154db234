//! `resume`: undoes `pause`.

use super::args::{Args, Reach};
use super::error::{Error, Result};
use super::store::{self, Status};
use super::{Global, Verb};

pub const VERB: Verb = Verb {
    name: "resume",
    about: "let the processes of a paused container run again",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let (folder, state) = store::locked(&global.root, args.id()?)?;
    let record = state.container.as_ref().ok_or(Error::NotPaused)?;
    match folder.status(&state)? {
        Status::Paused => record.open_cgroups()?.thaw()?,
        _ => return Err(Error::NotPaused),
    }
    Ok(0)
}
