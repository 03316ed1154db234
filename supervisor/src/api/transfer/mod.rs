//! containerd.services.transfer.v1: an image goes from one kind of place to another.
//!
//! What always holds: the work ends in order when its client goes away; what a client streams in or out is bounded by its window.

mod auth;
mod bytes;
mod decode;
mod progress;
mod run;

use longshore_proto::containerd::services::transfer::v1 as wire;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use self::decode::Side;
use self::progress::Reporter;
use self::run::Job;
use super::{lease, namespace, required};
use crate::error::Error;
use crate::services::Services;

pub struct Service(pub Services);

#[tonic::async_trait]
impl wire::transfer_server::Transfer for Service {
    async fn transfer(&self, request: Request<wire::TransferRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let lease = lease(&request)?;
        let request = request.into_inner();
        let source = required(request.source, "transfer source")?;
        let destination = required(request.destination, "transfer destination")?;
        let progress = request.options.map(|options| options.progress_stream).unwrap_or_default();
        let reporter = match progress.as_str() {
            "" => None,
            name => Some(Reporter::new(self.0.streams.take(&namespace, name)?)),
        };
        let pair = format!("{} to {}", source.type_url, destination.type_url);
        let source = Side::decode(&self.0, &namespace, source).await?;
        let destination = Side::decode(&self.0, &namespace, destination).await?;
        let job = Job { services: self.0.clone(), namespace, lease, reporter };
        // In a task of its own: whoever leaves ends the work, but does not cut it off.
        let (here, gone) = watch::channel(());
        let task = tokio::spawn(job.run(source, destination, pair, gone));
        let result = task.await.map_err(|_| Error::Lost { what: "the transfer" });
        drop(here);
        result??;
        Ok(Response::new(()))
    }
}
