//! `longshore attach`: take part in a container that runs already.

use longshore_proto::longshore::engine::v1::{
    AttachInput, AttachStart, ContainerRequest, InspectResponse, Status, attach_input,
};

use super::run::exit_code;
use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::terminal::session::{Ending, NoStages, Participation, Session, SignalPolicy, Until};
use crate::terminal::{self, DetachKeys};

#[derive(clap::Args)]
pub struct Args {
    /// Override the key sequence for detaching a container (ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse)]
    detach_keys: Option<DetachKeys>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process (default true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", hide_default_value = true, value_parser = crate::parse::number::boolean)]
    sig_proxy: bool,
    /// The container's name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Verb for Args {
    const ABOUT: &'static str =
        "Attach local standard input, output, and error streams to a running container";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let found = inspect(context, &self.container).await?;
        match found.summary.as_ref().map(|summary| summary.status()) {
            Some(Status::Running) => {}
            Some(Status::Paused) => {
                return Err(Failure::message("cannot attach to a paused container, unpause it first"));
            }
            Some(Status::Restarting) => {
                return Err(Failure::message(
                    "cannot attach to a restarting container, wait until it is running",
                ));
            }
            _ => return Err(Failure::message("cannot attach to a stopped container, start it first")),
        }
        let tty = found.config.as_ref().is_some_and(|config| config.tty);
        let participation = Participation {
            stdin: !self.no_stdin && found.config.as_ref().is_some_and(|config| config.open_stdin),
            tty,
            signals: if self.sig_proxy && !tty { SignalPolicy::Proxy } else { SignalPolicy::Own },
            detach_keys: DetachKeys::chosen(self.detach_keys),
        };
        match join(context, &found, participation, Purpose::Join).await? {
            Ending::Detached => Err(Failure::message("read escape sequence")),
            ending => exit_code(ending),
        }
    }
}

/// Whether the container is started once we are attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Join,
    Start,
}

/// What the daemon knows of a container.
pub async fn inspect(context: &Context, container: &str) -> Result<InspectResponse, Failure> {
    let request = ContainerRequest { container: container.to_string() };
    Ok(context.containers().await?.inspect(request).await?.into_inner())
}

/// Attaches to `found`, for attach and `start -a`.
pub async fn join(
    context: &Context,
    found: &InspectResponse,
    participation: Participation,
    purpose: Purpose,
) -> Result<Ending, Failure> {
    terminal::require_for_input(participation.stdin, participation.tty)?;
    let id = found.summary.as_ref().map(|summary| summary.id.clone()).unwrap_or_default();
    let auto_remove = found.config.as_ref().is_some_and(|config| config.auto_remove);
    let start = AttachStart {
        container: id.clone(),
        stdin: participation.stdin,
        stdout: true,
        stderr: true,
        start: purpose == Purpose::Start,
        console: if participation.tty { terminal::size() } else { None },
    };
    let mut client = context.containers().await?;
    let mut session = Session::new(client.clone(), participation)?;
    session.signal_to(&id);
    let input = session.input(AttachInput { what: Some(attach_input::What::Start(start)) });
    let until = if auto_remove { Until::StreamEnds } else { Until::Exit };
    session.follow(client.attach(input), &mut NoStages, until).await
}
