//! containerd.services.introspection.v1: what is built in, named as containerd names its plugins.

mod plugins;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use longshore_proto::containerd::services::introspection::v1 as wire;
use longshore_proto::containerd::types;
use longshore_proto::google::rpc;
use tonic::{Request, Response, Status};

use crate::any::Any;
use crate::config::{ProxyKind, ProxyPlugin};
use crate::error::Error;
use crate::filters::{Adaptor, Filter};
use crate::restart::policy;
use crate::services::Services;
use plugins::BuiltIn;

pub struct Service(pub Services);

struct Plugin(wire::Plugin);

impl Adaptor for Plugin {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["type"] => Some(self.0.r#type.clone()),
            ["id"] => Some(self.0.id.clone()),
            ["platforms"] => (!self.0.platforms.is_empty()).then(String::new),
            ["capabilities"] => (!self.0.capabilities.is_empty()).then(|| self.0.capabilities.join(",")),
            _ => None,
        }
    }
}

impl Service {
    fn plugin(&self, built_in: &BuiltIn) -> Plugin {
        let BuiltIn { kind, id, requires } = *built_in;
        let mut plugin = wire::Plugin {
            r#type: kind.to_owned(),
            id: id.to_owned(),
            requires: requires.iter().map(|&required| required.to_owned()).collect(),
            exports: self.exports(kind, id),
            ..Default::default()
        };
        if (kind, id) == plugins::RESTART {
            plugin.capabilities.extend(policy::NAMES.map(str::to_owned));
        }
        if kind == plugins::SNAPSHOTTER {
            match self.0.snapshots.by_name(id) {
                Ok(driver) => plugin.capabilities.extend(driver.capabilities()),
                Err(why) => plugin.init_err = Some(status(&why)),
            }
        }
        if matches!(kind, plugins::SNAPSHOTTER | plugins::RUNTIME | plugins::DIFFER) {
            plugin.platforms.push(platform());
        }
        Plugin(plugin)
    }

    /// What a plugin tells its users of itself.
    fn exports(&self, kind: &str, id: &str) -> HashMap<String, String> {
        let config = &self.0.config;
        let (name, value) = match (kind, id) {
            (plugins::SNAPSHOTTER, _) => {
                ("root", config.root.join("snapshotter").join(id).display().to_string())
            }
            (plugins::CONTENT, _) => ("root", config.root.join("content").display().to_string()),
            (plugins::METADATA, _) => ("policy", config.content.sharing.to_string()),
            (plugins::RUNTIME, _) => ("log-uri-schemes", "fifo,binary,file".to_owned()),
            plugins::OPT => ("path", config.opt().display().to_string()),
            _ => return HashMap::new(),
        };
        HashMap::from([(name.to_owned(), value)])
    }

    fn plugins(&self) -> impl Iterator<Item = Plugin> + '_ {
        let built_in = plugins::BUILT_IN.iter().map(|built_in| self.plugin(built_in));
        built_in.chain(self.0.config.proxy_plugins.iter().map(|(name, plugin)| proxy(name, plugin)))
    }
}

/// A plugin in a process of its own. Whether it answers is not known before it is asked.
fn proxy(name: &str, plugin: &ProxyPlugin) -> Plugin {
    let mut exports: HashMap<String, String> = plugin.exports.clone().into_iter().collect();
    exports.insert("address".to_owned(), plugin.socket().display().to_string());
    let kind = match plugin.kind {
        ProxyKind::Snapshot => plugins::SNAPSHOTTER,
        ProxyKind::Diff => plugins::DIFFER,
        ProxyKind::Content => plugins::CONTENT,
    };
    let named = match plugin.platform.split('/').collect::<Vec<_>>()[..] {
        [os, architecture, ref variant @ ..] => types::Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.join("/"),
            ..Default::default()
        },
        _ => platform(),
    };
    Plugin(wire::Plugin {
        r#type: kind.to_owned(),
        id: name.to_owned(),
        platforms: vec![named],
        exports,
        capabilities: plugin.capabilities.clone(),
        ..Default::default()
    })
}

/// An error as a plugin's state.
fn status(error: &Error) -> rpc::Status {
    rpc::Status { code: error.code() as i32, message: error.to_string(), details: Vec::new() }
}

fn platform() -> types::Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    types::Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() }
}

#[tonic::async_trait]
impl wire::introspection_server::Introspection for Service {
    async fn plugins(
        &self,
        request: Request<wire::PluginsRequest>,
    ) -> Result<Response<wire::PluginsResponse>, Status> {
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let matching = self.plugins().filter(|plugin| filter.matches(plugin));
        Ok(Response::new(wire::PluginsResponse { plugins: matching.map(|plugin| plugin.0).collect() }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<wire::ServerResponse>, Status> {
        let pidns = std::fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino());
        Ok(Response::new(wire::ServerResponse {
            uuid: self.0.uuid.to_string(),
            pid: u64::from(std::process::id()),
            pidns,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<wire::PluginInfoRequest>,
    ) -> Result<Response<wire::PluginInfoResponse>, Status> {
        let request = request.into_inner();
        let found =
            self.plugins().find(|plugin| plugin.0.r#type == request.r#type && plugin.0.id == request.id);
        let plugin =
            found.ok_or_else(|| Error::not_found("plugin", format!("{}.{}", request.r#type, request.id)))?;
        let extra = match request.r#type.as_str() {
            plugins::RUNTIME => Some(self.runtime_info(request.options).await?.into()),
            _ => None,
        };
        Ok(Response::new(wire::PluginInfoResponse { plugin: Some(plugin.0), extra }))
    }
}

impl Service {
    /// What the shim of the runtime that a `containerd.types.RuntimeRequest` names says of itself.
    async fn runtime_info(&self, options: Option<prost_types::Any>) -> Result<Any, Error> {
        const REQUEST: &str = "containerd.types.RuntimeRequest";
        let request = match options.map(Any::from) {
            None => types::RuntimeRequest::default(),
            Some(options) if options.is(REQUEST) => prost::Message::decode(options.value)
                .map_err(|error| Error::invalid("plugin info options", error.to_string()))?,
            Some(options) => {
                let why = format!("are {}, not {REQUEST}", options.type_url);
                return Err(Error::invalid("plugin info options", why));
            }
        };
        let options = request.options.map(Any::from);
        let info = self.0.tasks.runtime_info(&request.runtime_path, options.as_ref()).await?;
        Ok(Any::pack("containerd.types.RuntimeInfo", &info))
    }
}
