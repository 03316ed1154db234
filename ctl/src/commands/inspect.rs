//! `longshore inspect`: everything about containers and images, in the shape that docker's users know.

use longshore_proto::longshore::engine::v1::{
    ContainerRequest, ContainerSummary, Health, HealthReport, ImageRequest, InspectResponse, MountPoint,
    NetworkRequest, Status, Volume, VolumeRequest,
};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::container::ls::state;
use crate::commands::host_config;
use crate::commands::network::inspect as networks;
use crate::failure::Failure;
use crate::fields;
use crate::output::template::Template;
use crate::output::value::Value;
use crate::output::{human, list, print};

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.State.ExitCode}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "container|image|network|volume")]
    kind: Option<String>,
    /// Names or ids
    #[arg(value_name = "NAME|ID", required = true)]
    names: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Return low-level information on containers, images and networks";
    const USAGE: &'static str = "[OPTIONS] NAME|ID [NAME|ID...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let sizes = if self.size { Sizes::Shown } else { Sizes::Left };
        let kinds = match self.kind.as_deref().filter(|kind| !kind.is_empty()) {
            Some(text) => vec![kind(text)?],
            None => vec![Kind::Container, Kind::Image, Kind::Network, Kind::Volume],
        };
        show(context, &self.names, self.format.as_deref(), &kinds, sizes).await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

/// Whether the size of a container's writable layer is asked for: it costs a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    Shown,
    Left,
}

fn kind(text: &str) -> Result<Kind, Failure> {
    match text {
        "container" => Ok(Kind::Container),
        "image" => Ok(Kind::Image),
        "network" => Ok(Kind::Network),
        "volume" => Ok(Kind::Volume),
        "task" | "node" | "service" | "secret" | "plugin" | "config" => Err(Failure::message(format!(
            "{text} is not built yet: container, image, network and volume are there"
        ))),
        other => Err(Failure::message(format!(
            "unknown type: \"{other}\": container, image, network and volume are known"
        ))),
    }
}

/// Prints what is known of each name, looked for among `kinds` in their order; what is not found is said at the end.
pub async fn show(
    context: &Context,
    names: &[String],
    format: Option<&str>,
    kinds: &[Kind],
    sizes: Sizes,
) -> Result<u8, Failure> {
    // A template that cannot be read is refused before anything is asked.
    check(format)?;
    let mut found = Vec::new();
    for name in names {
        match look_up(context, name, kinds, sizes).await {
            Err(failure) if !matches!(failure, Failure::Daemon(_) | Failure::Message(_)) => {
                return Err(failure);
            }
            value => found.push(value),
        }
    }
    print(format, found.into_iter())
}

fn check(format: Option<&str>) -> Result<(), Failure> {
    match format.unwrap_or_default() {
        "" | "json" => Ok(()),
        format => parse(format).map(drop),
    }
}

/// Prints what was found by `--format`, and then says what was not.
pub fn print(
    format: Option<&str>,
    found: impl Iterator<Item = Result<Value, Failure>>,
) -> Result<u8, Failure> {
    let format = format.filter(|format| !format.is_empty());
    let template = format.filter(|format| *format != "json").map(parse).transpose()?;
    let (mut values, mut failures) = (Vec::new(), Vec::new());
    for value in found {
        match value {
            Ok(value) => values.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    match (&template, format) {
        (Some(template), _) => {
            let mut text = String::new();
            for value in &values {
                // As docker: what its JSON leaves out is there for templates, unless they look into it.
                let rendered = template.render(&with_left_out(value)).or_else(|_| template.render(value));
                match rendered {
                    Ok(line) => text.push_str(&format!("{line}\n")),
                    Err(error) => {
                        failures.insert(0, executing(&error));
                        break;
                    }
                }
            }
            // docker ends what it found with an empty line if that is nothing.
            print::out(if text.is_empty() { "\n" } else { &text })?;
        }
        (None, format) => {
            let all = Value::List(values.into_iter().map(super::image::json::shown).collect());
            print::line(if format.is_some() { all.json() } else { all.json_pretty() })?;
        }
    }
    for failure in &failures {
        print::note(failure.to_string());
    }
    Ok(u8::from(!failures.is_empty()))
}

/// Fields that docker's JSON leaves out of a container where they are empty.
const LEFT_OUT: [(&str, &[&str]); 3] = [
    ("State", &["Health"]),
    ("Config", &["ExposedPorts", "Healthcheck", "StopTimeout"]),
    ("HostConfig", &["Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"]),
];

/// A container with the fields that are left out of it, as null.
fn with_left_out(value: &Value) -> Value {
    let mut whole = value.clone();
    let Value::Struct(parts) = &mut whole else { return whole };
    if !parts.iter().any(|(name, _)| name == "HostConfig") {
        return whole;
    }
    for (part, names) in LEFT_OUT {
        let found = parts.iter_mut().find(|(name, _)| name == part);
        let Some((_, Value::Struct(fields))) = found else { continue };
        for name in names {
            if !fields.iter().any(|(field, _)| field == name) {
                fields.push(((*name).to_string(), Value::Null));
            }
        }
        if part == "Config" && !fields.iter().any(|(field, _)| field == "StopSignal") {
            fields.push(("StopSignal".into(), Value::from("")));
        }
    }
    whole
}

/// As `show`, of images for one platform.
pub async fn images(
    context: &Context,
    names: &[String],
    format: Option<&str>,
    platform: &str,
) -> Result<u8, Failure> {
    check(format)?;
    let mut found = Vec::new();
    for name in names {
        match look_up_image(context, name, platform).await {
            Err(failure) if !matches!(failure, Failure::Daemon(_) | Failure::Message(_)) => {
                return Err(failure);
            }
            value => found.push(value),
        }
    }
    print(format, found.into_iter())
}

/// One value by `--format`, for version and info.
pub fn formatted(format: &str, value: &Value) -> Result<String, Failure> {
    match format {
        "json" => Ok(value.json()),
        format => parse(format)?.render(value).map_err(|error| executing(&error)),
    }
}

fn parse(format: &str) -> Result<Template, Failure> {
    Template::parse(&list::unescape(format))
        .map_err(|error| Failure::Coded { message: format!("template parsing error: {error}"), code: 64 })
}

fn executing(error: &dyn std::fmt::Display) -> Failure {
    Failure::message(format!("template parsing error: {error}"))
}

async fn look_up(context: &Context, name: &str, kinds: &[Kind], sizes: Sizes) -> Result<Value, Failure> {
    for kind in kinds {
        let found = match kind {
            Kind::Container => look_up_container(context, name, sizes).await,
            Kind::Image => look_up_image(context, name, "").await,
            Kind::Network => look_up_network(context, name).await,
            Kind::Volume => look_up_volume(context, name).await,
        };
        match found {
            // An image's name may be malformed as a container's, and the other way round.
            Err(failure) if kinds.len() > 1 && could_be_other(&failure) => {}
            Err(failure) if *kind == Kind::Network && failure.is_not_found() => {}
            other => return other,
        }
    }
    Err(Failure::message(match kinds {
        [Kind::Network] => format!("Error: No such network: {name}"),
        _ => format!("Error: No such object: {name}"),
    }))
}

/// Also where the daemon is older than this kind of thing.
fn could_be_other(failure: &Failure) -> bool {
    use tonic::Code::{InvalidArgument, Unimplemented};
    let other = |code| matches!(code, InvalidArgument | Unimplemented);
    failure.is_not_found() || matches!(failure, Failure::Daemon(status) if other(status.code()))
}

async fn look_up_container(context: &Context, name: &str, sizes: Sizes) -> Result<Value, Failure> {
    let mut client = context.containers().await?;
    let request = ContainerRequest { container: name.to_string() };
    let found = client.inspect(request).await?.into_inner();
    let mut value = container(&found);
    if let (Sizes::Shown, Value::Struct(fields)) = (sizes, &mut value) {
        let id = found.summary.as_ref().map(|summary| summary.id.clone()).unwrap_or_default();
        let request = longshore_proto::longshore::engine::v1::ListRequest {
            all: true,
            filters: vec![format!("id={id}")],
            size: true,
            ..Default::default()
        };
        let listed = client.list(request).await?.into_inner().containers;
        if let Some(summary) = listed.first() {
            fields.push(("SizeRw".into(), summary.size_rw.into()));
            fields.push(("SizeRootFs".into(), summary.size_root_fs.into()));
        }
    }
    Ok(value)
}

async fn look_up_network(context: &Context, name: &str) -> Result<Value, Failure> {
    let request = NetworkRequest { network: name.to_string() };
    Ok(networks::network(&context.networks().await?.inspect(request).await?.into_inner()))
}

async fn look_up_image(context: &Context, name: &str, platform: &str) -> Result<Value, Failure> {
    let request = ImageRequest { image: name.to_string(), platform: platform.to_string() };
    Ok(super::image::json::image(&context.images().await?.inspect(request).await?.into_inner()))
}

async fn look_up_volume(context: &Context, name: &str) -> Result<Value, Failure> {
    let request = VolumeRequest { name: name.to_string() };
    Ok(volume(&context.volumes().await?.inspect(request).await?.into_inner()))
}

fn volume(found: &Volume) -> Value {
    fields! {
        "CreatedAt" => human::rfc3339(found.created_at.as_ref()),
        "Driver" => found.driver.as_str(),
        "Labels" => map_or_null(&found.labels),
        "Mountpoint" => found.mountpoint.as_str(),
        "Name" => found.name.as_str(),
        "Options" => map_or_null(&found.options),
        "Scope" => "local",
    }
}

/// As docker shows a map that was never made.
fn map_or_null(map: &std::collections::HashMap<String, String>) -> Value {
    if map.is_empty() { Value::Null } else { map.into() }
}

/// In docker's fields: a volume has a name and a driver, others have not.
fn mount_point(point: &MountPoint) -> Value {
    let mut fields = vec![("Type".to_string(), Value::from(point.r#type.as_str()))];
    if !point.name.is_empty() {
        fields.push(("Name".into(), point.name.as_str().into()));
    }
    fields.push(("Source".into(), point.source.as_str().into()));
    fields.push(("Destination".into(), point.target.as_str().into()));
    if !point.driver.is_empty() {
        fields.push(("Driver".into(), point.driver.as_str().into()));
    }
    fields.push(("Mode".into(), point.mode.as_str().into()));
    fields.push(("RW".into(), point.read_write.into()));
    fields.push(("Propagation".into(), point.propagation.as_str().into()));
    Value::Struct(fields)
}

fn container(found: &InspectResponse) -> Value {
    let summary = found.summary.clone().unwrap_or_default();
    let config = found.config.clone().unwrap_or_default();
    let mut words = found.process_args.iter().cloned();
    let mounts: Vec<Value> = found.mount_points.iter().map(mount_point).collect();
    let mut attachments = found.networks.clone();
    if found.started_at.is_none() {
        attachments.iter_mut().for_each(|one| one.network_id.clear());
    }
    // They are there once it has been started.
    let file = |name: &str| match (found.files.as_str(), &found.started_at) {
        ("", _) | (_, None) => String::new(),
        (folder, Some(_)) => format!("{folder}/{name}"),
    };
    fields! {
        "Id" => summary.id.as_str(),
        "Created" => human::rfc3339(summary.created_at.as_ref()),
        "Path" => words.next().unwrap_or_default(),
        "Args" => words.collect::<Vec<_>>(),
        "State" => container_state(found, &summary),
        "Image" => summary.image_id.as_str(),
        "ResolvConfPath" => file("resolv.conf"),
        "HostnamePath" => file("hostname"),
        "HostsPath" => file("hosts"),
        "LogPath" => if found.started_at.is_some() { found.log_path.as_str() } else { "" },
        "Name" => format!("/{}", summary.name),
        "RestartCount" => found.restart_count,
        "Driver" => found.snapshotter.as_str(),
        "Platform" => "linux",
        "MountLabel" => "",
        "ProcessLabel" => "",
        "AppArmorProfile" => found.apparmor_profile.as_str(),
        "ExecIDs" => match found.exec_ids.is_empty() {
            true => Value::Null,
            false => Value::from(found.exec_ids.clone()),
        },
        "HostConfig" => host_config::host_config(found),
        "GraphDriver" => fields! {
            "Name" => found.snapshotter.as_str(),
            "Data" => fields! { "SnapshotKey" => found.snapshot_key.as_str() },
        },
        "Mounts" => Value::List(mounts),
        "Config" => host_config::container_config(found),
        "NetworkSettings" => networks::settings(&found.sandbox, &attachments, super::container::port::settings(&summary.ports)),
        "Runtime" => found.runtime.as_str(),
        "Bundle" => found.bundle.as_str(),
        "MadeBy" => config.made_by.as_str(),
    }
}

fn health(health: &Health) -> Value {
    let report = |report: &HealthReport| {
        fields! {
            "Start" => human::rfc3339(report.start.as_ref()),
            "End" => human::rfc3339(report.end.as_ref()),
            "ExitCode" => report.exit_code,
            "Output" => report.output.as_str(),
        }
    };
    fields! {
        "Status" => health.status.as_str(),
        "FailingStreak" => i64::from(health.failing_streak),
        "Log" => Value::List(health.log.iter().map(report).collect()),
    }
}

fn container_state(found: &InspectResponse, summary: &ContainerSummary) -> Value {
    let mut state = running_state(found, summary);
    // As with docker, only a container with a health check has one.
    if let (Some(found), Value::Struct(fields)) = (&found.health, &mut state) {
        fields.push(("Health".to_owned(), health(found)));
    }
    state
}

fn running_state(found: &InspectResponse, summary: &ContainerSummary) -> Value {
    let status = summary.status();
    fields! {
        "Status" => state(status),
        "Running" => matches!(status, Status::Running | Status::Paused | Status::Restarting),
        "Paused" => status == Status::Paused,
        "Restarting" => status == Status::Restarting,
        "OOMKilled" => found.oom_killed,
        "Dead" => status == Status::Dead,
        "Pid" => found.pid,
        "ExitCode" => found.exit_code.unwrap_or(0),
        "Error" => found.error.as_str(),
        "StartedAt" => human::rfc3339(found.started_at.as_ref()),
        "FinishedAt" => human::rfc3339(found.finished_at.as_ref()),
    }
}
