//! An image as docker's `inspect` shows it.

use longshore_proto::longshore::engine::v1::InspectImageResponse;
use serde_json::Value as Json;

use crate::fields;
use crate::output::human;
use crate::output::value::Value;

/// Everything about an image.
pub fn image(found: &InspectImageResponse) -> Value {
    let summary = found.summary.clone().unwrap_or_default();
    let document: Json = serde_json::from_slice(&found.config_json).unwrap_or_default();
    let of = |name: &str| Value::from(document.get(name).cloned().unwrap_or_default());
    let text = |name: &str| document.get(name).and_then(Json::as_str).unwrap_or_default().to_string();
    let diff_ids =
        document.get("rootfs").and_then(|rootfs| rootfs.get("diff_ids")).cloned().unwrap_or_default();
    fields! {
        "Id" => summary.id.as_str(),
        "RepoTags" => summary.tags.clone(),
        "RepoDigests" => summary.repo_digests.clone(),
        "Parent" => "",
        "Comment" => comment(&document),
        "Created" => human::rfc3339(summary.created_at.as_ref()),
        "Container" => text("container"),
        "ContainerConfig" => config(document.get("container_config")),
        "DockerVersion" => text("docker_version"),
        "Author" => text("author"),
        "Config" => config(document.get("config")),
        "Architecture" => text("architecture"),
        "Variant" => text("variant"),
        "Os" => text("os"),
        "Size" => summary.size,
        "VirtualSize" => summary.size,
        "GraphDriver" => fields! { "Data" => Value::Null, "Name" => found.snapshotter.as_str() },
        "RootFS" => fields! { "Type" => "layers", "Layers" => Value::from(diff_ids) },
        "Metadata" => fields! { "LastTagTime" => human::rfc3339(found.tagged_at.as_ref()) },
        "Descriptor" => fields! {
            "mediaType" => found.target_media_type.as_str(),
            "digest" => found.target_digest.as_str(),
            "size" => found.target_size,
        },
        "ManifestDigest" => found.manifest_digest.as_str(),
        "History" => of("history"),
    }
}

/// Leaves out of an image's JSON what docker leaves out where an image has none. Templates may ask for all of it.
pub fn shown(value: Value) -> Value {
    const WHERE_SET: [&str; 6] =
        ["ExposedPorts", "Healthcheck", "ArgsEscaped", "StopSignal", "Shell", "Variant"];
    let Value::Struct(mut fields) = value else { return value };
    if fields.iter().any(|(name, _)| name == "RepoTags") {
        fields.retain(|(name, value)| name != "Variant" || value.is_true());
        for (_, config) in fields.iter_mut().filter(|(name, _)| name.ends_with("Config")) {
            if let Value::Struct(fields) = config {
                fields.retain(|(name, value)| value.is_true() || !WHERE_SET.contains(&name.as_str()));
            }
        }
    }
    Value::Struct(fields)
}

/// What its last step says of itself.
fn comment(document: &Json) -> String {
    let own = document.get("comment").and_then(Json::as_str);
    let last = document.get("history").and_then(Json::as_array).and_then(|history| history.last());
    let told = last.and_then(|step| step.get("comment")).and_then(Json::as_str);
    own.or(told).unwrap_or_default().to_string()
}

/// The fields that templates ask for are there also where the image leaves them out.
fn config(config: Option<&Json>) -> Value {
    let of = |name: &str| config.and_then(|config| config.get(name)).cloned().unwrap_or_default();
    let any = |name: &str| Value::from(of(name));
    let text = |name: &str| of(name).as_str().unwrap_or_default().to_string();
    let flag = |name: &str| of(name).as_bool().unwrap_or(false);
    fields! {
        "Hostname" => text("Hostname"),
        "Domainname" => text("Domainname"),
        "User" => text("User"),
        "AttachStdin" => flag("AttachStdin"),
        "AttachStdout" => flag("AttachStdout"),
        "AttachStderr" => flag("AttachStderr"),
        "ExposedPorts" => any("ExposedPorts"),
        "Tty" => flag("Tty"),
        "OpenStdin" => flag("OpenStdin"),
        "StdinOnce" => flag("StdinOnce"),
        "Env" => any("Env"),
        "Cmd" => any("Cmd"),
        "Healthcheck" => any("Healthcheck"),
        "ArgsEscaped" => flag("ArgsEscaped"),
        "Image" => text("Image"),
        "Volumes" => any("Volumes"),
        "WorkingDir" => text("WorkingDir"),
        "Entrypoint" => any("Entrypoint"),
        "OnBuild" => any("OnBuild"),
        "Labels" => any("Labels"),
        "StopSignal" => text("StopSignal"),
        "Shell" => any("Shell"),
    }
}
