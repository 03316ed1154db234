//! The runtime options that a `Create` may carry: containerd's for runc, or our own daemon's.

use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::longshore::shim::v1::CreateOptions;
use longshore_proto::ttrpc;
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
    pub no_pivot: bool,
    pub no_new_keyring: bool,
    pub systemd_cgroup: bool,
}

impl Options {
    /// Reads the options; none at all is fine. Of runc's, those that name a runc binary, its state folder, CRIU
    /// folders and the shim's cgroup mean nothing here.
    pub fn read(any: Option<&Any>) -> Result<Self> {
        let Some(any) = any.filter(|any| !(any.type_url.is_empty() && any.value.is_empty())) else {
            return Ok(Self::default());
        };
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "longshore.shim.v1.CreateOptions" => {
                Ok(Self::own(ttrpc::decode(&any.value, "longshore.shim.v1.CreateOptions")?))
            }
            "containerd.runc.v1.Options" => {
                Ok(Self::runc(&ttrpc::decode(&any.value, "containerd.runc.v1.Options")?))
            }
            // Names a configuration file of some other runtime; there is none for this one.
            "runtimeoptions.v1.Options" => Ok(Self::default()),
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

    fn runc(options: &RuncOptions) -> Self {
        let owner = (options.io_uid != 0 || options.io_gid != 0).then_some((options.io_uid, options.io_gid));
        Self {
            owner,
            no_pivot: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            ..Self::default()
        }
    }
}
