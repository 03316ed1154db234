//! Limits on block devices: v1's `blkio`, v2's `io`.

use super::limits::Writer;
use super::read;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice, LinuxWeightDevice};

impl Writer<'_> {
    pub(super) fn block_io(&self, io: &LinuxBlockIo) -> Result<()> {
        let throttles = [
            ("blkio.throttle.read_bps_device", "rbps", io.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", "wbps", io.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", "riops", io.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", "wiops", io.throttle_write_iops_device()),
        ];
        let field = "linux.resources.blockIO";
        for (v1, v2, devices) in throttles {
            for device in devices.as_deref().unwrap_or_default() {
                let controller = if self.cgroups.v1("blkio").is_some() { "blkio" } else { "io" };
                let group = self.find(field, controller)?;
                if group.is_v2() {
                    self.write(group, "io.max", &throttle(device, v2))?;
                } else {
                    self.write(
                        group,
                        v1,
                        &format!("{}:{} {}", device.major(), device.minor(), device.rate()),
                    )?;
                }
            }
        }
        if let Some(weight) = io.weight().filter(|w| *w != 0) {
            self.block_weight(&weight.to_string(), weight)?;
        }
        for device in io.weight_device().as_deref().unwrap_or_default() {
            self.device_weight(device)?;
        }
        if let Some(leaf) = io.leaf_weight().filter(|w| *w != 0) {
            self.v1_only(
                "linux.resources.blockIO.leafWeight",
                "blkio",
                "blkio.leaf_weight",
                &leaf.to_string(),
            )?;
        }
        Ok(())
    }

    fn block_weight(&self, v1: &str, weight: u16) -> Result<()> {
        let field = "linux.resources.blockIO.weight";
        match self.cgroups.v1("blkio") {
            Some(group) => {
                match ["blkio.bfq.weight", "blkio.weight"].into_iter().find(|file| read::exists(group, file))
                {
                    Some(file) => self.write(group, file, v1),
                    None => Err(Error::NoController { field: field.into(), controller: "blkio weight" }),
                }
            }
            None => {
                let group = self.find(field, "io")?;
                if read::exists(group, "io.bfq.weight") {
                    self.write(group, "io.bfq.weight", v1)
                } else {
                    // From BFQ's 10..1000 to 1..10000.
                    let scaled = 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990;
                    self.write(group, "io.weight", &scaled.to_string())
                }
            }
        }
    }

    fn device_weight(&self, device: &LinuxWeightDevice) -> Result<()> {
        let field = "linux.resources.blockIO.weightDevice";
        let Some(weight) = device.weight() else { return Ok(()) };
        let value = format!("{}:{} {weight}", device.major(), device.minor());
        match self.cgroups.v1("blkio") {
            Some(group) => {
                let files = ["blkio.bfq.weight_device", "blkio.weight_device"];
                match files.into_iter().find(|file| read::exists(group, file)) {
                    Some(file) => self.write(group, file, &value),
                    None => Err(Error::NoController { field: field.into(), controller: "blkio weight" }),
                }
            }
            None => self.write(self.find(field, "io")?, "io.bfq.weight", &value),
        }
    }
}

fn throttle(device: &LinuxThrottleDevice, key: &str) -> String {
    let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
    format!("{}:{} {key}={rate}", device.major(), device.minor())
}
