use std::collections::HashMap;

use longshore_proto::runtime::v1 as wire;
use serde_json::json;

use super::list_images::image;
use super::{Cri, required};
use crate::error::Result;

impl Cri {
    pub(super) async fn do_image_status(
        &self,
        request: wire::ImageStatusRequest,
    ) -> Result<wire::ImageStatusResponse> {
        let named = required(request.image, "image")?.image;
        let found = match self.pods.image(&named).await {
            Ok(found) => found,
            // That there is none is an answer.
            Err(error) if error.is_not_found() => return Ok(wire::ImageStatusResponse::default()),
            Err(error) => return Err(error),
        };
        let mut info = HashMap::new();
        if request.verbose {
            let config: serde_json::Value =
                serde_json::from_slice(&found.local.config_json).unwrap_or_default();
            let text = json!({ "chainID": found.local.chain_id, "imageSpec": config }).to_string();
            info.insert("info".to_owned(), text);
        }
        Ok(wire::ImageStatusResponse { image: Some(image(&found)), info })
    }
}
