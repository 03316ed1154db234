//! `longshore network rm`: remove networks.

use longshore_proto::longshore::engine::v1::NetworkRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// Do not mind a network that is not there
    #[arg(short, long)]
    force: bool,
    /// Names or ids
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove one or more networks";
    const USAGE: &'static str = "NETWORK [NETWORK...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut client = context.networks().await?;
        let mut code = 0;
        for network in self.networks {
            let removed = client.remove(NetworkRequest { network: network.clone() }).await;
            match removed.map_err(Failure::from) {
                Ok(_) => print::line(&network)?,
                Err(failure @ (Failure::Unreachable { .. } | Failure::Lost { .. })) => return Err(failure),
                Err(failure) if failure.is_not_found() => {
                    if !self.force {
                        print::note(format!("Error: No such network: {network}"));
                        code = 1;
                    }
                }
                Err(failure) => {
                    print::note(failure.to_string());
                    code = 1;
                }
            }
        }
        Ok(code)
    }
}
