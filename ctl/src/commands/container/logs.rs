//! `longshore logs`: what a container has printed, and with `-f` what it prints from now on.

use longshore_proto::longshore::engine::v1::{LogEntry, LogsRequest};

use crate::cli::{Arguments, Unbuilt, Verb, long};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::human;
use crate::output::print::{self, Target};
use crate::parse::time;

#[derive(clap::Args)]
pub struct Args {
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Show logs since a time (2013-01-02T13:23:37Z), or a span ago (42m)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    since: Option<prost_types::Timestamp>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, value_name = "NUMBER|all", value_parser = tail,
          default_value = "all")]
    tail: Tail,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Show logs before a time (2013-01-02T13:23:37Z), or a span ago (42m)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    until: Option<prost_types::Timestamp>,
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
    const UNBUILT: &'static [Unbuilt] = &[long("details")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let request = LogsRequest {
            container: self.container,
            follow: self.follow,
            tail: match self.tail {
                Tail::All => None,
                Tail::Lines(count) => Some(count),
            },
            since: self.since,
            until: self.until,
            stdout: true,
            stderr: true,
        };
        let mut batches = context.containers().await?.logs(request).await?.into_inner();
        let mut printer = Printer { timestamps: self.timestamps, within: [false; 2] };
        while let Some(batch) = batches.message().await? {
            printer.print(batch.entries).await?;
        }
        Ok(0)
    }
}

struct Printer {
    timestamps: bool,
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
