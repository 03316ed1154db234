//! `longshore system df`: what takes how much of the disk, and why it is kept.

use longshore_proto::longshore::engine::v1::{
    ContainerSummary, DiskUsageRequest, DiskUsageResponse, ImageUsage, ListVolumesRequest, Status,
    StoredObject, Volume,
};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::container::ls::{local_volumes, state};
use crate::commands::inspect;
use crate::failure::Failure;
use crate::fields;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::output::{human, print};

#[derive(clap::Args)]
pub struct Args {
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.Size}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
    /// Show each stored blob, snapshot and volume, and which images, containers, leases and labels keep it
    #[arg(long, conflicts_with_all = ["verbose", "format"])]
    why: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "Show disk usage";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let request = DiskUsageRequest { objects: self.why };
        let usage = context.system().await?.disk_usage(request).await?.into_inner();
        let volumes = match self.why {
            true => Vec::new(),
            false => {
                let request = ListVolumesRequest { filters: Vec::new(), size: true };
                context.volumes().await?.list(request).await?.into_inner().volumes
            }
        };
        match (self.why, self.verbose) {
            (true, _) => why(&usage)?,
            (false, false) => summary(self.format.as_deref(), &usage, &volumes)?,
            (false, true) => match self.format.as_deref() {
                None | Some("" | "table") => verbose(&usage, &volumes)?,
                Some(format) => print::line(inspect::formatted(format, &everything(&usage, &volumes))?)?,
            },
        }
        Ok(0)
    }
}

const SUMMARY: Layout<'static> = Layout {
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: None,
    headings: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
};

/// One kind of things: how many, how many in use, bytes, and bytes that nobody needs.
fn line(kind: &str, total: usize, active: usize, size: i64, reclaimable: i64) -> Value {
    let shown = human::size_precise(reclaimable as f64);
    let reclaimable = match size {
        ..=0 => shown,
        size => format!("{shown} ({}%)", reclaimable.saturating_mul(100) / size),
    };
    fields! {
        "Type" => kind,
        "TotalCount" => total.to_string(),
        "Active" => active.to_string(),
        "Size" => human::size_precise(size as f64),
        "Reclaimable" => reclaimable,
    }
}

fn summary(format: Option<&str>, usage: &DiskUsageResponse, volumes: &[Volume]) -> Result<(), Failure> {
    let images =
        || usage.images.iter().filter_map(|image| Some((image.summary.as_ref()?, image.shared_size)));
    let in_images: i64 =
        images().filter(|(image, _)| image.containers > 0).map(|(image, shared)| image.size - shared).sum();
    let live = |one: &&ContainerSummary| {
        matches!(one.status(), Status::Running | Status::Paused | Status::Restarting)
    };
    let containers = &usage.containers;
    let size: i64 = containers.iter().map(|one| one.size_rw).sum();
    let in_use: i64 = containers.iter().filter(live).map(|one| one.size_rw).sum();
    let used: Vec<&Volume> = volumes.iter().filter(|volume| !volume.containers.is_empty()).collect();
    let kept: i64 = volumes.iter().map(|volume| volume.size.max(0)).sum();
    let needed: i64 = used.iter().map(|volume| volume.size.max(0)).sum();
    let rows = [
        line(
            "Images",
            usage.images.len(),
            images().filter(|(image, _)| image.containers > 0).count(),
            usage.layers_size,
            usage.layers_size - in_images,
        ),
        line("Containers", containers.len(), containers.iter().filter(live).count(), size, size - in_use),
        line("Local Volumes", volumes.len(), used.len(), kept, kept - needed),
        line("Build Cache", 0, 0, 0, 0),
    ];
    list::print(format, &SUMMARY, &rows)
}

const IMAGES: Layout<'static> = Layout {
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
    quiet: None,
    headings: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
};

const CONTAINERS: Layout<'static> = Layout {
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
    quiet: None,
    headings: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
};

const VOLUMES: Layout<'static> = Layout {
    table: "{{.Name}}\t{{.Links}}\t{{.Size}}",
    quiet: None,
    headings: &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
};

const CACHE: Layout<'static> = Layout {
    table: "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
    quiet: None,
    headings: &[
        ("ID", "CACHE ID"),
        ("CacheType", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("UsageCount", "USAGE"),
        ("Shared", "SHARED"),
    ],
};

fn verbose(usage: &DiskUsageResponse, volumes: &[Volume]) -> Result<(), Failure> {
    let rows: Vec<Value> = volumes.iter().map(volume_row).collect();
    let images: Vec<Value> = usage.images.iter().map(|image| image_row(image, Ids::Short)).collect();
    let containers: Vec<Value> = usage.containers.iter().map(container_row).collect();
    print::line("Images space usage:\n")?;
    list::print(None, &IMAGES, &images)?;
    print::line("\nContainers space usage:\n")?;
    list::print(None, &CONTAINERS, &containers)?;
    print::line("\nLocal Volumes space usage:\n")?;
    list::print(None, &VOLUMES, &rows)?;
    print::line("\nBuild cache usage: 0B\n")?;
    list::print(None, &CACHE, &[])
}

fn everything(usage: &DiskUsageResponse, volumes: &[Volume]) -> Value {
    fields! {
        "Images" => Value::List(usage.images.iter().map(|image| image_row(image, Ids::Whole)).collect()),
        "Containers" => Value::List(usage.containers.iter().map(container_row).collect()),
        "Volumes" => Value::List(volumes.iter().map(volume_row).collect()),
        "BuildCache" => Value::List(Vec::new()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ids {
    Short,
    Whole,
}

fn image_row(usage: &ImageUsage, ids: Ids) -> Value {
    let image = usage.summary.clone().unwrap_or_default();
    let named = image.tags.first().and_then(|name| name.rsplit_once(':'));
    let by_digest = image.repo_digests.first().and_then(|name| name.split_once('@'));
    let repository = named.or(by_digest).map_or("<none>", |(repository, _)| repository);
    fields! {
        "Containers" => image.containers.to_string(),
        "CreatedAt" => human::local(image.created_at.as_ref()),
        "CreatedSince" => human::ago(image.created_at.as_ref()),
        "Digest" => "",
        "ID" => if ids == Ids::Whole { image.id.as_str() } else { human::short_id(&image.id) },
        "Repository" => repository,
        "SharedSize" => human::size_precise(usage.shared_size as f64),
        "Size" => human::size(image.size as f64),
        "Tag" => named.map_or("<none>", |(_, tag)| tag),
        "UniqueSize" => human::size_precise((image.size - usage.shared_size) as f64),
        "VirtualSize" => human::size_precise(image.size as f64),
    }
}

fn volume_row(volume: &Volume) -> Value {
    fields! {
        "Driver" => volume.driver.as_str(),
        "Links" => volume.containers.len().to_string(),
        "Mountpoint" => volume.mountpoint.as_str(),
        "Name" => volume.name.as_str(),
        "Size" => human::size_precise(volume.size.max(0) as f64),
    }
}

fn container_row(container: &ContainerSummary) -> Value {
    fields! {
        "Command" => human::quoted(&human::ellipsis(&container.command, 20)),
        "CreatedAt" => human::local(container.created_at.as_ref()),
        "ID" => human::short_id(&container.id),
        "Image" => container.image.as_str(),
        "LocalVolumes" => local_volumes(container).to_string(),
        "Names" => container.name.as_str(),
        "RunningFor" => human::ago(container.created_at.as_ref()),
        "Size" => human::size(container.size_rw as f64),
        "State" => state(container.status()),
        "Status" => container.status_text.as_str(),
    }
}

const OBJECTS: Layout<'static> = Layout {
    table: "{{.Kind}}\t{{.Name}}\t{{.Size}}\t{{.KeptBy}}",
    quiet: None,
    headings: &[("Kind", "KIND"), ("Name", "OBJECT"), ("Size", "SIZE"), ("KeptBy", "KEPT BY")],
};

fn why(usage: &DiskUsageResponse) -> Result<(), Failure> {
    let row = |object: &StoredObject| {
        fields! {
            "Kind" => object.kind.as_str(),
            "Name" => object.name.as_str(),
            "Size" => human::size_precise(object.size as f64),
            "KeptBy" => match object.kept_by.as_slice() {
                [] => "nothing: the next collection removes it".to_owned(),
                holders => holders.join(", "),
            },
        }
    };
    let rows: Vec<Value> = usage.objects.iter().map(row).collect();
    list::print(None, &OBJECTS, &rows)?;
    if usage.objects_left_out > 0 {
        print::note(format!("{} smaller objects are not shown", usage.objects_left_out));
    }
    Ok(())
}
