//! `longshore commit`: make an image of a container.

use longshore_proto::longshore::engine::v1::CommitRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::parse::number;

#[derive(clap::Args)]
pub struct Args {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long, value_name = "STRING", default_value = "")]
    author: String,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "LINE")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long, value_name = "STRING", default_value = "")]
    message: String,
    /// Disable pausing container during commit
    #[arg(long)]
    no_pause: bool,
    /// Pause container during commit
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        value_parser = number::boolean
    )]
    pause: bool,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create a new image from a container's changes";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]";
    const ARGUMENTS: Arguments = Arguments::Between(1, 2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = CommitRequest {
            container: self.container,
            reference: self.reference.unwrap_or_default(),
            author: self.author,
            comment: self.message,
            changes: self.change,
            no_pause: self.no_pause || !self.pause,
        };
        let made = context.containers().await?.commit(request).await?.into_inner();
        print::line(made.id)?;
        Ok(0)
    }
}
