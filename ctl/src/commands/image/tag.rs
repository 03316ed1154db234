//! `longshore tag`: one more name for an image.

use longshore_proto::longshore::engine::v1::TagRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// The image
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE";
    const USAGE: &'static str = "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]";
    const ARGUMENTS: Arguments = Arguments::Exactly(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = TagRequest { source: self.source, target: self.target.clone() };
        match context.images().await?.tag(request).await {
            Ok(_) => Ok(0),
            Err(status) if status.message().starts_with("invalid reference format") => {
                let (target, why) = (&self.target, status.message());
                Err(Failure::message(format!(
                    "Error parsing reference: {target:?} is not a valid repository/tag: {why}"
                )))
            }
            Err(status) => Err(status.into()),
        }
    }
}
