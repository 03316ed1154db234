//! `longshore stop`: send the stop signal, wait, then SIGKILL.

use longshore_proto::longshore::engine::v1::StopRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::each_at_once;
use crate::failure::Failure;
use crate::parse::number;

#[derive(clap::Args)]
pub struct Args {
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds to wait before killing the container; -1 for ever
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", value_parser = number::seconds)]
    timeout: Option<i32>,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Stop one or more running containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let client = context.containers().await?;
        let signal = self.signal.unwrap_or_default();
        each_at_once(&self.containers, |container| {
            let mut client = client.clone();
            let request = StopRequest { container, signal: signal.clone(), timeout: self.timeout };
            async move {
                client.stop(request).await?;
                Ok(())
            }
        })
        .await
    }
}
