//! The pairs of places between which an image can go.

use std::sync::Arc;

use tokio::sync::watch;

use super::bytes::{self, End};
use super::decode::{ExportOptions, ImageStore, Registry, Side};
use super::progress::Reporter;
use crate::content::Descriptor;
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::images::archive::ArchiveError;
use crate::images::export::{self, Absent, DockerManifest, ExportRequest, NonDistributable};
use crate::images::held::Held;
use crate::images::import::{Form, ImportRequest};
use crate::images::names::NamedBy;
use crate::images::platform::Platform;
use crate::images::pull::selection::{Selection, Sessions};
use crate::images::push::PushRequest;
use crate::images::store::Image;
use crate::images::track::{Direction, Tracker};
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::streams::Stream;

/// One transfer.
pub struct Job {
    pub services: Services,
    pub namespace: Namespace,
    /// The client's, which is to hold what is made.
    pub lease: Option<String>,
    pub reporter: Option<Reporter>,
}

impl Job {
    /// Runs to the end, or until `client` is gone. `pair` is for the message about one that is not supported.
    pub async fn run(
        mut self,
        source: Side,
        destination: Side,
        pair: String,
        client: watch::Receiver<()>,
    ) -> Result<()> {
        let (root, direction) = match (&source, &destination) {
            (Side::Store(store), Side::Registry(_)) => (store.store.name.clone(), Direction::Up),
            (Side::Registry(registry), _) => (registry.text.clone(), Direction::Down),
            _ => (String::new(), Direction::Down),
        };
        let tracker = Tracker::new(root, direction);
        let reporting = self.reporter.take().map(|reporter| reporter.start(&tracker));
        let result = match (source, destination) {
            (Side::Registry(from), Side::Store(to)) => {
                Box::pin(self.pull(*from, *to, &tracker, client)).await
            }
            (Side::Store(from), Side::Registry(to)) => self.push(*from, *to, &tracker, client).await,
            (Side::Store(from), Side::Export { stream, options }) => {
                self.export(*from, stream, options, &tracker, client).await
            }
            (Side::Store(from), Side::Store(to)) => self.tag(&from, &to).await,
            (Side::Import { stream, media_type, compress }, Side::Store(to)) => {
                let form = if media_type.is_empty() { Form::Detected } else { Form::Plain };
                Box::pin(self.import(stream, form, compress, *to, &tracker, client)).await
            }
            (Side::Import { stream: from, .. }, Side::Export { stream: to, .. }) => {
                echo(from, to, client).await
            }
            _ => Err(Error::Unimplemented { what: format!("a transfer from {pair}") }),
        };
        if let Some(reporting) = reporting {
            reporting.finish().await;
        }
        result
    }

    async fn pull(
        &self,
        from: Registry,
        to: ImageStore,
        tracker: &Arc<Tracker>,
        client: watch::Receiver<()>,
    ) -> Result<()> {
        let shown = format!("OCI Registry ({})", from.text);
        tracker.say(format!("Resolving from {shown}"));
        let selection = Selection {
            reference: from.reference,
            platforms: to.platforms.clone(),
            all_metadata: to.all_metadata,
            manifest_limit: to.manifest_limit,
            unpacks: to.unpacks.clone(),
            access: from.access,
        };
        let mut sessions = Sessions::new(&self.services.puller, &self.namespace);
        let work = async {
            let target = sessions.fetch(&selection, &format!("Pulling from {shown}"), tracker).await?;
            let images = self.store(&to, &target, NamedBy::Store).await?;
            if images.is_empty() {
                return Err(Error::not_found("image name for", from.text.clone()));
            }
            for image in &images {
                tracker.about("saved", &image.name, &image.target);
            }
            if let Some(lease) = &self.lease {
                sessions.share(lease).await?;
            }
            Ok(())
        };
        let result = unless_gone(Box::pin(work), client, || format!("pull of {}", from.text)).await;
        sessions.end(result.as_ref().err()).await;
        if result.is_ok() {
            tracker.say(format!("Completed pull from {shown}"));
        }
        result
    }

    async fn push(
        &self,
        from: ImageStore,
        to: Registry,
        tracker: &Arc<Tracker>,
        client: watch::Receiver<()>,
    ) -> Result<()> {
        let shown = format!("OCI Registry ({})", to.text);
        let image = from.store.get(&self.services.images, &self.namespace)?;
        tracker.say(format!("Pushing to {shown}"));
        tracker.about("pushing content", &image.name, &image.target);
        let request = PushRequest {
            name: image.name.clone(),
            target: image.target.clone(),
            reference: to.reference,
            platforms: from.platforms,
            auth: None,
            access: to.access,
        };
        self.services.pusher.push(&self.namespace, &request, tracker, gone(client)).await?;
        tracker.about("pushed content", &image.name, &image.target);
        tracker.say(format!("Completed push to {shown}"));
        Ok(())
    }

    async fn import(
        &self,
        stream: Stream,
        form: Form,
        compress: bool,
        to: ImageStore,
        tracker: &Arc<Tracker>,
        client: watch::Receiver<()>,
    ) -> Result<()> {
        tracker.say("Importing");
        let request = ImportRequest {
            form,
            compress,
            platforms: to.platforms.clone(),
            all_metadata: to.all_metadata,
            manifest_limit: to.manifest_limit,
            unpacks: to.unpacks.clone(),
        };
        let held = self.hold().await?;
        let work = async {
            let imported = self.services.importer.import(&held, bytes::reader(stream), &request).await?;
            let all = std::iter::once((&imported.index, NamedBy::Store))
                .chain(imported.images.iter().map(|image| (image, NamedBy::Annotations)));
            for (target, by) in all {
                for image in self.store(&to, target, by).await? {
                    tracker.about("saved", &image.name, target);
                }
            }
            self.share(&held).await
        };
        let result = unless_gone(Box::pin(work), client, || "import".to_owned()).await;
        held.end().await;
        if result.is_ok() {
            tracker.say("Completed import");
        }
        result
    }

    async fn export(
        &self,
        from: ImageStore,
        stream: Stream,
        options: ExportOptions,
        tracker: &Arc<Tracker>,
        client: watch::Receiver<()>,
    ) -> Result<()> {
        tracker.say("Exporting");
        let images = from.store.look_up(&self.services.images, &self.namespace)?;
        let platforms = if options.platforms.is_empty() { vec![Platform::host()] } else { options.platforms };
        let request = ExportRequest {
            images: images.into_iter().map(|image| (image.name, image.target)).collect(),
            platforms,
            all_platforms: options.all_platforms,
            absent: Absent::Refused,
            docker: match options.skip_docker_manifest {
                true => DockerManifest::LeftOut,
                false => DockerManifest::Written,
            },
            non_distributable: match options.skip_non_distributable {
                true => NonDistributable::LeftOut,
                false => NonDistributable::Exported,
            },
        };
        let held = self.hold().await?;
        let work = async {
            let plan = export::plan(&self.services.content, &held, &request).await?;
            let (writer, pieces) = bytes::writer();
            let writing = blocking(move || plan.write(writer));
            let (sent, written) = tokio::join!(bytes::send(stream, pieces, End::Padded), writing);
            written?;
            if sent { Ok(()) } else { Err(ArchiveError::Write(std::io::ErrorKind::BrokenPipe.into()).into()) }
        };
        let result = unless_gone(work, client, || "export".to_owned()).await;
        held.end().await;
        if result.is_ok() {
            tracker.say("Completed export");
        }
        result
    }

    async fn tag(&self, from: &ImageStore, to: &ImageStore) -> Result<()> {
        let image = from.store.get(&self.services.images, &self.namespace)?;
        let stored = self.store(to, &image.target, NamedBy::Store).await?;
        if stored.is_empty() {
            return Err(Error::invalid("image store", "names no image to tag"));
        }
        Ok(())
    }

    async fn store(&self, to: &ImageStore, target: &Descriptor, by: NamedBy) -> Result<Vec<Image>> {
        let (images, lease) = (&self.services.images, self.lease.as_deref());
        to.store.put(images, &self.namespace, target, by, lease).await
    }

    async fn hold(&self) -> Result<Held> {
        Held::begin(&self.services.leases, &self.services.gc, &self.namespace).await
    }

    async fn share(&self, held: &Held) -> Result<()> {
        match &self.lease {
            Some(lease) => held.share(lease).await,
            None => Ok(()),
        }
    }
}

// What comes in goes out, byte for byte.
async fn echo(from: Stream, to: Stream, client: watch::Receiver<()>) -> Result<()> {
    let (mut writer, pieces) = bytes::writer();
    let mut reader = bytes::reader(from);
    let copy = blocking(move || {
        std::io::copy(&mut reader, &mut writer).map_err(|error| ArchiveError::Read(error).into())
    });
    let work = async {
        let (_, copied) = tokio::join!(bytes::send(to, pieces, End::Closed), copy);
        copied.map(drop)
    };
    unless_gone(work, client, || "echo".to_owned()).await
}

async fn unless_gone<T>(
    work: impl Future<Output = Result<T>>,
    client: watch::Receiver<()>,
    what: impl FnOnce() -> String,
) -> Result<T> {
    tokio::select! {
        result = work => result,
        () = gone(client) => Err(Error::Canceled { what: what() }),
    }
}

// Nothing is ever sent: an error means that the client has left.
async fn gone(mut client: watch::Receiver<()>) {
    while client.changed().await.is_ok() {}
}
