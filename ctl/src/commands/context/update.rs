//! `longshore context update`: change what a name stands for.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::context::address;
use crate::contexts::check_name;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Description of the context
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The daemon's address: host=unix://SOCKET, host=ssh://[USER@]HOST, or from=CONTEXT
    #[arg(long, visible_alias = "docker", value_name = "KEY=VALUE")]
    endpoint: Option<String>,
    /// The context's name
    #[arg(value_name = "CONTEXT")]
    name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Update a context";
    const USAGE: &'static str = "[OPTIONS] CONTEXT";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let store = context.store();
        check_name(&self.name)?;
        let mut stored = store.get(&self.name)?;
        if let Some(description) = self.description {
            stored.description = description;
        }
        if let Some(pairs) = &self.endpoint {
            stored.host = address(store, pairs)?;
        }
        store.put(&stored)?;
        print::line(&self.name)?;
        print::note(format!("Successfully updated context {:?}", self.name));
        Ok(0)
    }
}
