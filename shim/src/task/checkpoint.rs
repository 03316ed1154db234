//! `Checkpoint`: dumps the container by criu, where the host's criu works.

use longshore_proto::containerd::events::TaskCheckpointed;
use longshore_proto::containerd::runc::v1::CheckpointOptions;
use longshore_proto::containerd::task::v3::CheckpointTaskRequest;
use longshore_proto::ttrpc;

use crate::dispatch::Answer;
use crate::driver::{Checkpoint, Driver, Step, criu_check, no_checkpoint};
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::Caller;
use crate::server::Shim;

impl Shim {
    pub fn checkpoint(&mut self, caller: Caller, request: CheckpointTaskRequest) -> Result<Answer> {
        let turn = self.turn_of(&request.id)?;
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
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
        let what = Checkpoint { image: image.clone(), options, criu_work };
        let order = match self.driver(&request.id)? {
            Driver::Command(command) => Box::new(command.checkpoint(&what)),
            Driver::Library(_) => {
                let step = Step::Run(Box::new(criu_check()));
                return self.after(caller, turn, step, |_, works| {
                    works.and(Err::<(), _>(no_checkpoint(
                        "checkpointing a container of this shim's own runtime",
                    )))
                });
            }
        };
        let answer = self.keep_open(caller);
        let dumped = TaskCheckpointed { container_id: request.id, checkpoint: image };
        self.launch(order, turn.clone(), move |shim, result| match result {
            Ok(()) => {
                shim.emit(&What::Checkpointed(dumped));
                shim.reply(caller, Ok(()));
            }
            // Where criu does not work at all, its own reason says more than the runtime's.
            Err(error) => shim.launch(Box::new(criu_check()), turn, move |shim, works| {
                shim.reply(caller, works.and(Err::<(), _>(error)));
            }),
        });
        Ok(answer)
    }
}
