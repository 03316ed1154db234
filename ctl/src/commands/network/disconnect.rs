//! `longshore network disconnect`: take a container off a network, also while it runs.

use longshore_proto::longshore::engine::v1::DisconnectRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Do not mind a container that is not there
    #[arg(short, long)]
    force: bool,
    /// Name or id of the network
    #[arg(value_name = "NETWORK", required = true)]
    network: String,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER", required = true)]
    container: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Disconnect a container from a network";
    const USAGE: &'static str = "[OPTIONS] NETWORK CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request =
            DisconnectRequest { network: self.network, container: self.container, force: self.force };
        context.networks().await?.disconnect_container(request).await?;
        Ok(0)
    }
}
