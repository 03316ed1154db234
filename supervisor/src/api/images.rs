//! containerd.services.images.v1.

use longshore_proto::containerd::services::images::v1 as wire;
use tonic::{Request, Response, Status};

use super::{convert, lease, namespace, required};
use crate::filters::Filter;
use crate::images::store::{Circumstances, Image};
use crate::labels::{from_hash, to_hash};
use crate::services::Services;

pub struct Service(pub Services);

fn to_wire(image: Image) -> wire::Image {
    wire::Image {
        labels: to_hash(&image.labels),
        target: Some(convert::descriptor(image.target)),
        created_at: Some(convert::timestamp(image.created_at)),
        updated_at: Some(convert::timestamp(image.updated_at)),
        name: image.name,
    }
}

#[tonic::async_trait]
impl wire::images_server::Images for Service {
    async fn get(
        &self,
        request: Request<wire::GetImageRequest>,
    ) -> Result<Response<wire::GetImageResponse>, Status> {
        let namespace = namespace(&request)?;
        let image = self.0.images.get(&namespace, &request.get_ref().name)?;
        Ok(Response::new(wire::GetImageResponse { image: Some(to_wire(image)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let images = self.0.images.list(&namespace, &filter)?.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListImagesResponse { images }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateImageRequest>,
    ) -> Result<Response<wire::CreateImageResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let request = request.into_inner();
        let at = request.source_date_epoch.map(convert::from_timestamp).transpose()?;
        let asked = required(request.image, "image")?;
        let target = convert::from_descriptor(required(asked.target, "image target")?)?;
        let circumstances = Circumstances { at, lease: lease.as_deref() };
        let labels = from_hash(asked.labels);
        let image = self.0.images.create(&namespace, &asked.name, target, labels, circumstances).await?;
        Ok(Response::new(wire::CreateImageResponse { image: Some(to_wire(image)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateImageRequest>,
    ) -> Result<Response<wire::UpdateImageResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let request = request.into_inner();
        let at = request.source_date_epoch.map(convert::from_timestamp).transpose()?;
        let asked = required(request.image, "image")?;
        // A client that changes only labels sends an empty target.
        let target = asked.target.filter(|target| !target.digest.is_empty());
        let target = target.map(convert::from_descriptor).transpose()?;
        let mask = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let circumstances = Circumstances { at, lease: lease.as_deref() };
        let labels = from_hash(asked.labels);
        let image =
            self.0.images.update(&namespace, &asked.name, target, labels, &mask, circumstances).await?;
        Ok(Response::new(wire::UpdateImageResponse { image: Some(to_wire(image)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteImageRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let request = request.into_inner();
        let target = request.target.filter(|target| !target.digest.is_empty());
        let target = target.map(convert::from_descriptor).transpose()?;
        self.0.images.delete(&namespace, &request.name, target.as_ref(), lease.as_deref()).await?;
        if request.sync {
            self.0.gc.collect_now().await?
        } else {
            self.0.gc.trigger()
        }
        Ok(Response::new(()))
    }
}
