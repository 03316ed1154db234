//! A plan made real in a namespace of a daemon, through the API alone; and what is there afterwards.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime};

use longshore_proto::containerd::services as wire;
use longshore_proto::containerd::types::Descriptor;
use tonic::{Code, Status};
use wire::snapshots::v1 as snapshots;

use super::common::{Clients, digest};
use super::model::{Expire, Plan, Reference, Thing};

pub struct World<'a> {
    pub clients: Clients,
    plan: &'a Plan,
    /// What was made and not deleted or collected since.
    pub there: BTreeSet<Thing>,
}

type Labels = HashMap<String, String>;

const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

impl<'a> World<'a> {
    /// Makes everything. Nothing may collect meanwhile.
    pub async fn make(clients: Clients, root: &Path, plan: &'a Plan) -> Result<Self, Status> {
        let world = Self { clients, plan, there: plan.all() };
        for index in 0..plan.ingests.len() {
            world.begin_ingest(root, index).await?;
        }
        for index in 0..plan.contents.len() {
            let labels = world.labels(Thing::Content(index), plan.contents[index].root, Expire::Never);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            world.clients.put(&format!("make-{index}"), &world.data(index), &labels).await?;
        }
        for index in 0..plan.snapshots.len() {
            world.make_snapshot(index).await?;
        }
        for index in 0..plan.images.len() {
            world.make_image(index).await?;
        }
        for index in 0..plan.containers.len() {
            world.make_container(index).await?;
        }
        for index in 0..plan.leases.len() {
            world.make_lease(index).await?;
        }
        Ok(world)
    }

    fn data(&self, index: usize) -> Vec<u8> {
        format!("{} {index}", self.clients.namespace).into_bytes()
    }

    fn digest(&self, index: usize) -> String {
        digest(&self.data(index))
    }

    fn snapshotter(&self, index: usize) -> &'static str {
        SNAPSHOTTERS[usize::from(self.plan.snapshots[index].native)]
    }

    fn name(&self, thing: Thing) -> String {
        match thing {
            Thing::Content(index) => self.digest(index),
            Thing::Snapshot(index) => format!("s{index}"),
            Thing::Image(index) => format!("example.com/image:{index}"),
            Thing::Container(index) => format!("c{index}"),
            Thing::Lease(index) => format!("l{index}"),
            Thing::Ingest(index) => format!("i{index}"),
        }
    }

    /// The part of a label's key that says what its value names; the first reference of an object is spelled plainly, others
    /// with either separator.
    fn kind(&self, thing: Thing, number: usize) -> String {
        let suffix = match number {
            0 => String::new(),
            _ if number % 2 == 1 && !matches!(thing, Thing::Snapshot(_)) => format!(".x.{number}"),
            _ => format!("/{number}"),
        };
        match thing {
            Thing::Content(_) => format!("content{suffix}"),
            Thing::Image(_) => format!("image{suffix}"),
            Thing::Container(_) => format!("container{suffix}"),
            Thing::Snapshot(index) => format!("snapshot.{}{suffix}", self.snapshotter(index)),
            Thing::Lease(_) | Thing::Ingest(_) => unreachable!("no label names it"),
        }
    }

    fn labels(&self, of: Thing, root: bool, expire: Expire) -> Labels {
        let mut labels = Labels::new();
        for (number, reference) in self.plan.references(of).iter().enumerate() {
            let (word, thing) = match *reference {
                Reference::To(thing) => ("ref", thing),
                Reference::From(thing) => ("bref", thing),
            };
            let key = format!("containerd.io/gc.{word}.{}", self.kind(thing, number));
            labels.insert(key, self.name(thing));
        }
        if root {
            labels.insert("containerd.io/gc.root".into(), "yes".into());
        }
        let expire = match expire {
            Expire::Never => None,
            Expire::Past => Some("2020-01-01T00:00:00+02:00"),
            Expire::Future => Some("2999-12-31T23:59:59.999Z"),
            Expire::Nonsense => Some("soon"),
        };
        labels.extend(expire.map(|time| ("containerd.io/gc.expire".into(), time.into())));
        labels
    }

    /// An ingest that its writer left.
    async fn begin_ingest(&self, root: &Path, index: usize) -> Result<(), Status> {
        use wire::content::v1::{WriteAction, WriteContentRequest};
        let ingest = &self.plan.ingests[index];
        let reference = self.name(Thing::Ingest(index));
        let first = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.clone(),
            data: b"part".to_vec(),
            expected: ingest.expected.map(|blob| self.digest(blob)).unwrap_or_default(),
            ..Default::default()
        };
        let mut answers = self.clients.content().write(tokio_stream::iter([first])).await?.into_inner();
        while answers.message().await?.is_some() {}
        if ingest.old {
            let folder = digest(format!("{}\0{reference}", self.clients.namespace).as_bytes());
            let data = root.join("content/ingest").join(&folder["sha256:".len()..]).join("data");
            let file = std::fs::File::options().write(true).open(data).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(25 * 3600)).unwrap();
        }
        Ok(())
    }

    async fn make_snapshot(&self, index: usize) -> Result<(), Status> {
        let plan = &self.plan.snapshots[index];
        let labels = self.labels(Thing::Snapshot(index), plan.root, Expire::Never);
        let parent = plan.parent.map(|parent| self.name(Thing::Snapshot(parent))).unwrap_or_default();
        let (snapshotter, name) = (self.snapshotter(index).to_owned(), self.name(Thing::Snapshot(index)));
        let is_parent = self.plan.snapshots.iter().any(|other| other.parent == Some(index));
        // What nothing is based on is sometimes still being written, or only looked at.
        let stays = |third: usize| !is_parent && index % 3 == third;
        if stays(1) {
            let request = snapshots::ViewSnapshotRequest { snapshotter, key: name, parent, labels };
            // A view of nothing is allowed, too.
            return self.clients.snapshots().view(request).await.map(drop);
        }
        let key = if stays(2) { name.clone() } else { format!("{name}-active") };
        let request = snapshots::PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent,
            labels: labels.clone(),
        };
        self.clients.snapshots().prepare(request).await?;
        if key == name {
            return Ok(());
        }
        let request =
            snapshots::CommitSnapshotRequest { snapshotter, name, key, labels, ..Default::default() };
        self.clients.snapshots().commit(request).await.map(drop)
    }

    async fn make_image(&self, index: usize) -> Result<(), Status> {
        let plan = &self.plan.images[index];
        let target = Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: self.digest(plan.target),
            size: 1,
            ..Default::default()
        };
        let image = wire::images::v1::Image {
            name: self.name(Thing::Image(index)),
            labels: self.labels(Thing::Image(index), plan.root, plan.expire),
            target: Some(target),
            ..Default::default()
        };
        let request = wire::images::v1::CreateImageRequest { image: Some(image), ..Default::default() };
        self.clients.images().create(request).await.map(drop)
    }

    async fn make_container(&self, index: usize) -> Result<(), Status> {
        use wire::containers::v1::{Container, CreateContainerRequest, container::Runtime};
        let plan = &self.plan.containers[index];
        let container = Container {
            id: self.name(Thing::Container(index)),
            labels: self.labels(Thing::Container(index), false, Expire::Never),
            runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
            spec: Some(prost_types::Any { type_url: "spec".into(), value: b"{}".to_vec() }),
            snapshotter: plan.snapshot.map(|of| self.snapshotter(of).to_owned()).unwrap_or_default(),
            snapshot_key: plan.snapshot.map(|of| self.name(Thing::Snapshot(of))).unwrap_or_default(),
            ..Default::default()
        };
        let request = CreateContainerRequest { container: Some(container) };
        self.clients.containers().create(request).await.map(drop)
    }

    async fn make_lease(&self, index: usize) -> Result<(), Status> {
        use wire::leases::v1::{AddResourceRequest, CreateRequest, Resource};
        let plan = &self.plan.leases[index];
        let id = self.name(Thing::Lease(index));
        let mut labels = self.labels(Thing::Lease(index), false, plan.expire);
        if plan.flat {
            labels.insert("containerd.io/gc.flat".into(), "yes".into());
        }
        self.clients.leases().create(CreateRequest { id: id.clone(), labels }).await?;
        for &held in &plan.holds {
            let r#type = match held {
                Thing::Content(_) => "content".to_owned(),
                Thing::Snapshot(index) => format!("snapshots/{}", self.snapshotter(index)),
                Thing::Image(_) => "images".to_owned(),
                Thing::Ingest(_) => "ingests".to_owned(),
                Thing::Container(_) | Thing::Lease(_) => unreachable!("no lease holds it"),
            };
            let resource = Some(Resource { id: self.name(held), r#type });
            self.clients.leases().add_resource(AddResourceRequest { id: id.clone(), resource }).await?;
        }
        Ok(())
    }

    /// Deletes what is there; a snapshot that others are based on stays.
    pub async fn delete(&mut self, thing: Thing) -> Result<(), Status> {
        if !self.there.contains(&thing) {
            return Ok(());
        }
        let name = self.name(thing);
        match thing {
            Thing::Content(_) => {
                let request = wire::content::v1::DeleteContentRequest { digest: name };
                self.clients.content().delete(request).await?;
            }
            Thing::Snapshot(index) => {
                let snapshotter = self.snapshotter(index).to_owned();
                let request = snapshots::RemoveSnapshotRequest { snapshotter, key: name };
                let outcome = self.clients.snapshots().remove(request).await;
                let has_children = self.there.iter().any(|other| match other {
                    Thing::Snapshot(other) => self.plan.snapshots[*other].parent == Some(index),
                    _ => false,
                });
                if has_children {
                    assert_eq!(
                        outcome.map_err(|status| status.code()).unwrap_err(),
                        Code::FailedPrecondition
                    );
                    return Ok(());
                }
                outcome?;
            }
            Thing::Image(_) => {
                let request = wire::images::v1::DeleteImageRequest { name, ..Default::default() };
                self.clients.images().delete(request).await?;
            }
            Thing::Container(_) => {
                let request = wire::containers::v1::DeleteContainerRequest { id: name };
                self.clients.containers().delete(request).await?;
            }
            Thing::Lease(_) => {
                let request = wire::leases::v1::DeleteRequest { id: name, sync: false };
                self.clients.leases().delete(request).await?;
            }
            Thing::Ingest(_) => {
                let request = wire::content::v1::AbortRequest { r#ref: name };
                self.clients.content().abort(request).await?;
            }
        }
        self.there.remove(&thing);
        Ok(())
    }

    /// What the daemon lists, as things of the plan. Panics on anything that the plan does not know.
    pub async fn observe(&self) -> Result<BTreeSet<Thing>, Status> {
        let mut names = Vec::new();
        names.extend(self.clients.digests().await.into_iter().map(|name| ("content", name)));
        for snapshotter in SNAPSHOTTERS {
            let request =
                snapshots::ListSnapshotsRequest { snapshotter: snapshotter.into(), filters: vec![] };
            let mut answers = self.clients.snapshots().list(request).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                names.extend(answer.info.into_iter().map(|info| (snapshotter, info.name)));
            }
        }
        let images = self.clients.images().list(wire::images::v1::ListImagesRequest::default()).await?;
        names.extend(images.into_inner().images.into_iter().map(|image| ("image", image.name)));
        let request = wire::containers::v1::ListContainersRequest::default();
        let containers = self.clients.containers().list(request).await?.into_inner().containers;
        names.extend(containers.into_iter().map(|container| ("container", container.id)));
        let leases = self.clients.leases().list(wire::leases::v1::ListRequest::default()).await?;
        names.extend(leases.into_inner().leases.into_iter().map(|lease| ("lease", lease.id)));
        let request = wire::content::v1::ListStatusesRequest::default();
        let ingests = self.clients.content().list_statuses(request).await?.into_inner().statuses;
        names.extend(ingests.into_iter().map(|ingest| ("ingest", ingest.r#ref)));
        let kind = |thing: Thing| match thing {
            Thing::Content(_) => "content",
            Thing::Snapshot(index) => self.snapshotter(index),
            Thing::Image(_) => "image",
            Thing::Container(_) => "container",
            Thing::Lease(_) => "lease",
            Thing::Ingest(_) => "ingest",
        };
        let known: HashMap<(&str, String), Thing> =
            self.plan.all().into_iter().map(|thing| ((kind(thing), self.name(thing)), thing)).collect();
        Ok(names.into_iter().map(|name| *known.get(&name).unwrap_or_else(|| panic!("{name:?}"))).collect())
    }
}
