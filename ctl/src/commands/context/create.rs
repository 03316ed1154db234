//! `longshore context create`: give a daemon a name.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::context::address;
use crate::contexts::{Stored, check_name};
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Description of the context
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// The daemon's address: host=unix://SOCKET, host=ssh://[USER@]HOST, or from=CONTEXT
    #[arg(long, visible_alias = "docker", value_name = "KEY=VALUE")]
    endpoint: Option<String>,
    /// Create context from a named context
    #[arg(long, value_name = "CONTEXT")]
    from: Option<String>,
    /// The new context's name
    #[arg(value_name = "CONTEXT")]
    name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create a context";
    const USAGE: &'static str = "[OPTIONS] CONTEXT";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let store = context.store();
        check_name(&self.name)?;
        if store.exists(&self.name) {
            return Err(Failure::message(format!("context {:?} already exists", self.name)));
        }
        let like = match &self.from {
            Some(name) => store.get(name)?,
            None => store.get(&store.current(context.choice())?)?,
        };
        let host = match &self.endpoint {
            Some(_) if self.from.is_some() => {
                return Err(Failure::message("cannot use --endpoint or --docker flag when --from is set"));
            }
            Some(pairs) => address(store, pairs)?,
            None => like.host,
        };
        let described = self.from.is_some() && self.description.is_empty();
        let description = if described { like.description } else { self.description };
        store.put(&Stored { name: self.name.clone(), description, host })?;
        print::line(&self.name)?;
        print::note(format!("Successfully created context {:?}", self.name));
        Ok(0)
    }
}
