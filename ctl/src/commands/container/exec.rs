//! `longshore exec`: run one more process in a running container.

use std::path::PathBuf;

use longshore_proto::longshore::engine::v1::{ExecInput, ExecStart, exec_input};

use super::run::exit_code;
use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::parse::environment;
use crate::terminal::session::{Ending, NoStages, Participation, Session, SignalPolicy, Until};
use crate::terminal::{self, DetachKeys};

#[derive(clap::Args)]
pub struct Args {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container (ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse)]
    detach_keys: Option<DetachKeys>,
    /// Set environment variables; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = environment::variable)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// The container, and the command to run in it
    #[arg(value_name = "CONTAINER COMMAND [ARG...]", required = true, num_args = 2.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Execute a command in a running container";
    const USAGE: &'static str = "[OPTIONS] CONTAINER COMMAND [ARG...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let stdin = self.interactive && !self.detach;
        terminal::require_for_input(stdin, self.tty)?;
        let mut words = self.words.into_iter();
        let start = ExecStart {
            container: words.next().unwrap_or_default(),
            args: words.collect(),
            env: environment::variables(&self.env_file, self.env)?,
            working_dir: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            tty: self.tty,
            stdin,
            privileged: self.privileged,
            detach: self.detach,
            console: if self.tty { terminal::size() } else { None },
        };
        let participation = Participation {
            stdin,
            tty: self.tty && !self.detach,
            signals: SignalPolicy::Own,
            detach_keys: DetachKeys::chosen(self.detach_keys),
        };
        let mut client = context.containers().await?;
        let mut session = Session::new(client.clone(), participation)?;
        let input = session.input(ExecInput { what: Some(exec_input::What::Start(start)) });
        match session.follow(client.exec(input), &mut NoStages, Until::Exit).await? {
            Ending::Closed if self.detach => Ok(0),
            Ending::Detached => Err(Failure::message("read escape sequence")),
            Ending::StartFailed(failure) => Err(Failure::Coded {
                message: failure.message,
                code: u8::try_from(failure.exit_code).unwrap_or(1),
            }),
            ending => exit_code(ending),
        }
    }
}
