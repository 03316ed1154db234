//! `longshore unpause`: let the processes of a paused container go on.

use longshore_proto::longshore::engine::v1::ContainerRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::each_at_once;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Unpause all processes within one or more containers";
    const USAGE: &'static str = "CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let client = context.containers().await?;
        each_at_once(&self.containers, |container| {
            let mut client = client.clone();
            async move {
                client.unpause(ContainerRequest { container }).await?;
                Ok(())
            }
        })
        .await
    }
}
