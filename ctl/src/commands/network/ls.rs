//! `longshore network ls`: list networks.

use longshore_proto::longshore::engine::v1::{ListNetworksRequest, Network};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::container::ls::labels;
use crate::failure::Failure;
use crate::fields;
use crate::output::human;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Only those with KEY=VALUE: dangling, driver, id, label, name, scope, type
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.Name}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "List networks";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let request = ListNetworksRequest { filters: self.filter.clone() };
        let networks = context.networks().await?.list(request).await?.into_inner().networks;
        let rows: Vec<Value> = networks.iter().map(|network| self.row(network)).collect();
        let layout = Layout {
            table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
            quiet: self.quiet.then_some("{{.ID}}"),
            headings: HEADINGS,
        };
        list::print(self.format.as_deref(), &layout, &rows)?;
        Ok(0)
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Label", ""),
    ("CreatedAt", "CREATED AT"),
];

impl Args {
    fn row(&self, network: &Network) -> Value {
        let id = if self.no_trunc { network.id.as_str() } else { human::short_id(&network.id) };
        fields! {
            "ID" => id,
            "Name" => network.name.as_str(),
            "Driver" => network.driver.as_str(),
            "Scope" => "local",
            "IPv6" => network.ipv6.to_string(),
            "Internal" => network.internal.to_string(),
            "Labels" => labels(&network.labels),
            "Label" => &network.labels,
            "CreatedAt" => human::local(network.created_at.as_ref()),
        }
    }
}
