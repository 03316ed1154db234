//! `longshore volume ls`: which volumes there are.

use longshore_proto::longshore::engine::v1::{ListVolumesRequest, Volume};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Only those with KEY=VALUE: dangling, driver, label, name
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "List volumes";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let request = ListVolumesRequest { filters: self.filter, size: false };
        let found = context.volumes().await?.list(request).await?.into_inner().volumes;
        let rows: Vec<Value> = found.iter().map(row).collect();
        let layout = Layout {
            table: "{{.Driver}}\t{{.Name}}",
            quiet: self.quiet.then_some("{{.Name}}"),
            headings: HEADINGS,
        };
        list::print(self.format.as_deref(), &layout, &rows)?;
        Ok(0)
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Status", "STATUS"),
];

fn row(volume: &Volume) -> Value {
    let mut labels: Vec<String> = volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    fields! {
        "Driver" => volume.driver.as_str(),
        "Name" => volume.name.as_str(),
        "Scope" => "local",
        "Mountpoint" => volume.mountpoint.as_str(),
        "Labels" => labels.join(","),
        "Links" => "N/A",
        "Size" => "N/A",
        "Availability" => "N/A",
        "Group" => "N/A",
        "Status" => "N/A",
    }
}
