//! `longshore context rm`: forget names.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::each;
use crate::contexts::DEFAULT;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Force the removal of a context in use
    #[arg(short, long)]
    force: bool,
    /// The contexts' names
    #[arg(value_name = "CONTEXT", required = true)]
    names: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove one or more contexts";
    const USAGE: &'static str = "[OPTIONS] CONTEXT [CONTEXT...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let store = context.store();
        let current = store.in_use()?;
        each(&self.names, |name| {
            let result = match () {
                () if name == DEFAULT => Err(Failure::message(format!("context {name:?} cannot be removed"))),
                () if name == current && !self.force => {
                    Err(Failure::message(format!("context {name:?} is in use, set -f flag to force remove")))
                }
                () if self.force && !store.exists(&name) => Ok(()),
                () => store.remove(&name).and_then(|()| match name == current {
                    true => store.choose(DEFAULT),
                    false => Ok(()),
                }),
            };
            std::future::ready(result)
        })
        .await
    }
}
