//! `longshore logout`: forget the credentials for a registry.

use crate::auth;
use crate::auth::file::File;
use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// The registry; docker's own if none is named
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Log out from a registry";
    const USAGE: &'static str = "[SERVER]";
    const ARGUMENTS: Arguments = Arguments::AtMost(1);

    async fn run(self, _: &Context) -> Result<u8, Failure> {
        let key = auth::key_of(self.server.as_deref().unwrap_or_default());
        print::line(format!("Removing login credentials for {key}"))?;
        let erased = File::load().and_then(|mut file| auth::erase(&mut file, &key));
        if let Err(failure) = erased {
            print::note(format!("WARNING: could not erase credentials:\n{key}: {failure}"));
            return Ok(1);
        }
        Ok(0)
    }
}
