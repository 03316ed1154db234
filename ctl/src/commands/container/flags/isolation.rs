//! The flags about what a container may do and see: rights, devices, namespaces.

use longshore_proto::longshore::engine::v1::ContainerConfig;

use crate::failure::Failure;
use crate::parse::{device, pairs, security};

#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Cgroup namespace to use
    #[arg(long, value_name = "host|private")]
    cgroupns: Option<String>,
    /// Add a host device, every device below a folder, or a CDI device to the container
    #[arg(long, value_name = "PATH[:PATH][:rwm]")]
    device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "TYPE MAJOR:MINOR rwm", value_parser = device::cgroup_rule)]
    device_cgroup_rule: Vec<String>,
    /// Add additional groups to join
    #[arg(long, value_name = "GROUP|GID")]
    group_add: Vec<String>,
    /// IPC mode to use: `private`, `shareable`, `none`, `host` or `container:NAME`
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Container isolation technology: `default` is what Linux has
    #[arg(long, value_name = "default")]
    isolation: Option<String>,
    /// PID namespace to use: `host` or `container:NAME`
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    privileged: bool,
    /// Runtime to use for this container
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Security Options
    #[arg(long, value_name = "OPTION[=VALUE]")]
    security_opt: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "NAME=VALUE", value_parser = pairs::sysctl)]
    sysctl: Vec<(String, String)>,
    /// User namespace to use: `host`
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// UTS namespace to use: `host`
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
}

impl Flags {
    /// Writes down what was asked for.
    pub fn fill(self, config: &mut ContainerConfig) -> Result<(), Failure> {
        config.cap_add = self.cap_add;
        config.cap_drop = self.cap_drop;
        config.cgroup_parent = self.cgroup_parent.unwrap_or_default();
        config.cgroupns_mode = self.cgroupns.unwrap_or_default();
        for text in &self.device {
            config.devices.push(device::device(text).map_err(Failure::Refused)?);
        }
        config.device_cgroup_rules = self.device_cgroup_rule;
        config.group_add = self.group_add;
        config.ipc_mode = self.ipc.unwrap_or_default();
        config.pid_mode = self.pid.unwrap_or_default();
        config.privileged = self.privileged;
        config.runtime = self.runtime.unwrap_or_default();
        config.uts_mode = self.uts.unwrap_or_default();
        config.userns_mode = self.userns.unwrap_or_default();
        config.sysctls.extend(self.sysctl);
        security::check_modes(
            &config.pid_mode,
            &config.uts_mode,
            &config.userns_mode,
            &config.cgroupns_mode,
        )?;
        for text in &self.security_opt {
            config.security_opt.push(security::option(text)?);
        }
        match self.isolation.as_deref() {
            None | Some("" | "default") => Ok(()),
            Some(other) => {
                Err(Failure::message(format!("invalid isolation '{other}' on linux: only 'default' is")))
            }
        }
    }
}
