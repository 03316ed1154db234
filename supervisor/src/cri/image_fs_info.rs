use longshore_proto::runtime::v1 as wire;

use super::{Cri, nanos, number};
use crate::error::Result;

impl Cri {
    pub(super) async fn do_image_fs_info(
        &self,
        _request: wire::ImageFsInfoRequest,
    ) -> Result<wire::ImageFsInfoResponse> {
        let used = self.pods.image_disk().await?;
        let usage = wire::FilesystemUsage {
            timestamp: nanos(Some(jiff::Timestamp::now())),
            fs_id: Some(wire::FilesystemIdentifier { mountpoint: used.mount_point }),
            used_bytes: number(used.bytes),
            inodes_used: number(used.inodes),
        };
        // Writable layers are beside the images' layers.
        Ok(wire::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        })
    }
}
