//! `longshore context ls`: the names there are.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::context::remind;
use crate::contexts::DEFAULT;
use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::fields;
use crate::output::list::{self, Layout};

#[derive(clap::Args)]
pub struct Args {
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.Name}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Only show context names
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "List contexts";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let store = context.store();
        let current = store.current(context.choice())?;
        let mut names = store.names()?;
        names.push(DEFAULT.into());
        names.sort();
        let mut rows = Vec::new();
        for name in names {
            // One that cannot be read hides none of the others.
            let (description, host, error) = match store.get(&name) {
                Ok(stored) => {
                    let error = Endpoint::parse(&stored.host).err().map(|error| error.to_string());
                    (stored.description, stored.host, error.unwrap_or_default())
                }
                Err(failure) => (String::new(), String::new(), failure.to_string()),
            };
            rows.push(fields! {
                "Name" => name.as_str(),
                "Description" => description,
                "DockerEndpoint" => host.as_str(),
                "Endpoint" => host.as_str(),
                "Current" => name == current,
                "Error" => error,
            });
        }
        let layout = Layout {
            table: "{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.Endpoint}}\t{{.Error}}",
            quiet: self.quiet.then_some("{{.Name}}"),
            headings: HEADINGS,
        };
        list::print(self.format.as_deref(), &layout, &rows)?;
        remind("a context");
        Ok(0)
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Endpoint", "ENDPOINT"),
    ("Current", ""),
    ("Error", "ERROR"),
];
