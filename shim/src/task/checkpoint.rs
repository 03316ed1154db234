//! `Checkpoint`: dumps the container by criu, where the host's criu works.

use longshore_proto::containerd::events::TaskCheckpointed;
use longshore_proto::containerd::runc::v1::CheckpointOptions;
use longshore_proto::containerd::task::v3::CheckpointTaskRequest;
use longshore_proto::ttrpc;

use crate::driver::Checkpoint;
use crate::error::{Error, Result};
use crate::events::What;
use crate::server::Shim;

impl Shim {
    pub fn checkpoint(&mut self, request: CheckpointTaskRequest) -> Result<()> {
        let options = match request.options.filter(|any| !any.type_url.is_empty()) {
            None => CheckpointOptions::default(),
            Some(any) if any.type_url.ends_with("containerd.runc.v1.CheckpointOptions") => {
                ttrpc::decode(&any.value, "containerd.runc.v1.CheckpointOptions")?
            }
            Some(any) => {
                let why =
                    format!("type {:?} is not known; use containerd.runc.v1.CheckpointOptions", any.type_url);
                return Err(Error::BadField { field: "options", why });
            }
        };
        self.named(&request.id, "")?.1.must_run("checkpoint")?;
        let image = [&options.image_path, &request.path].into_iter().find(|path| !path.is_empty());
        let image =
            image.cloned().ok_or_else(|| Error::BadField { field: "path", why: "is empty".into() })?;
        let criu_work = self.task(&request.id)?.criu_work.clone();
        self.driver(&request.id)?.checkpoint(&Checkpoint { image: image.clone(), options, criu_work })?;
        self.emit(&What::Checkpointed(TaskCheckpointed { container_id: request.id, checkpoint: image }));
        Ok(())
    }
}
