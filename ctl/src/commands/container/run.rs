//! `longshore run`: make a container, start it, and take part in it, in one request.

use longshore_proto::longshore::engine::v1::{RunInput, RunStart, run_input};

use super::Making;
use super::flags::{self, Flags};
use crate::cli::{Arguments, Manners, Unbuilt, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::terminal::session::{self, Ending, Participation, Session, SignalPolicy, Until};
use crate::terminal::{self, DetachKeys};

#[derive(clap::Args)]
pub struct Args {
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container (ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS", value_parser = DetachKeys::parse)]
    detach_keys: Option<DetachKeys>,
    /// Proxy received signals to the process (default true)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", hide_default_value = true, value_parser = crate::parse::number::boolean)]
    sig_proxy: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Verb for Args {
    const ABOUT: &'static str = "Create and run a new container from an image";
    const USAGE: &'static str = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);
    const UNBUILT: &'static [Unbuilt] = flags::UNBUILT;
    const MANNERS: Manners = Manners::Run;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let streams = self.streams()?;
        terminal::require_for_input(streams.stdin, self.flags.tty)?;
        let (tty, auto_remove) = (self.flags.tty, self.flags.auto_remove());
        let participation = Participation {
            stdin: streams.stdin,
            tty,
            signals: if self.sig_proxy && !self.detach { SignalPolicy::Proxy } else { SignalPolicy::Own },
            detach_keys: DetachKeys::chosen(self.detach_keys),
        };
        let cidfile = self.flags.cidfile.clone();
        let mut making = Making::new(self.flags.image(), cidfile.as_deref(), self.flags.verbosity())?;
        let mut request = self.flags.into_request()?;
        if let (true, Some(config)) = (self.detach, &mut request.config) {
            config.attach.clear();
        }
        let start = RunStart {
            create: Some(request),
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            console: if tty { terminal::size() } else { None },
        };
        let mut client = context.containers().await?;
        let mut session = Session::new(client.clone(), participation)?;
        let input = session.input(RunInput { what: Some(run_input::What::Start(start)) });
        let until = if auto_remove && !self.detach { Until::StreamEnds } else { Until::Exit };
        let ending = session.follow(client.run(input), &mut making, until).await?;
        match ending {
            Ending::Closed if self.detach => {
                print::line(making.created.unwrap_or_default())?;
                Ok(0)
            }
            ending => exit_code(ending),
        }
    }
}

/// Which streams the user takes part in.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Args {
    fn streams(&self) -> Result<Streams, Failure> {
        if self.detach {
            return match self.flags.attach.is_empty() {
                true => Ok(Streams { stdin: false, stdout: false, stderr: false }),
                false => Err(Failure::Coded {
                    message: "conflicting options: cannot specify both --attach and --detach".into(),
                    code: 1,
                }),
            };
        }
        let asked = |name: &str| self.flags.attach.iter().any(|stream| stream.eq_ignore_ascii_case(name));
        let all = self.flags.attach.is_empty();
        Ok(Streams {
            stdin: if all { self.flags.interactive } else { asked("stdin") },
            stdout: all || asked("stdout"),
            stderr: all || asked("stderr"),
        })
    }
}

/// The command's exit code after a session that came to its end.
pub fn exit_code(ending: Ending) -> Result<u8, Failure> {
    match ending {
        Ending::Exited(exited) => Ok(u8::try_from(exited.exit_code).unwrap_or(u8::MAX)),
        Ending::Detached => Ok(0),
        Ending::Signalled(signal) => Err(Failure::Silent { code: session::code_of(signal) }),
        Ending::StartFailed(failure) => Err(Failure::Coded {
            message: format!("Error response from daemon: {}", failure.message),
            code: u8::try_from(failure.exit_code).unwrap_or(crate::failure::OWN_FAULT),
        }),
        Ending::Closed => Err(Failure::message(
            "the daemon ended the request before the container ended: see 'longshore ps -a'",
        )),
    }
}
