//! What Run, Attach and Exec have in common: their messages are translated to one kind of event.

use longshore_proto::longshore::engine::v1::{
    AttachInput, AttachOutput, Created, ExecInput, ExecOutput, Exited, PullProgress, RunInput, RunOutput,
    StartFailure, StdioInput, StdioOutput, attach_input, attach_output, exec_input, exec_output, run_input,
    run_output, stdio_output,
};

use crate::output::print::Target;

pub enum Event {
    ImageMissing(String),
    Pull(PullProgress),
    Created(Created),
    /// The process runs, or the client takes part in it.
    Started,
    Output(Target, Vec<u8>),
    Exited(Exited),
    StartFailed(StartFailure),
    /// A message of a newer daemon.
    Unknown,
}

impl From<StdioOutput> for Event {
    fn from(output: StdioOutput) -> Event {
        match output.what {
            Some(stdio_output::What::Stdout(bytes)) => Event::Output(Target::Stdout, bytes),
            Some(stdio_output::What::Stderr(bytes)) => Event::Output(Target::Stderr, bytes),
            None => Event::Unknown,
        }
    }
}

impl From<RunOutput> for Event {
    fn from(output: RunOutput) -> Event {
        use run_output::What;
        match output.what {
            Some(What::ImageMissing(reference)) => Event::ImageMissing(reference),
            Some(What::Pull(progress)) => Event::Pull(progress),
            Some(What::Created(created)) => Event::Created(created),
            Some(What::Started(())) => Event::Started,
            Some(What::Stdio(stdio)) => stdio.into(),
            Some(What::Exited(exited)) => Event::Exited(exited),
            Some(What::StartFailed(failure)) => Event::StartFailed(failure),
            None => Event::Unknown,
        }
    }
}

impl From<AttachOutput> for Event {
    fn from(output: AttachOutput) -> Event {
        use attach_output::What;
        match output.what {
            Some(What::Attached(_)) => Event::Started,
            Some(What::Stdio(stdio)) => stdio.into(),
            Some(What::Exited(exited)) => Event::Exited(exited),
            Some(What::StartFailed(failure)) => Event::StartFailed(failure),
            None => Event::Unknown,
        }
    }
}

impl From<ExecOutput> for Event {
    fn from(output: ExecOutput) -> Event {
        use exec_output::What;
        match output.what {
            Some(What::Started(_)) => Event::Started,
            Some(What::Stdio(stdio)) => stdio.into(),
            Some(What::Exited(exited)) => Event::Exited(exited),
            Some(What::StartFailed(failure)) => Event::StartFailed(failure),
            None => Event::Unknown,
        }
    }
}

/// A request message that can carry stdio.
pub trait Request: Send + 'static {
    fn stdio(input: StdioInput) -> Self;
}

impl Request for RunInput {
    fn stdio(input: StdioInput) -> RunInput {
        RunInput { what: Some(run_input::What::Stdio(input)) }
    }
}

impl Request for AttachInput {
    fn stdio(input: StdioInput) -> AttachInput {
        AttachInput { what: Some(attach_input::What::Stdio(input)) }
    }
}

impl Request for ExecInput {
    fn stdio(input: StdioInput) -> ExecInput {
        ExecInput { what: Some(exec_input::What::Stdio(input)) }
    }
}
