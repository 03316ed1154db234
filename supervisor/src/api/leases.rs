//! containerd.services.leases.v1.

use longshore_proto::containerd::services::leases::v1 as wire;
use tonic::{Request, Response, Status};

use super::{convert, namespace, required};
use crate::filters::Filter;
use crate::labels::{from_hash, to_hash};
use crate::leases::{Lease, Resource};
use crate::services::Services;

pub struct Service(pub Services);

fn to_wire(lease: Lease) -> wire::Lease {
    wire::Lease {
        labels: to_hash(&lease.labels),
        created_at: Some(convert::timestamp(lease.created_at)),
        id: lease.id,
    }
}

fn resource(asked: Option<wire::Resource>) -> Result<Resource, Status> {
    let asked = required(asked, "lease resource")?;
    Ok(Resource::parse(&asked.r#type, &asked.id)?)
}

#[tonic::async_trait]
impl wire::leases_server::Leases for Service {
    async fn create(
        &self,
        request: Request<wire::CreateRequest>,
    ) -> Result<Response<wire::CreateResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let id = (!request.id.is_empty()).then_some(request.id.as_str());
        let lease = self.0.leases.create(&namespace, id, from_hash(request.labels), None).await?;
        Ok(Response::new(wire::CreateResponse { lease: Some(to_wire(lease)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        self.0.leases.delete(&namespace, &request.id).await?;
        if request.sync {
            self.0.gc.collect_now().await?
        } else {
            self.0.gc.trigger()
        }
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListResponse>, Status> {
        let namespace = namespace(&request)?;
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let leases = self.0.leases.list(&namespace, &filter)?.into_iter().map(to_wire).collect();
        Ok(Response::new(wire::ListResponse { leases }))
    }

    async fn add_resource(&self, request: Request<wire::AddResourceRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        self.0.leases.add(&namespace, &request.id, &resource(request.resource)?).await?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<wire::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        self.0.leases.remove(&namespace, &request.id, &resource(request.resource)?).await?;
        self.0.gc.trigger();
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<wire::ListResourcesRequest>,
    ) -> Result<Response<wire::ListResourcesResponse>, Status> {
        let namespace = namespace(&request)?;
        let resources = self.0.leases.resources(&namespace, &request.get_ref().id)?;
        let resources = resources
            .iter()
            .map(|resource| wire::Resource { id: resource.id().to_owned(), r#type: resource.kind() })
            .collect();
        Ok(Response::new(wire::ListResourcesResponse { resources }))
    }
}
