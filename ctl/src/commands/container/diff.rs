//! `longshore diff`: what a container has changed of its image.

use longshore_proto::longshore::engine::v1::{ChangeKind, ContainerRequest};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Inspect changes to files or directories on a container's filesystem";
    const USAGE: &'static str = "CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = ContainerRequest { container: self.container };
        let changes = context.containers().await?.diff(request).await?.into_inner().changes;
        let mut text = String::new();
        for change in changes {
            let letter = match change.kind() {
                ChangeKind::Changed => 'C',
                ChangeKind::Added => 'A',
                ChangeKind::Deleted => 'D',
            };
            text.push_str(&format!("{letter} {}\n", change.path));
        }
        print::out(&text)?;
        Ok(0)
    }
}
