//! `longshore logs`: what a container has printed, and with `-f` what it prints from now on.

use std::time::Duration;

use longshore_proto::longshore::engine::v1::{LogEntry, LogsRequest, VersionRequest};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::human;
use crate::output::print::{self, Target};
use crate::parse::time;

/// How long `logs -f` waits for a daemon that went away, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub struct Args {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since a time (2013-01-02T13:23:37Z), or a span ago (42m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "NUMBER|all", value_parser = tail,
          default_value = "all")]
    tail: Tail,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a time (2013-01-02T13:23:37Z), or a span ago (42m)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container's name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Clone, Copy, Debug)]
enum Tail {
    All,
    Lines(u64),
}

/// A negative number means all, as in docker.
fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "" => Ok(Tail::All),
        number => Ok(u64::try_from(crate::parse::number::integer(number)?).map_or(Tail::All, Tail::Lines)),
    }
}

impl Verb for Args {
    const ABOUT: &'static str = "Fetch the logs of a container";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let instant = |name: &str, text: &Option<String>| {
            time::instant(text.as_deref())
                .map_err(|why| Failure::message(format!("invalid value for \"{name}\": {why}")))
        };
        let mut request = LogsRequest {
            container: self.container,
            follow: self.follow,
            tail: match self.tail {
                Tail::All => None,
                Tail::Lines(count) => Some(count),
            },
            since: instant("since", &self.since)?,
            until: instant("until", &self.until)?,
            stdout: true,
            stderr: true,
            after: Vec::new(),
        };
        let mut printer = Printer {
            timestamps: self.timestamps,
            details: self.details.then(String::new),
            within: [false; 2],
        };
        loop {
            match follow(context, &mut request, &mut printer).await {
                // What was printed is known by its place in the log, so that nothing is lost or told twice.
                Err(Failure::Lost { .. }) if request.follow => {
                    reconnect(context).await?;
                }
                done => return done.map(|()| 0),
            }
        }
    }
}

/// Prints what comes, and notes in the request how far it came.
async fn follow(context: &Context, request: &mut LogsRequest, printer: &mut Printer) -> Result<(), Failure> {
    let mut batches = context.containers().await?.logs(request.clone()).await?.into_inner();
    while let Some(batch) = batches.message().await? {
        if !batch.details.is_empty()
            && let Some(details) = &mut printer.details
        {
            *details = batch.details;
        }
        printer.print(batch.entries).await?;
        if !batch.cursor.is_empty() {
            request.after = batch.cursor;
        }
    }
    Ok(())
}

/// Waits for a daemon that is being started again.
async fn reconnect(context: &Context) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        tokio::time::sleep(PAUSE).await;
        let tried = match context.system().await {
            Ok(mut client) => client.version(VersionRequest {}).await.map(drop).map_err(Failure::from),
            Err(failure) => Err(failure),
        };
        match tried {
            Ok(()) => return Ok(()),
            Err(failure) if tokio::time::Instant::now() >= deadline => return Err(failure),
            Err(_) => {}
        }
    }
}

struct Printer {
    timestamps: bool,
    /// What `--details` shows before each line.
    details: Option<String>,
    /// Whether the last piece of stdout, stderr was cut within a line.
    within: [bool; 2],
}

impl Printer {
    /// Writes neighbours of one stream at once.
    async fn print(&mut self, entries: Vec<LogEntry>) -> Result<(), Failure> {
        let mut pending: Option<(Target, Vec<u8>)> = None;
        for entry in entries {
            let target = if entry.stderr { Target::Stderr } else { Target::Stdout };
            let mut bytes = match pending.take() {
                Some((before, bytes)) if before == target => bytes,
                Some((before, bytes)) => {
                    print::forward(before, bytes).await?;
                    Vec::new()
                }
                None => Vec::new(),
            };
            let within = &mut self.within[usize::from(entry.stderr)];
            if self.timestamps && !*within {
                bytes.extend_from_slice(human::rfc3339_nine(entry.time.as_ref()).as_bytes());
                bytes.push(b' ');
            }
            if let Some(details) = self.details.as_ref().filter(|_| !*within) {
                bytes.extend_from_slice(details.as_bytes());
                bytes.push(b' ');
            }
            *within = !entry.line.ends_with(b"\n");
            bytes.extend_from_slice(&entry.line);
            pending = Some((target, bytes));
        }
        match pending {
            Some((target, bytes)) => print::forward(target, bytes).await,
            None => Ok(()),
        }
    }
}
