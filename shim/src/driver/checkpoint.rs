//! Checkpoint and restore by another OCI runtime, which calls criu.

use longshore_proto::containerd::runc::v1::CheckpointOptions;

use super::command::{Command, Making, give_stdio};
use super::console::Console;
use super::order::Order;
use crate::error::Result;
use crate::limits;

/// A checkpoint that is to be made.
pub struct Checkpoint {
    /// The folder that it goes to.
    pub image: String,
    pub options: CheckpointOptions,
    /// Where criu works if the options do not say.
    pub criu_work: String,
}

/// A container that is to be restored when it is started.
pub struct Restore {
    making: Making,
}

impl Command {
    /// Dumps the container; with `exit` it ends by that.
    pub fn checkpoint(&self, what: &Checkpoint) -> Order {
        let options = &what.options;
        let mut order = self.oci().order("checkpoint");
        order.limit = limits::RUNTIME_CHECKPOINT;
        let command = &mut order.command;
        command.arg("--image-path").arg(&what.image);
        let work = [&options.work_path, &what.criu_work].into_iter().find(|path| !path.is_empty());
        if let Some(work) = work {
            command.arg("--work-path").arg(work);
        }
        if !options.parent_path.is_empty() {
            command.arg("--parent-path").arg(&options.parent_path);
        }
        let flags = [
            ("--tcp-established", options.open_tcp),
            ("--ext-unix-sk", options.external_unix_sockets),
            ("--shell-job", options.terminal),
            ("--file-locks", options.file_locks),
            ("--leave-running", !options.exit),
        ];
        command.args(flags.iter().filter(|(_, on)| *on).map(|(flag, _)| flag));
        for namespace in &options.empty_namespaces {
            command.arg("--empty-ns").arg(namespace);
        }
        if !options.cgroups_mode.is_empty() {
            command.arg("--manage-cgroups-mode").arg(&options.cgroups_mode);
        }
        command.arg(self.id());
        order
    }
}

impl Restore {
    /// Keeps what `start` needs.
    pub fn prepare(making: Making) -> Self {
        Self { making }
    }

    /// The command, and where the terminal comes from that there is only then.
    pub fn order(self, container: &Command) -> Result<(Order, Option<Console>)> {
        let making = self.making;
        let mut order = container.oci().order("restore");
        order.limit = limits::RUNTIME_CHECKPOINT;
        order.command.arg("--detach").arg("--bundle").arg(container.oci().bundle());
        // An image says itself which earlier one it builds on.
        order.command.arg("--image-path").arg(&making.checkpoint);
        if !making.criu_work.is_empty() {
            order.command.arg("--work-path").arg(&making.criu_work);
        }
        container.add_common(&mut order, making.no_pivot, false);
        let console = give_stdio(&mut order, making.stdio, container.oci())?;
        order.command.arg(container.id());
        Ok((order, console))
    }
}
