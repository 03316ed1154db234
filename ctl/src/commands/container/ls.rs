//! `longshore ps`: list containers.

use longshore_proto::longshore::engine::v1::{ContainerSummary, ListRequest, MountKind, Status};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::human;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::parse::{number, pairs};

const COMMAND_WIDTH: usize = 20;

#[derive(clap::Args)]
pub struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Only those with KEY=VALUE: ancestor, before, exited, id, label, name, network, since, status, …
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.ID}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = number::integer)]
    last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "List containers";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let last = if self.latest { 1 } else { self.last.unwrap_or(0).max(0) };
        let wants_size = self.size || self.format.as_deref().is_some_and(shows_size);
        let request = ListRequest {
            all: self.all || last > 0,
            filters: self.filter.clone(),
            last: u32::try_from(last).unwrap_or(u32::MAX),
            size: wants_size && !self.quiet,
        };
        let containers = context.containers().await?.list(request).await?.into_inner().containers;
        let rows: Vec<Value> = containers.iter().map(|container| self.row(container)).collect();
        let layout = Layout {
            table: match self.size {
                true => {
                    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}"
                }
                false => {
                    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
                }
            },
            quiet: self.quiet.then_some("{{.ID}}"),
            headings: HEADINGS,
        };
        list::print(self.format.as_deref(), &layout, &rows)?;
        Ok(0)
    }
}

/// Whether a format needs the sizes, which cost a walk.
fn shows_size(format: &str) -> bool {
    format == "json" || format.contains(".Size") || format.contains("json .}}")
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Label", ""),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

impl Args {
    fn row(&self, container: &ContainerSummary) -> Value {
        let id = if self.no_trunc { container.id.as_str() } else { human::short_id(&container.id) };
        let command = match self.no_trunc {
            true => container.command.clone(),
            false => human::ellipsis(&container.command, COMMAND_WIDTH),
        };
        let mounts: Vec<&str> = container.mounts.iter().map(|mount| mount.source.as_str()).collect();
        let size = match container.size_root_fs {
            0 => human::size(container.size_rw as f64),
            all => format!("{} (virtual {})", human::size(container.size_rw as f64), human::size(all as f64)),
        };
        fields! {
            "ID" => id,
            "Image" => container.image.as_str(),
            "Command" => human::quoted(&command),
            "CreatedAt" => human::local(container.created_at.as_ref()),
            "RunningFor" => human::ago(container.created_at.as_ref()),
            "Status" => container.status_text.as_str(),
            "State" => state(container.status()),
            "Ports" => super::port::summary(&container.ports),
            "Names" => container.name.as_str(),
            "Size" => size,
            "Labels" => labels(&container.labels),
            "Label" => &container.labels,
            "Mounts" => mounts.join(","),
            "LocalVolumes" => local_volumes(container).to_string(),
            "Networks" => container.network.as_str(),
        }
    }
}

/// How many volumes of this host it has mounted.
pub fn local_volumes(container: &ContainerSummary) -> usize {
    container.mounts.iter().filter(|mount| mount.kind() == MountKind::Volume).count()
}

/// `a=1,b=2`.
pub fn labels(labels: &std::collections::HashMap<String, String>) -> String {
    let mut pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.sort();
    pairs.join(",")
}

/// docker's word for a state.
pub fn state(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "",
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Removing => "removing",
        Status::Exited => "exited",
        Status::Dead => "dead",
    }
}
