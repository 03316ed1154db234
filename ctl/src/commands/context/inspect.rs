//! `longshore context inspect`: everything about contexts.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect;
use crate::contexts::{DEFAULT, Stored};
use crate::failure::Failure;
use crate::fields;
use crate::output::value::Value;

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.Endpoints.longshore.Host}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The contexts' names; without any, the current one
    #[arg(value_name = "CONTEXT")]
    names: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display detailed information on one or more contexts";
    const USAGE: &'static str = "[OPTIONS] [CONTEXT] [CONTEXT...]";
    const ARGUMENTS: Arguments = Arguments::Any;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let store = context.store();
        let names = match self.names.is_empty() {
            true => vec![store.current(context.choice())?],
            false => self.names,
        };
        let found = names.iter().map(|name| {
            let path = match name.as_str() {
                DEFAULT => "<IN MEMORY>".to_string(),
                name => store.path(name).display().to_string(),
            };
            store.get(name).map(|stored| value(&stored, &path))
        });
        inspect::print(self.format.as_deref(), found)
    }
}

fn value(stored: &Stored, path: &str) -> Value {
    let endpoint = || fields! { "Host" => stored.host.as_str() };
    fields! {
        "Name" => stored.name.as_str(),
        "Metadata" => fields! { "Description" => stored.description.as_str() },
        "Endpoints" => Value::Map(vec![("longshore".into(), endpoint())]),
        "Storage" => fields! { "MetadataPath" => path },
    }
}
