//! The Volumes service.

use std::sync::Arc;

use longshore_proto::longshore::engine::v1 as wire;
use longshore_proto::longshore::engine::v1::volumes_server::Volumes;
use tonic::{Request, Response};

use super::{Answer, convert, empty, status};
use crate::engine::Engine;
use crate::engine::volumes::{Absent, DRIVER, Listed, Selected, Wanted};

/// The service.
#[derive(Clone)]
pub struct VolumesService {
    engine: Arc<Engine>,
}

impl VolumesService {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl Volumes for VolumesService {
    async fn create(&self, request: Request<wire::CreateVolumeRequest>) -> Answer<wire::Volume> {
        let request = request.into_inner();
        let wanted = Wanted {
            name: request.name,
            driver: request.driver,
            labels: request.labels.into_iter().collect(),
            options: request.options.into_iter().collect(),
        };
        let made = self.engine.create_volume(wanted).await.map_err(status)?;
        Ok(Response::new(volume(made)))
    }

    async fn list(&self, request: Request<wire::ListVolumesRequest>) -> Answer<wire::ListVolumesResponse> {
        let request = request.into_inner();
        let found = self.engine.list_volumes(&request.filters, request.size).await.map_err(status)?;
        Ok(Response::new(wire::ListVolumesResponse { volumes: found.into_iter().map(volume).collect() }))
    }

    async fn inspect(&self, request: Request<wire::VolumeRequest>) -> Answer<wire::Volume> {
        let found = self.engine.find_volume(&request.into_inner().name).map_err(status)?;
        Ok(Response::new(volume(found)))
    }

    async fn remove(&self, request: Request<wire::RemoveVolumeRequest>) -> Answer<()> {
        let request = request.into_inner();
        let absent = if request.force { Absent::Fine } else { Absent::Refuse };
        self.engine.remove_volume(&request.name, absent).await.map_err(status)?;
        empty()
    }

    async fn prune(&self, request: Request<wire::PruneVolumesRequest>) -> Answer<wire::PruneVolumesResponse> {
        let request = request.into_inner();
        let which = if request.all { Selected::All } else { Selected::Anonymous };
        let pruned = self.engine.prune_volumes(which, &request.filters).await.map_err(status)?;
        Ok(Response::new(wire::PruneVolumesResponse {
            removed: pruned.removed,
            reclaimed_bytes: pruned.reclaimed,
        }))
    }
}

fn volume(volume: Listed) -> wire::Volume {
    wire::Volume {
        name: volume.name,
        driver: DRIVER.to_owned(),
        mountpoint: volume.mountpoint,
        created_at: Some(convert::timestamp(volume.record.created_at)),
        labels: volume.record.labels.into_iter().collect(),
        options: volume.record.options.into_iter().collect(),
        anonymous: volume.record.anonymous,
        containers: volume.users,
        size: volume.size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
    }
}
