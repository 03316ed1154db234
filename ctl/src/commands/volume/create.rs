//! `longshore volume create`: make a volume.

use longshore_proto::longshore::engine::v1::CreateVolumeRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Specify volume driver name
    #[arg(short, long, value_name = "NAME", default_value = "local")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = pairs::label)]
    label: Vec<(String, String)>,
    /// Specify volume name
    #[arg(long, value_name = "NAME", hide = true)]
    name: Option<String>,
    /// Set driver specific options: type, device, o
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::label)]
    opt: Vec<(String, String)>,
    /// Its name; made up if there is none
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create a volume";
    const USAGE: &'static str = "[OPTIONS] [VOLUME]";
    const ARGUMENTS: Arguments = Arguments::AtMost(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        if self.name.is_some() && self.volume.is_some() {
            return Err(Failure::message(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            ));
        }
        let request = CreateVolumeRequest {
            name: self.volume.or(self.name).unwrap_or_default(),
            driver: self.driver,
            labels: self.label.into_iter().collect(),
            options: self.opt.into_iter().collect(),
        };
        let volume = context.volumes().await?.create(request).await?.into_inner();
        print::line(volume.name)?;
        Ok(0)
    }
}
