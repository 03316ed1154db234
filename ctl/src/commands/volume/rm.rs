//! `longshore volume rm`: remove volumes.

use longshore_proto::longshore::engine::v1::RemoveVolumeRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::each;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove one or more volumes";
    const USAGE: &'static str = "[OPTIONS] VOLUME [VOLUME...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let client = context.volumes().await?;
        let force = self.force;
        each(&self.volumes, |name| {
            let mut client = client.clone();
            async move {
                client.remove(RemoveVolumeRequest { name, force }).await?;
                Ok(())
            }
        })
        .await
    }
}
