//! `longshore kill`: send a signal to a container's process.

use longshore_proto::longshore::engine::v1::KillRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::each_at_once;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Signal to send to the container (default KILL)
    #[arg(short, long, value_name = "SIGNAL", default_value = "", hide_default_value = true)]
    signal: String,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Kill one or more running containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let client = context.containers().await?;
        each_at_once(&self.containers, |container| {
            let mut client = client.clone();
            let request = KillRequest { container, signal: self.signal.clone() };
            async move {
                client.kill(request).await?;
                Ok(())
            }
        })
        .await
    }
}
