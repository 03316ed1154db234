//! `longshore wait`: block until containers stop, then print their exit codes.

use longshore_proto::longshore::engine::v1::WaitRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Block until one or more containers stop, then print their exit codes";
    const USAGE: &'static str = "CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.containers().await?;
        let mut code = 0;
        for container in self.containers {
            match client.wait(WaitRequest { container, removed: false }).await.map_err(Failure::from) {
                Ok(response) => {
                    print::line(response.into_inner().exited.unwrap_or_default().exit_code.to_string())?;
                }
                Err(failure @ Failure::Lost { .. }) => return Err(failure),
                Err(failure) => {
                    print::note(failure.to_string());
                    code = 1;
                }
            }
        }
        Ok(code)
    }
}
