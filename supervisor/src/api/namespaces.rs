//! containerd.services.namespaces.v1.

use longshore_proto::containerd::services::namespaces::v1 as wire;
use tonic::{Request, Response, Status};

use super::{convert, required};
use crate::error::Error;
use crate::filters::{self, Adaptor, Filter};
use crate::labels::{from_hash, to_hash};
use crate::namespaces::{Namespace, NamespaceRecord};
use crate::services::Services;

pub struct Service(pub Services);

fn to_wire(name: &Namespace, record: &NamespaceRecord) -> wire::Namespace {
    wire::Namespace { name: name.to_string(), labels: to_hash(&record.labels) }
}

struct Named<'a>(&'a Namespace, &'a NamespaceRecord);

impl Adaptor for Named<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.0.to_string()),
            ["labels", key @ ..] => filters::label(&self.1.labels, key),
            _ => None,
        }
    }
}

#[tonic::async_trait]
impl wire::namespaces_server::Namespaces for Service {
    async fn get(
        &self,
        request: Request<wire::GetNamespaceRequest>,
    ) -> Result<Response<wire::GetNamespaceResponse>, Status> {
        let name = Namespace::parse(&request.get_ref().name)?;
        let record = self.0.namespaces.get(&name)?;
        Ok(Response::new(wire::GetNamespaceResponse { namespace: Some(to_wire(&name, &record)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListNamespacesRequest>,
    ) -> Result<Response<wire::ListNamespacesResponse>, Status> {
        let filter = Filter::parse_all(&[&request.get_ref().filter])?;
        let all = self.0.namespaces.list()?;
        let matching = all.iter().filter(|(name, record)| filter.matches(&Named(name, record)));
        let namespaces = matching.map(|(name, record)| to_wire(name, record)).collect();
        Ok(Response::new(wire::ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<wire::CreateNamespaceRequest>,
    ) -> Result<Response<wire::CreateNamespaceResponse>, Status> {
        let asked = required(request.into_inner().namespace, "namespace")?;
        let name = Namespace::parse(&asked.name)?;
        let record = self.0.namespaces.create(&name, from_hash(asked.labels)).await?;
        Ok(Response::new(wire::CreateNamespaceResponse { namespace: Some(to_wire(&name, &record)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateNamespaceRequest>,
    ) -> Result<Response<wire::UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let asked = required(request.namespace, "namespace")?;
        let name = Namespace::parse(&asked.name)?;
        let keys = convert::label_mask("namespace", request.update_mask)?;
        let record = self.0.namespaces.update(&name, from_hash(asked.labels), keys.as_deref()).await?;
        Ok(Response::new(wire::UpdateNamespaceResponse { namespace: Some(to_wire(&name, &record)) }))
    }

    async fn delete(&self, request: Request<wire::DeleteNamespaceRequest>) -> Result<Response<()>, Status> {
        let name = Namespace::parse(&request.get_ref().name)?;
        if self.0.snapshots.any(&name).await? {
            let why = "must be empty, but it still has snapshots";
            return Err(Error::precondition(format!("namespace \"{name}\""), why).into());
        }
        self.0.namespaces.delete(&name).await?;
        Ok(Response::new(()))
    }
}
