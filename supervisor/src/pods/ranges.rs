//! The subnets of a node's pods, as the kubelet was told them: it says them once, and they are told to plugins that have the
//! capability `ipRanges`.

use std::path::PathBuf;
use std::sync::PoisonError;

use super::Pods;
use crate::error::{Error, Result};
use crate::network::cidr::Cidr;

/// Subnets that are taken: one of each family is usual.
const MOST: usize = 16;

impl Pods {
    fn ranges_file(&self) -> PathBuf {
        self.config.root.join("pod-ranges.json")
    }

    pub(super) fn read_ranges(&self) {
        let Ok(text) = std::fs::read(self.ranges_file()) else { return };
        match serde_json::from_slice(&text) {
            Ok(ranges) => *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = ranges,
            Err(error) => tracing::warn!("the subnets of pods cannot be read: {error}"),
        }
    }

    pub(super) fn pod_ranges(&self) -> Vec<String> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// New pods are to be in these subnets: `CIDR[,CIDR…]`.
    pub async fn set_pod_ranges(&self, text: &str) -> Result<()> {
        let ranges: Vec<String> =
            text.split(',').map(|range| range.trim().to_owned()).filter(|range| !range.is_empty()).collect();
        if ranges.len() > MOST {
            return Err(Error::invalid("subnets of pods", format!("there are more than {MOST}")));
        }
        for range in &ranges {
            if let Err(error) = range.parse::<Cidr>() {
                return Err(Error::invalid(format!("subnet of pods {range:?}"), error.to_string()));
            }
        }
        let (path, text) = (self.ranges_file(), serde_json::json!(ranges).to_string());
        let write = move || {
            let draft = path.with_extension("new");
            crate::folders::replace(&path, &draft, |file| std::io::Write::write_all(file, text.as_bytes()))
                .map_err(|error| Error::io("writing", &path, error))
        };
        crate::content::store::blocking(write).await?;
        *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = ranges;
        Ok(())
    }
}
