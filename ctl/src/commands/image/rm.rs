//! `longshore rmi`: remove names of images, and with the last one the image.

use longshore_proto::longshore::engine::v1::RemoveImageRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents: there are none, so this changes nothing
    #[arg(long)]
    no_prune: bool,
    /// Remove only these platforms of an image for several, as in linux/amd64,linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<String>,
    /// References, digests or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove one or more images";
    const USAGE: &'static str = "[OPTIONS] IMAGE [IMAGE...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.images().await?;
        let mut code = 0;
        for image in self.images {
            let request = RemoveImageRequest { image, force: self.force, platforms: self.platform.clone() };
            match client.remove(request).await.map_err(Failure::from) {
                Ok(response) => {
                    let removed = response.into_inner();
                    for name in removed.untagged {
                        print::line(format!("Untagged: {name}"))?;
                    }
                    for id in removed.deleted {
                        print::line(format!("Deleted: {id}"))?;
                    }
                }
                Err(failure @ Failure::Lost { .. }) => return Err(failure),
                Err(failure) => {
                    print::note(failure.to_string());
                    if !(self.force && failure.is_not_found()) {
                        code = 1;
                    }
                }
            }
        }
        Ok(code)
    }
}
