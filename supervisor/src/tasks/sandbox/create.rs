//! Creating a sandbox: bundle, shim, connection, CreateSandbox.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::runtime::sandbox::v1 as api;
use longshore_proto::containerd::types::Mount;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::super::bundle::{Bundle, CreateRecord};
use super::super::client::{Connection, Dialect};
use super::super::foreign::command::Subject;
use super::super::foreign::{ForeignRecord, bundle, delete, follow as shim, log};
use super::super::runtimes::{ForeignRuntime, Runtime};
use super::super::{limits, wire};
use super::{CreateSandbox, Sandbox, Sandboxes, Shared, end, follow};
use crate::error::{Error, Result};
use crate::namespaces::{Namespace, check_identifier};

impl Sandboxes {
    /// Starts the runtime's shim and has it create the sandbox. Undone if it fails or the caller goes away.
    ///
    /// # Errors
    /// AlreadyExists; there is no such runtime; whatever the shim says; no answer in time.
    pub async fn create(&self, namespace: &Namespace, what: CreateSandbox) -> Result<()> {
        check_identifier("sandbox", &what.id)?;
        let spec = what.spec.as_ref().map_or(0, |spec| spec.value.len());
        if spec > limits::SPEC {
            return Err(Error::ResourceExhausted {
                what: format!("spec of sandbox \"{}\" ({spec} bytes)", what.id),
                limit: "bytes of an OCI spec",
                max: limits::SPEC as u64,
            });
        }
        if what.runtime.is_empty() {
            return Err(Error::invalid(format!("sandbox \"{}\"", what.id), "has no runtime name"));
        }
        let runtime = match self.inner.manager.runtimes.find(&what.runtime)? {
            Runtime::Own => self.inner.manager.pool.by_protocol(),
            Runtime::Foreign(runtime) => runtime,
        };
        self.inner.reserve(namespace, &what.id)?;
        let (shared, namespace) = (self.inner.clone(), namespace.clone());
        let (mut sender, receiver) = oneshot::channel();
        tokio::spawn(async move {
            let mut making = Making { shared, namespace, what, runtime, bundle: None, sandbox: None };
            let made = tokio::select! {
                made = making.make() => made,
                () = sender.closed() => Err(Error::Canceled { what: "creating a sandbox".into() }),
            };
            let outcome = match made {
                Ok(sandbox) => {
                    making.hand_over(&sandbox);
                    if sender.send(Ok(())).is_err() {
                        end::take_down(&making.shared, &sandbox).await;
                    }
                    return;
                }
                Err(error) => Err(error),
            };
            making.undo().await;
            let _ = sender.send(outcome);
        });
        receiver.await.unwrap_or(Err(Error::Lost { what: "the creation of a sandbox" }))
    }
}

/// A sandbox in the making, and how far it got.
struct Making {
    shared: Arc<Shared>,
    namespace: Namespace,
    what: CreateSandbox,
    runtime: ForeignRuntime,
    bundle: Option<Bundle>,
    sandbox: Option<Arc<Sandbox>>,
}

impl Making {
    async fn make(&mut self) -> Result<Arc<Sandbox>> {
        let mut record =
            CreateRecord { foreign: Some(ForeignRecord::new(&self.runtime)), ..CreateRecord::default() };
        let bundle = self.bundle(record.clone()).await?;
        self.bundle = Some(bundle.clone());
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        log::drain(&bundle, &self.what.id, ended.clone())
            .map_err(|error| Error::io("opening the log in", bundle.path(), error))?;
        let subject = Subject { namespace: &self.namespace, id: &self.what.id, bundle: bundle.path() };
        // An empty message is how clients say that there are no options.
        let options = self.what.runtime_options.as_ref().filter(|options| !options.value.is_empty());
        let answer = self.shared.manager.commands.start(&self.runtime, subject, options).await?;
        if let Some(foreign) = &mut record.foreign {
            answer.address.as_str().clone_into(&mut foreign.address);
            foreign.api = answer.api.number();
        }
        bundle.set_record(&record)?;
        let io = |error| Error::io("connecting to the shim of", bundle.path(), error);
        let socket = shim::connect(&answer.address).await.map_err(io)?;
        let dialect = Dialect { task: answer.api.service(), namespace: Some(self.namespace.as_str().into()) };
        let control = Connection::speaking(socket, dialect).map_err(io)?;
        let sandbox = Arc::new(Sandbox {
            namespace: self.namespace.clone(),
            id: self.what.id.clone(),
            bundle: bundle.clone(),
            runtime: self.runtime.clone(),
            address: answer.address,
            api: answer.api,
            control: watch::Sender::new(Some(control)),
            exit: watch::Sender::new(None),
            started: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            ended,
        });
        guard.disarm();
        self.sandbox = Some(sandbox.clone());
        let request = self.request(&bundle);
        let created: Result<api::CreateSandboxResponse> =
            sandbox.ask("create the sandbox", "CreateSandbox", &request, limits::CREATE).await;
        created?;
        bundle.acknowledge()?;
        Ok(sandbox)
    }

    async fn bundle(&self, record: CreateRecord) -> Result<Bundle> {
        let (state, root) = (self.shared.state(), self.shared.root());
        let (namespace, id) = (self.namespace.clone(), self.what.id.clone());
        let spec = self.what.spec.as_ref().map(|spec| spec.value.clone()).unwrap_or_default();
        let made = tokio::task::spawn_blocking(move || {
            let spec = if spec.is_empty() { b"{}" } else { &*spec };
            bundle::create(&state, &root, &namespace, &id, spec, &record)
        });
        made.await.unwrap_or(Err(Error::Lost { what: "the making of a bundle" }))
    }

    fn request(&self, bundle: &Bundle) -> api::CreateSandboxRequest {
        api::CreateSandboxRequest {
            sandbox_id: self.what.id.clone(),
            bundle_path: bundle.path().to_string_lossy().into_owned(),
            rootfs: self.what.rootfs.iter().map(Mount::from).collect(),
            options: self.what.options.clone().map(Into::into),
            netns_path: self.what.netns.clone(),
            annotations: self.what.annotations.clone().into_iter().collect(),
        }
    }

    /// The sandbox exists from here on.
    fn hand_over(&self, sandbox: &Arc<Sandbox>) {
        self.shared.insert(sandbox.clone());
        follow::follow(&self.shared, sandbox.clone());
        let event = ev::SandboxCreate { sandbox_id: sandbox.id.clone() };
        let (topic, name) = ("/sandboxes/create", "containerd.events.SandboxCreate");
        self.shared.publish(&sandbox.namespace, topic, name, &event);
    }

    /// Removes everything and frees the id.
    async fn undo(&self) {
        if let Some(sandbox) = &self.sandbox {
            let request = api::ShutdownSandboxRequest { sandbox_id: sandbox.id.clone() };
            let left: Result<api::ShutdownSandboxResponse, _> =
                sandbox.call("ShutdownSandbox", &request, limits::SHIM_SHUTDOWN).await;
            match left {
                Ok(_) => end::wait_for_the_shim(sandbox).await,
                Err(failure) => {
                    let error = wire::failure(&sandbox.id, "undo", &failure);
                    tracing::debug!(sandbox = sandbox.id, %error, "a shim does not shut down what failed");
                }
            }
            sandbox.ended.cancel();
        }
        if let Some(bundle) = &self.bundle {
            let (manager, runtime) = (&self.shared.manager, &self.runtime);
            delete::clean_up_unstarted(manager, runtime, &self.namespace, &self.what.id, bundle).await;
            let bundle = bundle.clone();
            let _ = tokio::task::spawn_blocking(move || bundle::remove(&bundle)).await;
        }
        self.shared.release(&self.namespace, &self.what.id);
    }
}
