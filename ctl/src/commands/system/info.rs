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
    let mut text = format!(
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |name: &str, shown: String| text.push_str(&format!(" {name}: {shown}\n"));
    line("Containers", info.containers.to_string());
    line(" Running", info.running.to_string());
    line(" Paused", info.paused.to_string());
    line(" Stopped", info.stopped.to_string());
    line("Images", info.images.to_string());
    line("Server Version", info.version.clone());
    line("Storage Driver", info.snapshotter.clone());
    info.driver_status.iter().for_each(|pair| line(&format!(" {}", pair.name), pair.value.clone()));
    line("Logging Driver", info.logging_driver.clone());
    line("Cgroup Driver", info.cgroup_driver.clone());
    line("Cgroup Version", cgroup_version(info).into());
    text.push_str(" Plugins:\n");
    let mut line = |name: &str, shown: String| text.push_str(&format!(" {name}: {shown}\n"));
    line(" Log", info.log_drivers.join(" "));
    line("Runtimes", info.runtimes.join(" "));
    line("Default Runtime", info.default_runtime.clone());
    text.push_str(" Security Options:\n");
    for option in &info.security_options {
        text.push_str(&security_option(option));
    }
    let mut line = |name: &str, shown: String| text.push_str(&format!(" {name}: {shown}\n"));
    line("Kernel Version", info.kernel.clone());
    line("Operating System", info.operating_system.clone());
    line("OSType", "linux".into());
    line("Architecture", machine(&info.arch).into());
    line("CPUs", info.cpus.to_string());
    line("Total Memory", human::bytes(info.memory_bytes as f64));
    line("Name", info.name.clone());
    line("ID", info.id.clone());
    line("Longshore Root Dir", info.root.clone());
    line("Longshore State Dir", info.state.clone());
    line("Socket", context.endpoint()?.to_string());
    line("Debug Mode", "false".into());
    let insecure = info.insecure_registries.iter().map(String::as_str).chain(["127.0.0.0/8"]);
    text.push_str(" Insecure Registries:\n");
    insecure.for_each(|registry| text.push_str(&format!("  {registry}\n")));
    if !info.mirrors.is_empty() {
        text.push_str(" Registry Mirrors:\n");
        info.mirrors.iter().for_each(|mirror| text.push_str(&format!("  {mirror}\n")));
    }
    text.push_str(" Live Restore Enabled: true\n\n");
    Ok(text)
}

/// docker's number; a host with both kinds is used by the first.
fn cgroup_version(info: &InfoResponse) -> &'static str {
    if info.cgroups == "v2" { "2" } else { "1" }
}

/// The kernel's name of an architecture, which docker shows here.
fn machine(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    }
}

/// `name=seccomp,profile=builtin` on two lines.
fn security_option(option: &str) -> String {
    let mut text = String::new();
    for (key, value) in option.split(',').filter_map(|pair| pair.split_once('=')) {
        match key {
            "name" => text.push_str(&format!("  {value}\n")),
            key => {
                let mut letters = key.chars();
                let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
                text.push_str(&format!("   {first}{}: {value}\n", letters.as_str()));
            }
        }
    }
    text
}

fn value(info: &InfoResponse) -> Value {
    let pairs =
        info.driver_status.iter().map(|pair| Value::from(vec![pair.name.clone(), pair.value.clone()]));
    let runtimes = info.runtimes.iter().map(|name| (name.clone(), fields! { "path" => "" })).collect();
    let mut insecure = info.insecure_registries.clone();
    insecure.push("127.0.0.0/8".into());
    fields! {
        "ID" => info.id.as_str(),
        "Containers" => info.containers,
        "ContainersRunning" => info.running,
        "ContainersPaused" => info.paused,
        "ContainersStopped" => info.stopped,
        "Images" => info.images,
        "Driver" => info.snapshotter.as_str(),
        "DriverStatus" => Value::List(pairs.collect()),
        "Plugins" => fields! { "Log" => info.log_drivers.clone() },
        "MemoryLimit" => true,
        "SwapLimit" => info.swap_limit,
        "CpuCfsPeriod" => true,
        "CpuCfsQuota" => true,
        "CPUShares" => true,
        "CPUSet" => true,
        "PidsLimit" => true,
        "IPv4Forwarding" => info.ipv4_forwarding,
        "Debug" => false,
        "SystemTime" => human::rfc3339(info.system_time.as_ref()),
        "LoggingDriver" => info.logging_driver.as_str(),
        "CgroupDriver" => info.cgroup_driver.as_str(),
        "CgroupVersion" => cgroup_version(info),
        "KernelVersion" => info.kernel.as_str(),
        "OperatingSystem" => info.operating_system.as_str(),
        "OSVersion" => info.os_version.as_str(),
        "OSType" => "linux",
        "Architecture" => machine(&info.arch),
        "IndexServerAddress" => crate::auth::HUB_KEY,
        "RegistryConfig" => fields! {
            "InsecureRegistryCIDRs" => insecure.clone(),
            "Mirrors" => info.mirrors.clone(),
        },
        "NCPU" => info.cpus,
        "MemTotal" => info.memory_bytes,
        "LongshoreRootDir" => info.root.as_str(),
        "LongshoreStateDir" => info.state.as_str(),
        "Name" => info.name.as_str(),
        "Labels" => Vec::<String>::new(),
        "ExperimentalBuild" => false,
        "ServerVersion" => info.version.as_str(),
        "Runtimes" => Value::Map(runtimes),
        "DefaultRuntime" => info.default_runtime.as_str(),
        "LiveRestoreEnabled" => true,
        "SecurityOptions" => info.security_options.clone(),
        "InsecureRegistries" => info.insecure_registries.clone(),
        "Warnings" => info.warnings.clone(),
    }
}
