//! What a transfer goes between, from its wire form.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use longshore_proto::containerd::types;
use longshore_proto::containerd::types::transfer as wire;
use prost::Message;

use super::auth::StreamHelper;
use super::bytes;
use crate::any::Any;
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::images::fetch::error::FetchError;
use crate::images::fetch::host::{Access, HttpLog, Scheme};
use crate::images::hosts;
use crate::images::names::{Extra, Store};
use crate::images::platform::Platform;
use crate::images::pull::PullError;
use crate::images::pull::selection::Unpack;
use crate::images::reference::Reference;
use crate::labels::from_hash;
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::streams::Stream;

/// Lines of an HTTP log that wait to be read.
const LOG_LINES: usize = 256;

/// One end of a transfer.
pub enum Side {
    Registry(Box<Registry>),
    Store(Box<ImageStore>),
    Import {
        stream: Stream,
        media_type: String,
        compress: bool,
    },
    Export {
        stream: Stream,
        options: ExportOptions,
    },
    /// Known to nobody here.
    Other,
}

pub struct Registry {
    /// As the client wrote it.
    pub text: String,
    pub reference: Reference,
    pub access: Access,
}

pub struct ImageStore {
    pub store: Store,
    pub platforms: Vec<Platform>,
    pub all_metadata: bool,
    pub manifest_limit: usize,
    pub unpacks: Vec<Unpack>,
}

pub struct ExportOptions {
    pub platforms: Vec<Platform>,
    pub all_platforms: bool,
    pub skip_docker_manifest: bool,
    pub skip_non_distributable: bool,
}

impl Side {
    pub async fn decode(services: &Services, namespace: &Namespace, any: prost_types::Any) -> Result<Side> {
        let any = Any::from(any);
        if any.is("containerd.types.transfer.OCIRegistry") {
            let registry: wire::OciRegistry = message(&any)?;
            return Ok(Side::Registry(Box::new(Registry::decode(services, namespace, registry).await?)));
        }
        if any.is("containerd.types.transfer.ImageStore") {
            return Ok(Side::Store(Box::new(ImageStore::decode(message(&any)?))));
        }
        if any.is("containerd.types.transfer.ImageImportStream") {
            let import: wire::ImageImportStream = message(&any)?;
            let stream = services.streams.take(namespace, &import.stream)?;
            return Ok(Side::Import {
                stream,
                media_type: import.media_type,
                compress: import.force_compress,
            });
        }
        if any.is("containerd.types.transfer.ImageExportStream") {
            let export: wire::ImageExportStream = message(&any)?;
            let stream = services.streams.take(namespace, &export.stream)?;
            let options = ExportOptions {
                platforms: platforms(export.platforms),
                all_platforms: export.all_platforms,
                skip_docker_manifest: export.skip_compatibility_manifest,
                skip_non_distributable: export.skip_non_distributable,
            };
            return Ok(Side::Export { stream, options });
        }
        Ok(Side::Other)
    }
}

fn message<M: Message + Default>(any: &Any) -> Result<M> {
    M::decode(any.value.clone())
        .map_err(|error| Error::invalid(format!("transfer of {}", any.type_url), error.to_string()))
}

fn platform(platform: types::Platform) -> Platform {
    Platform::new(&platform.os, &platform.architecture, &platform.variant)
}

fn platforms(all: Vec<types::Platform>) -> Vec<Platform> {
    all.into_iter().map(platform).collect()
}

impl ImageStore {
    fn decode(store: wire::ImageStore) -> ImageStore {
        let extra = |reference: wire::ImageReference| Extra {
            name: reference.name,
            is_prefix: reference.is_prefix,
            allow_overwrite: reference.allow_overwrite,
            add_digest: reference.add_digest,
            skip_named_digest: reference.skip_named_digest,
        };
        let unpack = |unpack: wire::UnpackConfiguration| Unpack {
            platform: unpack.platform.map_or_else(Platform::host, platform),
            snapshotter: Some(unpack.snapshotter).filter(|name| !name.is_empty()),
        };
        ImageStore {
            store: Store {
                name: store.name,
                labels: from_hash(store.labels),
                extra: store.extra_references.into_iter().map(extra).collect(),
            },
            platforms: platforms(store.platforms),
            all_metadata: store.all_metadata,
            manifest_limit: store.manifest_limit as usize,
            unpacks: store.unpacks.into_iter().map(unpack).collect(),
        }
    }
}

impl Registry {
    async fn decode(
        services: &Services,
        namespace: &Namespace,
        registry: wire::OciRegistry,
    ) -> Result<Registry> {
        let reference = Reference::parse_untagged(&registry.reference)?;
        let resolver = registry.resolver.unwrap_or_default();
        let mut access = Access { headers: headers(&resolver)?, ..Access::default() };
        access.scheme = match resolver.default_scheme.as_str() {
            "" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => {
                return Err(Error::invalid(format!("default scheme {other:?}"), "is neither http nor https"));
            }
        };
        if !resolver.auth_stream.is_empty() {
            let stream = services.streams.take(namespace, &resolver.auth_stream)?;
            access.helper = Some(Arc::new(StreamHelper::new(stream, &registry.reference)));
        }
        if !resolver.host_dir.is_empty() {
            access.hosts = host_dir(PathBuf::from(&resolver.host_dir), reference.registry()).await?;
        }
        access.log = log(services, namespace, &resolver)?;
        Ok(Registry { text: registry.reference, reference, access })
    }
}

fn headers(resolver: &wire::RegistryResolver) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &resolver.headers {
        let bad = || {
            Error::invalid(format!("header {:?}", name.chars().take(100).collect::<String>()), "is malformed")
        };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

async fn host_dir(root: PathBuf, registry: &str) -> Result<Option<Vec<hosts::HostConfig>>> {
    if !Path::is_absolute(&root) {
        let why = "must be an absolute path: it is read by the daemon";
        return Err(Error::invalid(format!("hosts directory {}", root.display()), why));
    }
    let registry = registry.to_owned();
    let shared = |error: FetchError| Error::from(Arc::new(PullError::from(error)));
    blocking(move || hosts::load(&root, &registry).map_err(shared)).await
}

// To the client, if it wants to see it, else to the daemon's log.
fn log(
    services: &Services,
    namespace: &Namespace,
    resolver: &wire::RegistryResolver,
) -> Result<Option<HttpLog>> {
    let headers = match resolver.http_debug() {
        wire::HttpDebug::Disabled => return Ok(None),
        wire::HttpDebug::Trace => false,
        wire::HttpDebug::Debug | wire::HttpDebug::Both => true,
    };
    let (lines, mut written) = tokio::sync::mpsc::channel::<::bytes::Bytes>(LOG_LINES);
    if resolver.logs_stream.is_empty() {
        tokio::spawn(async move {
            while let Some(line) = written.recv().await {
                tracing::info!(target: "registry", "{}", String::from_utf8_lossy(&line).trim_end());
            }
        });
    } else {
        let stream = services.streams.take(namespace, &resolver.logs_stream)?;
        tokio::spawn(bytes::send(stream, written, bytes::End::Closed));
    }
    Ok(Some(HttpLog { lines, headers }))
}
