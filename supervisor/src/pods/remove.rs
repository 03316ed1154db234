//! Removing containers and pods, with all that they have.

use std::sync::Arc;
use std::time::Duration;

use super::Pods;
use super::container::Container;
use super::events::Happened;
use super::pod::{Doing, Pod};
use super::record::PodNetwork;
use crate::error::{Error, Result};

impl Pods {
    /// Removes a container, which is killed first if it runs. One that is not there is removed.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let pods = self.clone();
        let work = async move { pods.remove_one(&container).await };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "removing a container" }))
    }

    async fn remove_one(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        self.stop_one(container, Duration::ZERO).await?;
        let _turn = container.turn.lock().await;
        if self.container(&container.id).is_err() {
            return Ok(());
        }
        let restored = container.read(|record| record.restored);
        self.clear_container(&container.id, &container.pod, restored).await?;
        match self.containers.delete(&self.namespace, &container.id).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        self.table().containers.remove(&container.id);
        let (name, attempt) = container.read(|record| (record.config.name.clone(), record.config.attempt));
        self.container_names.free(&format!("{name}_{}_{attempt}", container.pod), &container.id);
        self.rates.forget(&container.id);
        self.written.forget(&container.id);
        self.happened(&container.id, &container.pod, Happened::Deleted);
        Ok(())
    }

    /// Takes away all that a container has besides its record. Its log is looked after by whoever named its place.
    pub(super) async fn clear_container(&self, id: &str, pod: &str, restored: bool) -> Result<()> {
        self.try_delete_task(id).await?;
        self.leave_images(id, pod).await?;
        if restored {
            self.forget_saved(id).await;
        }
        match self.engine.snapshotter()?.remove(&self.namespace, id).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a pod with its containers; it is stopped first. One that is not there is removed.
    pub async fn remove_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let turn = pod.turn(Doing::verb("it is being removed")).await?;
        let pods = self.clone();
        let work = async move {
            let _turn = turn;
            pods.remove_turned(&pod).await
        };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "removing a pod" }))
    }

    async fn remove_turned(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        if self.pod(&pod.id).is_err() {
            return Ok(());
        }
        self.stop_turned(pod).await?;
        pod.at("removing its containers");
        for container in self.containers_of(&pod.id) {
            self.remove_one(&container).await?;
        }
        pod.at("removing what it has of the host");
        self.clear_pod(&pod.id, &PodNetwork::default()).await?;
        match self.sandboxes.delete(&self.namespace, &pod.id).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        self.table().pods.remove(&pod.id);
        self.pod_names.free(&pod.read(|record| record.config.name.to_string()), &pod.id);
        self.rates.forget(&pod.id);
        self.deleted(pod);
        Ok(())
    }
}
