//! `longshore create`: make a container without starting it.

use tonic::Streaming;

use longshore_proto::longshore::engine::v1::{CreateEvent, create_event};

use super::Making;
use super::flags::{self, Flags};
use crate::cli::{Arguments, Unbuilt, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::terminal::session::Stages;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create a new container";
    const USAGE: &'static str = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);
    const UNBUILT: &'static [Unbuilt] = flags::UNBUILT;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let cidfile = self.flags.cidfile.clone();
        let mut making = Making::new(self.flags.image(), cidfile.as_deref(), self.flags.verbosity())?;
        let request = self.flags.into_request()?;
        let mut events: Streaming<CreateEvent> =
            context.containers().await?.create(request).await?.into_inner();
        while let Some(event) = events.message().await? {
            match event.what {
                Some(create_event::What::ImageMissing(reference)) => making.image_missing(&reference),
                Some(create_event::What::Pull(progress)) => making.pull(progress),
                Some(create_event::What::Created(created)) => making.created(&created)?,
                None => {}
            }
        }
        let id = making
            .created
            .ok_or_else(|| Failure::message("the daemon ended the request without a container"))?;
        print::line(id)?;
        Ok(0)
    }
}
