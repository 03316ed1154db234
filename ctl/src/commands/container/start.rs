//! `longshore start`: start containers that are created or stopped, and with `-a` take part in one.

use longshore_proto::longshore::engine::v1::StartRequest;

use super::attach::{self, Purpose};
use super::run::exit_code;
use crate::cli::{Arguments, Unbuilt, Verb, long};
use crate::client::Context;
use crate::commands::failing;
use crate::failure::Failure;
use crate::terminal::DetachKeys;
use crate::terminal::session::{Ending, Participation, SignalPolicy};

#[derive(clap::Args)]
pub struct Args {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Override the key sequence for detaching a container (ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse)]
    detach_keys: Option<DetachKeys>,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Start one or more stopped containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);
    const UNBUILT: &'static [Unbuilt] = &[long("checkpoint"), long("checkpoint-dir")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        if self.attach || self.interactive {
            return self.take_part(context).await;
        }
        let client = context.containers().await?;
        let failed = failing(&self.containers, |container| {
            let mut client = client.clone();
            async move {
                client.start(StartRequest { container }).await?;
                Ok(())
            }
        });
        match failed.await?.as_slice() {
            [] => Ok(0),
            names => Err(Failure::message(format!("failed to start containers: {}", names.join(", ")))),
        }
    }
}

impl Args {
    async fn take_part(self, context: &Context) -> Result<u8, Failure> {
        let [container] = self.containers.as_slice() else {
            return Err(Failure::message("you cannot start and attach multiple containers at once"));
        };
        let found = attach::inspect(context, container).await?;
        let config = found.config.clone().unwrap_or_default();
        let participation = Participation {
            stdin: self.interactive && config.open_stdin,
            tty: config.tty,
            signals: if config.tty { SignalPolicy::Own } else { SignalPolicy::Proxy },
            detach_keys: DetachKeys::chosen(self.detach_keys),
        };
        match attach::join(context, &found, participation, Purpose::Start).await? {
            Ending::StartFailed(failure) => Err(Failure::Coded {
                message: format!("Error response from daemon: {}", failure.message),
                code: 1,
            }),
            ending => exit_code(ending),
        }
    }
}
