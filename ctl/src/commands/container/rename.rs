//! `longshore rename`: give a container another name.

use longshore_proto::longshore::engine::v1::RenameRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// The container's name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    new_name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Rename a container";
    const USAGE: &'static str = "CONTAINER NEW_NAME";
    const ARGUMENTS: Arguments = Arguments::Exactly(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = RenameRequest { container: self.container, new_name: self.new_name };
        context.containers().await?.rename(request).await?;
        Ok(0)
    }
}
