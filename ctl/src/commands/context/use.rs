//! `longshore context use`: choose the daemon for what comes.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::context::remind;
use crate::contexts::DEFAULT;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// The context's name; `default` for none
    #[arg(value_name = "CONTEXT")]
    name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Set the current longshore context";
    const USAGE: &'static str = "CONTEXT";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        context.store().get(&self.name)?;
        context.store().choose(&self.name)?;
        print::line(&self.name)?;
        print::note(format!("Current context is now {:?}", self.name));
        if self.name != DEFAULT {
            remind(&format!("{:?}", self.name));
        }
        Ok(0)
    }
}
