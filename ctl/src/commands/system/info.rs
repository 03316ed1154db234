//! `longshore info`: the daemon, its host, and what the host lacks.

use longshore_proto::longshore::engine::v1::{InfoRequest, InfoResponse};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect;
use crate::failure::Failure;
use crate::fields;
use crate::output::value::Value;
use crate::output::{human, print};

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.CgroupVersion}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display system-wide information";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let info = context.system().await?.info(InfoRequest {}).await?.into_inner();
        match self.format.as_deref() {
            None | Some("") => {
                print::out(&text(context, &info)?)?;
                for warning in &info.warnings {
                    print::note(format!("WARNING: {warning}"));
                }
            }
            Some(format) => print::line(inspect::formatted(format, &value(&info))?)?,
        }
        Ok(0)
    }
}

fn text(context: &Context, info: &InfoResponse) -> Result<String, Failure> {
    let mut text = format!("Client:\n Version:    {}\n\nServer:\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, shown: String| text.push_str(&format!(" {name}: {shown}\n"));
    line("Containers", info.containers.to_string());
    line(" Running", info.running.to_string());
    line(" Paused", info.paused.to_string());
    line(" Stopped", info.stopped.to_string());
    line("Images", info.images.to_string());
    line("Server Version", info.version.clone());
    line("Storage Driver", info.snapshotter.clone());
    line("Cgroup Driver", info.cgroup_driver.clone());
    line("Cgroup Version", info.cgroups.clone());
    line("Runtimes", info.runtimes.join(" "));
    line("Kernel Version", info.kernel.clone());
    line("Operating System", info.operating_system.clone());
    line("Architecture", info.arch.clone());
    line("CPUs", info.cpus.to_string());
    line("Total Memory", human::bytes(info.memory_bytes as f64));
    line("Name", info.name.clone());
    line("Longshore Root Dir", info.root.clone());
    line("Longshore State Dir", info.state.clone());
    line("Socket", context.endpoint()?.to_string());
    if !info.insecure_registries.is_empty() {
        line("Insecure Registries", format!("\n  {}", info.insecure_registries.join("\n  ")));
    }
    Ok(text)
}

fn value(info: &InfoResponse) -> Value {
    fields! {
        "Containers" => info.containers,
        "ContainersRunning" => info.running,
        "ContainersPaused" => info.paused,
        "ContainersStopped" => info.stopped,
        "Images" => info.images,
        "Driver" => info.snapshotter.as_str(),
        "CgroupDriver" => info.cgroup_driver.as_str(),
        "CgroupVersion" => info.cgroups.as_str(),
        "KernelVersion" => info.kernel.as_str(),
        "OperatingSystem" => info.operating_system.as_str(),
        "Architecture" => info.arch.as_str(),
        "NCPU" => info.cpus,
        "MemTotal" => info.memory_bytes,
        "LongshoreRootDir" => info.root.as_str(),
        "LongshoreStateDir" => info.state.as_str(),
        "Name" => info.name.as_str(),
        "ServerVersion" => info.version.as_str(),
        "Runtimes" => info.runtimes.clone(),
        "InsecureRegistries" => info.insecure_registries.clone(),
        "Warnings" => info.warnings.clone(),
    }
}
