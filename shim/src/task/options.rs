//! The runtime options that a `Create` may carry: containerd's for runc, or our own daemon's.

use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::longshore::shim::v1::CreateOptions;
use longshore_proto::{runtimeoptions, ttrpc};
use prost_types::Any;

use crate::error::{Error, Result};
use crate::stdio::{Attachable, Owner};

/// What the options of either kind mean here.
#[derive(Debug, Default)]
pub struct Options {
    /// Our own daemon's extras.
    pub own: CreateOptions,
    pub attachable: Attachable,
    pub owner: Owner,
    /// Runc's, of which the shim's own runtime knows all that has a meaning for it. Empty with our own daemon's.
    pub runc: RuncOptions,
    pub systemd_cgroup: bool,
}

impl Options {
    /// Reads the options; none at all is fine.
    pub fn read(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !(any.type_url.is_empty() && any.value.is_empty())) else {
            return Ok(Self::default());
        };
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "longshore.shim.v1.CreateOptions" => {
                Ok(Self::own(ttrpc::decode(&any.value, "longshore.shim.v1.CreateOptions")?))
            }
            "containerd.runc.v1.Options" => {
                Ok(Self::runc(ttrpc::decode(&any.value, "containerd.runc.v1.Options")?))
            }
            "runtimeoptions.v1.Options" => {
                Self::of_file(&ttrpc::decode(&any.value, "runtimeoptions.v1.Options")?)
            }
            _ => Err(Error::BadField {
                field: "options",
                why: format!(
                    "type {:?} is not known; use containerd.runc.v1.Options or longshore.shim.v1.CreateOptions",
                    any.type_url
                ),
            }),
        }
    }

    fn own(own: CreateOptions) -> Self {
        let attachable = Attachable { stdin: own.open_stdin, stdout: true, stderr: true };
        Self { attachable, systemd_cgroup: own.systemd_cgroup, own, ..Self::default() }
    }

    fn runc(runc: RuncOptions) -> Self {
        let owner = (runc.io_uid != 0 || runc.io_gid != 0).then_some((runc.io_uid, runc.io_gid));
        Self { owner, systemd_cgroup: runc.systemd_cgroup, runc, ..Self::default() }
    }

    /// Options that name a configuration file, of which this shim has none.
    fn of_file(options: &runtimeoptions::v1::Options) -> Result<Self> {
        if options.config_path.is_empty() && options.config_body.is_empty() {
            return Ok(Self::default());
        }
        Err(Error::NotBuilt {
            what: "a configuration file in the runtime's options",
            why: "this runtime has none; pass containerd.runc.v1.Options".into(),
        })
    }
}
