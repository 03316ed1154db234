//! `Exec`: announces one more process; `Start` makes it.

use longshore_proto::containerd::events::TaskExecAdded;
use longshore_proto::containerd::task::v3::ExecProcessRequest;

use crate::error::{Error, Result};
use crate::events::What;
use crate::process::{Phase, Process};
use crate::server::Shim;
use crate::stdio::Paths;
use crate::{bundle, files, limits, names};

impl Shim {
    pub fn exec(&mut self, request: ExecProcessRequest) -> Result<()> {
        names::check("exec id", &request.exec_id)?;
        if request.exec_id == bundle::INIT_EXIT {
            let why = "it is the name of the first process's exit record";
            return Err(Error::BadName { what: "exec id", value: request.exec_id, why });
        }
        match self.serial(&request.id, &request.exec_id) {
            Ok(_) => return Err(Error::Exists { what: "exec", id: request.exec_id }),
            Err(Error::NoProcess { .. }) => {}
            Err(error) => return Err(error),
        }
        let is_theirs = |process: &&Process| !process.is_init() && *process.container == *request.id;
        let execs = self.processes.values().filter(is_theirs).count();
        if execs >= limits::EXECS {
            return Err(Error::Limit { what: "execs that were not deleted", limit: limits::EXECS });
        }
        let json = request.spec.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let mut spec = longshore_runtime::load_process(json)?;
        spec.set_terminal(Some(request.terminal));
        if spec.oom_score_adj().is_none() {
            // Else it would have the shim's own.
            spec.set_oom_score_adj(self.task(&request.id)?.oom_score);
        }
        files::inherit(&mut spec, files::inherited());
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let container = request.id.as_str().into();
        let process = Process::new(container, request.exec_id.clone(), paths, Phase::Added(Box::new(spec)));
        let serial = self.take_serial();
        self.processes.insert(serial, process);
        self.emit(&What::ExecAdded(TaskExecAdded { container_id: request.id, exec_id: request.exec_id }));
        Ok(())
    }
}
