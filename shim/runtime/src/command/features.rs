//! `features`: what this runtime can do, as the specification's features document.

use super::args::{Args, Reach};
use super::error::Result;
use super::{Global, Verb};

pub const VERB: Verb = Verb {
    name: "features",
    about: "show what this runtime can do",
    operands: "",
    count: (0, usize::MAX),
    flags: &[],
    reach: Reach::Anywhere,
    run,
};

fn run(_: &Global, _: &Args) -> Result<i32> {
    super::state::print(&longshore_runtime::features())?;
    Ok(0)
}
