//! `longshore events`: what happens to containers and images, as it happens.

use longshore_proto::longshore::engine::v1::{Event, EventsRequest};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::output::{human, print};
use crate::parse::{pairs, time};

#[derive(clap::Args)]
pub struct Args {
    /// Only those with KEY=VALUE: container, event, image, label, type
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// `json`, or a Go template such as {{.Action}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show all events created since a time
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Stream events until this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Get real time events from the daemon";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        check(self.format.as_deref())?;
        let instant = |text: &Option<String>| time::instant(text.as_deref()).map_err(Failure::message);
        let (since, until) = (instant(&self.since)?, instant(&self.until)?);
        let request = EventsRequest { since, until, filters: self.filter };
        let mut events = context.system().await?.events(request).await?.into_inner();
        let format = self.format.as_deref().filter(|format| !format.is_empty());
        while let Some(event) = events.message().await? {
            match format {
                None => print::line(line(&event))?,
                Some(format) => {
                    let layout = Layout { table: "", quiet: None, headings: &[] };
                    list::print(Some(format), &layout, &[value(&event)])?;
                }
            }
        }
        Ok(0)
    }
}

/// Refuses a format that cannot be read, in the words and with the exit code that docker has for events alone.
fn check(format: Option<&str>) -> Result<(), Failure> {
    list::check(format).map_err(|failure| match failure {
        Failure::Message(text) => Failure::Coded {
            message: text.replacen("failed to parse template: ", "Error parsing format: ", 1),
            code: 64,
        },
        other => other,
    })
}

/// `2026-08-01T12:00:00.000000000+00:00 container start 0123… (image=busybox, name=x)`.
fn line(event: &Event) -> String {
    let mut pairs: Vec<String> =
        event.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    let attributes = if pairs.is_empty() { String::new() } else { format!(" ({})", pairs.join(", ")) };
    let time = human::rfc3339_local(event.time.as_ref());
    format!("{time} {} {} {}{attributes}", event.r#type, event.action, event.actor)
}

fn value(event: &Event) -> Value {
    let time = event.time.unwrap_or_default();
    let from = event.attributes.get("image").map_or("", String::as_str);
    fields! {
        "status" => event.action.as_str(),
        "id" => event.actor.as_str(),
        "from" => from,
        "Type" => event.r#type.as_str(),
        "Action" => event.action.as_str(),
        "Actor" => fields! { "ID" => event.actor.as_str(), "Attributes" => &event.attributes },
        "scope" => "local",
        "time" => time.seconds,
        "timeNano" => time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nanos.into()),
        "Status" => event.action.as_str(),
        "ID" => event.actor.as_str(),
        "From" => from,
        "Time" => time.seconds,
        "Scope" => "local",
    }
}
