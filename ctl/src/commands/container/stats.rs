//! `longshore stats`: what containers use of the host.

use std::io::IsTerminal;

use longshore_proto::longshore::engine::v1::{ContainerStats, StatsRequest};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::output::{human, print};

/// Home, and clear to the end of the screen.
const REDRAW: &str = "\x1b[H\x1b[J";

#[derive(clap::Args)]
pub struct Args {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.MemUsage}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Names or ids; without any, all that run
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display a live stream of container(s) resource usage statistics";
    const USAGE: &'static str = "[OPTIONS] [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::Any;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let request =
            StatsRequest { containers: self.containers.clone(), stream: !self.no_stream, all: self.all };
        let mut samples = context.containers().await?.stats(request).await?.into_inner();
        let redraw = !self.no_stream && std::io::stdout().is_terminal();
        while let Some(sample) = samples.message().await? {
            let rows: Vec<Value> = sample.containers.iter().map(|container| self.row(container)).collect();
            let layout = Layout {
                table: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
                quiet: None,
                headings: HEADINGS,
            };
            let text = list::render(self.format.as_deref(), &layout, &rows)?;
            print::out(&format!("{}{text}", if redraw { REDRAW } else { "" }))?;
            if self.no_stream {
                break;
            }
        }
        Ok(0)
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

impl Args {
    fn row(&self, stats: &ContainerStats) -> Value {
        let id = if self.no_trunc { stats.id.as_str() } else { human::short_id(&stats.id) };
        let memory = stats.memory_bytes as f64;
        let limit = stats.memory_limit_bytes as f64;
        let percent = if limit > 0.0 { memory / limit * 100.0 } else { 0.0 };
        let pair = |a: u64, b: u64| format!("{} / {}", human::size(a as f64), human::size(b as f64));
        fields! {
            "Container" => id,
            "ID" => id,
            "Name" => stats.name.as_str(),
            "CPUPerc" => format!("{:.2}%", stats.cpu_percent),
            "MemUsage" => format!("{} / {}", human::bytes(memory), human::bytes(limit)),
            "MemPerc" => format!("{percent:.2}%"),
            "NetIO" => pair(stats.net_rx_bytes, stats.net_tx_bytes),
            "BlockIO" => pair(stats.block_read_bytes, stats.block_write_bytes),
            "PIDs" => stats.pids,
        }
    }
}
