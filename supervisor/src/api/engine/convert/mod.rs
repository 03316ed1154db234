//! Between the wire's messages and the engine's types.

mod config;
mod network;

use jiff::Timestamp;
use longshore_proto::longshore::engine::v1 as wire;
use tonic::Status;

use crate::engine::config::Access;
use crate::engine::create::{Create, Created, Progress};
use crate::engine::health::{Health, Report};
use crate::engine::images::{Auth, LayerStep, Policy, PullEvent};
use crate::engine::list::Summary;
use crate::engine::start::{Join, Size, StartFailure};
use crate::engine::state::{Exit, Status as State};
use crate::engine::update::Update;
use crate::engine::volumes::MountPoint;
use crate::error::Result;
use crate::tasks::AttachStreams;

pub use config::{endpoint, to_wire as config_to_wire};
pub use network::{attachment, network, wanted_network};

pub fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

pub fn maybe_timestamp(time: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    time.map(timestamp)
}

pub fn from_timestamp(time: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Status> {
    time.map(|time| {
        Timestamp::new(time.seconds, time.nanos)
            .map_err(|error| Status::invalid_argument(format!("time out of range: {error}")))
    })
    .transpose()
}

pub fn create(request: Option<wire::CreateRequest>) -> Result<Create, Status> {
    let request = super::super::required(request, "create request")?;
    let pull = match request.pull() {
        wire::PullPolicy::Missing => Policy::Missing,
        wire::PullPolicy::Always => Policy::Always,
        wire::PullPolicy::Never => Policy::Never,
    };
    let config = super::super::required(request.config, "container config")?;
    Ok(Create {
        config: config::from_wire(config).map_err(super::status)?,
        name: request.name,
        pull,
        auth: request.auth.map(auth),
    })
}

/// The container's name, and what is to be changed.
pub fn update(request: wire::UpdateRequest) -> Result<(String, Update), Status> {
    let unlimited_pids = request.resources.as_ref().is_some_and(|resources| resources.pids == -1);
    let update = || {
        Ok(Update {
            limits: config::limits(request.resources.unwrap_or_default())?,
            unlimited_pids,
            restart: request.restart.map(config::restart).transpose()?,
            publish: request.publish.into_iter().map(config::port).collect::<Result<_>>()?,
            unpublish: request.unpublish.into_iter().map(config::port).collect::<Result<_>>()?,
            mounts: request.mounts.into_iter().map(config::mount).collect::<Result<_>>()?,
            unmount: request.unmount,
            env: request.env,
        })
    };
    Ok((request.container, update().map_err(super::status)?))
}

pub fn auth(auth: wire::RegistryAuth) -> Auth {
    Auth { username: auth.username, password: auth.password, identity_token: auth.identity_token }
}

pub fn summary(summary: Summary) -> wire::ContainerSummary {
    wire::ContainerSummary {
        id: summary.id,
        name: summary.name,
        image: summary.image,
        image_id: summary.image_id,
        command: summary.command,
        created_at: Some(timestamp(summary.created_at)),
        status: state(summary.status).into(),
        status_text: summary.status_text,
        labels: summary.labels.into_iter().collect(),
        network: summary.network,
        mounts: summary.mounts.into_iter().map(config::mount_to_wire).collect(),
        ports: summary.ports.into_iter().map(config::shown_port).collect(),
        size_rw: i64::try_from(summary.size_rw).unwrap_or(i64::MAX),
        size_root_fs: i64::try_from(summary.size_root_fs).unwrap_or(i64::MAX),
    }
}

fn state(state: State) -> wire::Status {
    match state {
        State::Created => wire::Status::Created,
        State::Running => wire::Status::Running,
        State::Paused => wire::Status::Paused,
        State::Restarting => wire::Status::Restarting,
        State::Exited => wire::Status::Exited,
        State::Removing => wire::Status::Removing,
        State::Dead => wire::Status::Dead,
    }
}

pub fn mount_point(point: MountPoint) -> wire::MountPoint {
    wire::MountPoint {
        r#type: point.kind.to_owned(),
        name: point.name,
        source: point.source,
        target: point.target,
        driver: point.driver.to_owned(),
        mode: point.mode,
        read_write: point.access == Access::ReadWrite,
        propagation: point.propagation,
    }
}

pub fn health(health: Health) -> wire::Health {
    let report = |report: Report| wire::HealthReport {
        start: Some(timestamp(report.start)),
        end: Some(timestamp(report.end)),
        exit_code: report.exit_code,
        output: report.output,
    };
    wire::Health {
        status: health.status.as_str().to_owned(),
        failing_streak: health.failing_streak,
        log: health.log.into_iter().map(report).collect(),
    }
}

pub fn created(created: &Created) -> wire::Created {
    wire::Created {
        id: created.entry.id.clone(),
        name: created.name.clone(),
        warnings: created.warnings.clone(),
    }
}

pub fn exited(exit: Exit) -> wire::Exited {
    wire::Exited { exit_code: exit.code, oom_killed: exit.oom_killed, finished_at: Some(timestamp(exit.at)) }
}

pub fn start_failure(failure: StartFailure) -> wire::StartFailure {
    wire::StartFailure { message: failure.message, exit_code: failure.exit_code }
}

/// The part a client takes; `None`: none.
pub fn join(stdin: bool, stdout: bool, stderr: bool, console: Option<wire::WindowSize>) -> Option<Join> {
    (stdin || stdout || stderr)
        .then(|| Join { streams: AttachStreams { stdin, stdout, stderr }, console: console.map(size) })
}

pub fn size(size: wire::WindowSize) -> Size {
    Size { columns: size.columns, rows: size.rows }
}

/// What a client that makes a container is told meanwhile.
pub enum Told {
    ImageMissing(String),
    Pull(wire::PullProgress),
}

pub fn progress(progress: Progress) -> Told {
    match progress {
        Progress::Missing(reference) => Told::ImageMissing(reference),
        Progress::Pull(event) => Told::Pull(pull_event(event)),
    }
}

pub fn pull_event(event: PullEvent) -> wire::PullProgress {
    use wire::pull_progress::What;
    let what = match event {
        PullEvent::Resolving(reference) => What::Resolving(reference),
        PullEvent::Plan { familiar_name, tag, layers } => What::Plan(wire::PullPlan {
            familiar_name,
            tag,
            layers: layers
                .into_iter()
                .map(|layer| wire::LayerPlan { digest: layer.digest, size: layer.size })
                .collect(),
        }),
        PullEvent::Layer { digest, step, current, total } => {
            What::Layer(wire::LayerProgress { digest, status: layer_step(step).into(), current, total })
        }
        PullEvent::Done { digest, canonical_reference, was_up_to_date } => {
            What::Done(wire::PullDone { digest, canonical_reference, was_up_to_date })
        }
    };
    wire::PullProgress { what: Some(what) }
}

fn layer_step(step: LayerStep) -> wire::LayerStatus {
    match step {
        LayerStep::Pulling => wire::LayerStatus::Pulling,
        LayerStep::Waiting => wire::LayerStatus::Waiting,
        LayerStep::Downloading => wire::LayerStatus::Downloading,
        LayerStep::Downloaded => wire::LayerStatus::Downloaded,
        LayerStep::Extracting => wire::LayerStatus::Extracting,
        LayerStep::Complete => wire::LayerStatus::Complete,
        LayerStep::Exists => wire::LayerStatus::Exists,
    }
}
