//! `Checkpoint`: dumps the container by criu, where the host's criu works.

use std::path::Path;

use longshore_proto::containerd::events::TaskCheckpointed;
use longshore_proto::containerd::runc::v1::CheckpointOptions;
use longshore_proto::containerd::task::v3::CheckpointTaskRequest;
use longshore_proto::ttrpc;

use crate::dispatch::Answer;
use longshore_runtime::{Checkpoint as Dump, CheckpointOptions as DumpOptions, Container};

use crate::bundle;
use crate::driver::{Checkpoint, Driver, criu_check, criu_of};
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::Caller;
use crate::server::{Place, Shim};

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
        let task = self.task(&request.id)?;
        let (place, criu) = (task.place.clone(), task.criu.clone());
        let dumped = TaskCheckpointed { container_id: request.id.clone(), checkpoint: image };
        let next = turn.clone();
        let go_on = move |shim: &mut Self, result: Result<()>| match result {
            Ok(()) => {
                shim.emit(&What::Checkpointed(dumped));
                shim.reply(caller, Ok(()));
            }
            // Where criu does not work at all, its own reason says more than the runtime's.
            Err(error) => shim.launch(Box::new(criu_check()), next, move |shim, works| {
                shim.reply(caller, works.and(Err::<(), _>(error)));
            }),
        };
        match self.driver(&request.id)? {
            Driver::Command(command) => {
                let order = Box::new(command.checkpoint(&what));
                let answer = self.keep_open(caller);
                self.launch(order, turn, go_on);
                Ok(answer)
            }
            Driver::Library(container) => {
                let dump = prepare(container, &place, &criu, &what);
                let answer = self.keep_open(caller);
                match dump {
                    Ok(dump) => self.beside(turn, move || Ok(dump.run()?), go_on),
                    Err(error) => go_on(self, Err(error)),
                }
                Ok(answer)
            }
        }
    }
}

/// A dump by our own runtime.
fn prepare(container: &Container, place: &Place, criu: &str, what: &Checkpoint) -> Result<Dump> {
    let options = &what.options;
    let spec = longshore_runtime::load_spec(&bundle::read(&place.folder, bundle::CONFIG)?)?;
    let work = [&options.work_path, &what.criu_work].into_iter().find(|path| !path.is_empty());
    Ok(Dump::prepare(&DumpOptions {
        criu: criu_of(criu),
        pid: container.pid(),
        cgroups: container.cgroups(),
        spec: &spec,
        bundle: &place.bundle,
        image: Path::new(&what.image),
        work: work.map(Path::new),
        parent: Some(options.parent_path.as_str()),
        pre_dump: false,
        leave_running: !options.exit,
        tcp_established: options.open_tcp,
        tcp_skip_in_flight: false,
        link_remap: false,
        external_unix_sockets: options.external_unix_sockets,
        shell_job: options.terminal,
        file_locks: options.file_locks,
        auto_dedup: false,
        cgroups_mode: Some(options.cgroups_mode.as_str()),
        empty_namespaces: &options.empty_namespaces,
        lazy_pages: false,
        status_fd: None,
        page_server: None,
    })?)
}
