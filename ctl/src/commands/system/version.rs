//! `longshore version`: this command line's version and the daemon's.

use longshore_proto::longshore::engine::v1::VersionRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect;
use crate::failure::Failure;
use crate::fields;
use crate::output::print;
use crate::output::value::Value;

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.Server.Version}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Show the longshore version information";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        // Our own version is shown also where no daemon answers.
        let server = server(context).await;
        let (known, failure) = match server {
            Ok(value) => (value, None),
            Err(failure) => (Value::Null, Some(failure)),
        };
        let client = fields! {
            "Platform" => fields! { "Name" => "longshore" },
            "Version" => env!("CARGO_PKG_VERSION"),
            "Os" => std::env::consts::OS,
            "Arch" => arch(std::env::consts::ARCH),
            "Context" => context.name()?.unwrap_or_default(),
        };
        match self.format.as_deref() {
            None | Some("") => {
                print::out(&text("Client:", &client))?;
                if known != Value::Null {
                    print::out(&format!("\n{}", text("Server:", &known)))?;
                }
            }
            Some(format) => {
                let all = fields! { "Client" => client, "Server" => known };
                print::line(inspect::formatted(format, &all)?)?;
            }
        }
        failure.map_or(Ok(0), Err)
    }
}

async fn server(context: &Context) -> Result<Value, Failure> {
    let version = context.system().await?.version(VersionRequest {}).await?.into_inner();
    let component = fields! { "Name" => "Engine", "Version" => version.version.as_str() };
    Ok(fields! {
        "Platform" => fields! { "Name" => "longshore" },
        "Components" => Value::List(vec![component]),
        "Version" => version.version,
        "ApiVersion" => version.api_version,
        "GitCommit" => version.revision,
        "RustVersion" => version.rust_version,
        "Os" => version.os,
        "Arch" => version.arch,
        "KernelVersion" => version.kernel,
    })
}

fn text(title: &str, value: &Value) -> String {
    let show = |name: &str| value.field(name).map(Value::display).filter(|text| !text.is_empty());
    let mut text = format!("{title}\n");
    let platform = format!("{}/{}", show("Os").unwrap_or_default(), show("Arch").unwrap_or_default());
    let lines = [
        ("Version:", show("Version")),
        ("API version:", show("ApiVersion")),
        ("Rust version:", show("RustVersion")),
        ("Git commit:", show("GitCommit")),
        ("Kernel:", show("KernelVersion")),
        ("OS/Arch:", Some(platform)),
        ("Context:", show("Context")),
    ];
    for (name, shown) in lines {
        if let Some(shown) = shown {
            text.push_str(&format!(" {name:<18}{shown}\n"));
        }
    }
    text
}

/// Go's name of an architecture, which image references use.
fn arch(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
