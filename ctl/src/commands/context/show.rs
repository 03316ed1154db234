//! `longshore context show`: the name of the context that counts.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {}

impl Verb for Args {
    const ABOUT: &'static str = "Print the name of the current context";
    const USAGE: &'static str = "";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        print::line(context.store().current(context.choice())?)?;
        Ok(0)
    }
}
