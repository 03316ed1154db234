use longshore_proto::runtime::v1 as wire;

use super::{Cri, Stream, in_batches};
use crate::error::Result;
use crate::pods::images::ImageInfo;

impl Cri {
    pub(super) async fn do_list_images(
        &self,
        request: wire::ListImagesRequest,
    ) -> Result<wire::ListImagesResponse> {
        Ok(wire::ListImagesResponse { images: self.images(request.filter).await? })
    }

    pub(super) async fn do_stream_images(
        &self,
        request: wire::StreamImagesRequest,
    ) -> Result<Stream<wire::StreamImagesResponse>> {
        let images = self.images(request.filter).await?;
        Ok(in_batches(images, |images| wire::StreamImagesResponse { images }))
    }

    async fn images(&self, filter: Option<wire::ImageFilter>) -> Result<Vec<wire::Image>> {
        let named = filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        if named.is_empty() {
            return Ok(self.pods.images().await?.iter().map(image).collect());
        }
        match self.pods.image(&named).await {
            Ok(found) => Ok(vec![image(&found)]),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn image(info: &ImageInfo) -> wire::Image {
    let uid = info.user.parse::<i64>().ok();
    wire::Image {
        id: info.id.clone(),
        repo_tags: info.tags.clone(),
        repo_digests: info.digests.clone(),
        size: info.size,
        username: if uid.is_some() { String::new() } else { info.user.clone() },
        uid: uid.map(|value| wire::Int64Value { value }),
        spec: Some(wire::ImageSpec { image: info.id.clone(), ..wire::ImageSpec::default() }),
        pinned: info.pinned,
    }
}
