//! containerd.services.images.v1.

use std::sync::Arc;

use longshore_proto::containerd::services::images::v1 as wire;
use tonic::{Request, Response, Status};

use super::encoded::{self, Encoded};
use super::routes::Routes;
use super::{convert, lease, namespace, required};
use crate::filters::Filter;
use crate::images::store::{Circumstances, ImageStore};
use crate::labels::from_hash;
use crate::services::Services;

pub struct Service(pub Services);

/// Adds the methods whose answers are kept as they are sent.
pub fn encoded(routes: &mut Routes, services: &Services) {
    let (getting, listing) = (Arc::clone(&services.images), Arc::clone(&services.images));
    routes.add_method("/containerd.services.images.v1.Images/Get", move |request| {
        let store = Arc::clone(&getting);
        Box::pin(async move { Ok(encoded::unary(request, |request| get(store, request)).await) })
    });
    routes.add_method("/containerd.services.images.v1.Images/List", move |request| {
        let store = Arc::clone(&listing);
        Box::pin(async move { Ok(encoded::unary(request, |request| list(store, request)).await) })
    });
}

async fn get(store: Arc<ImageStore>, request: Request<wire::GetImageRequest>) -> Result<Encoded, Status> {
    Ok(Encoded::one(store.message(&namespace(&request)?, &request.get_ref().name)?))
}

async fn list(store: Arc<ImageStore>, request: Request<wire::ListImagesRequest>) -> Result<Encoded, Status> {
    let namespace = namespace(&request)?;
    let filter = Filter::parse_all(&request.get_ref().filters)?;
    let mut answer = Encoded::default();
    store.messages(&namespace, &filter)?.into_iter().for_each(|message| answer.add(message));
    Ok(answer)
}

#[tonic::async_trait]
impl wire::images_server::Images for Service {
    async fn get(
        &self,
        request: Request<wire::GetImageRequest>,
    ) -> Result<Response<wire::GetImageResponse>, Status> {
        // Requests from the socket take the shorter way of [`encoded`].
        let image = self.0.images.get(&namespace(&request)?, &request.get_ref().name)?;
        Ok(Response::new(wire::GetImageResponse { image: Some(image.into()) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListImagesRequest>,
    ) -> Result<Response<wire::ListImagesResponse>, Status> {
        // Requests from the socket take the shorter way of [`encoded`].
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let images = self.0.images.list(&namespace(&request)?, &filter)?;
        Ok(Response::new(wire::ListImagesResponse {
            images: images.into_iter().map(wire::Image::from).collect(),
        }))
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
        Ok(Response::new(wire::CreateImageResponse { image: Some(image.into()) }))
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
        Ok(Response::new(wire::UpdateImageResponse { image: Some(image.into()) }))
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
