//! containerd.services.sandbox.v1.Store.

use longshore_proto::containerd::services::sandbox::v1 as wire;
use tonic::{Request, Response, Status};

use super::{from_wire, to_wire};
use crate::api::{namespace, required};
use crate::filters::Filter;
use crate::services::Services;

pub struct Store(pub Services);

#[tonic::async_trait]
impl wire::store_server::Store for Store {
    async fn create(
        &self,
        request: Request<wire::StoreCreateRequest>,
    ) -> Result<Response<wire::StoreCreateResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = required(request.into_inner().sandbox, "sandbox")?;
        let sandbox = self.0.sandboxes.create(&namespace, from_wire(asked)).await?;
        Ok(Response::new(wire::StoreCreateResponse { sandbox: Some(to_wire(sandbox)) }))
    }

    async fn update(
        &self,
        request: Request<wire::StoreUpdateRequest>,
    ) -> Result<Response<wire::StoreUpdateResponse>, Status> {
        let namespace = namespace(&request)?;
        let wire::StoreUpdateRequest { sandbox, fields } = request.into_inner();
        let changed = from_wire(required(sandbox, "sandbox")?);
        let sandbox = self.0.sandboxes.update(&namespace, changed, &fields).await?;
        Ok(Response::new(wire::StoreUpdateResponse { sandbox: Some(to_wire(sandbox)) }))
    }

    async fn delete(
        &self,
        request: Request<wire::StoreDeleteRequest>,
    ) -> Result<Response<wire::StoreDeleteResponse>, Status> {
        let namespace = namespace(&request)?;
        self.0.sandboxes.delete(&namespace, &request.get_ref().sandbox_id).await?;
        self.0.gc.trigger();
        Ok(Response::new(wire::StoreDeleteResponse {}))
    }

    async fn list(
        &self,
        request: Request<wire::StoreListRequest>,
    ) -> Result<Response<wire::StoreListResponse>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let list = self.0.sandboxes.list(&namespace, &filter)?.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::StoreListResponse { list }))
    }

    async fn get(
        &self,
        request: Request<wire::StoreGetRequest>,
    ) -> Result<Response<wire::StoreGetResponse>, Status> {
        let namespace = namespace(&request)?;
        let sandbox = self.0.sandboxes.get(&namespace, &request.get_ref().sandbox_id)?;
        Ok(Response::new(wire::StoreGetResponse { sandbox: Some(to_wire(sandbox)) }))
    }
}
