//! `longshore rm`: remove containers.

use longshore_proto::longshore::engine::v1::RemoveRequest;

use crate::cli::{Arguments, Unbuilt, Verb, short};
use crate::client::Context;
use crate::commands::at_once;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove one or more containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);
    const UNBUILT: &'static [Unbuilt] = &[short('l', "link")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let client = context.containers().await?;
        let (force, volumes) = (self.force, self.volumes);
        let remove = |container: String| {
            let mut client = client.clone();
            async move {
                client.remove(RemoveRequest { container, force, volumes }).await?;
                Ok(())
            }
        };
        let mut code = 0;
        at_once(&self.containers, remove, |container, removed| {
            match removed {
                Ok(()) => print::line(container)?,
                Err(failure @ Failure::Lost { .. }) => return Err(failure),
                Err(failure) => {
                    print::note(failure.to_string());
                    // With --force, what is not there is as good as removed.
                    if !(force && failure.is_not_found()) {
                        code = 1;
                    }
                }
            }
            Ok(())
        })
        .await?;
        Ok(code)
    }
}
