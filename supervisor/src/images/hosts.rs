//! A hosts directory, as containerd's clients name it: for a registry `host[:port]` the folder `host_port_`, `host:port` or
//! `_default` with a file `hosts.toml`, or with certificates after docker's pattern.
//!
//! What always holds: the file is bounded; what is not understood in it is an error, so that no host is trusted or asked that the
//! file's author did not mean.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;

use super::fetch::error::FetchError;
use super::fetch::host::Scheme;

/// Of a hosts.toml, in bytes.
const MAX_FILE: u64 = 1 << 20;
const MAX_HOSTS: usize = 64;

/// One host that stands for a registry, or the registry itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Scheme and `host[:port]`; `None`: the registry's own.
    pub server: Option<(Scheme, String)>,
    /// The folder of the API, between slashes; `None`: `/v2/`.
    pub api: Option<String>,
    pub pull: bool,
    pub resolve: bool,
    pub push: bool,
    pub ca_files: Vec<PathBuf>,
    pub identity: Option<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
    pub headers: HeaderMap,
    pub connect_timeout: Option<Duration>,
}

impl Default for HostConfig {
    fn default() -> HostConfig {
        HostConfig {
            server: None,
            api: None,
            pull: true,
            resolve: true,
            push: true,
            ca_files: Vec::new(),
            identity: None,
            skip_verify: false,
            headers: HeaderMap::new(),
            connect_timeout: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<String, toml::Spanned<HostTable>>,
    capabilities: Option<Vec<String>>,
    ca: Option<Files>,
    client: Option<Clients>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: BTreeMap<String, Files>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<Files>,
    client: Option<Clients>,
    skip_verify: bool,
    header: BTreeMap<String, Files>,
    override_path: bool,
    dial_timeout: Option<String>,
}

/// One text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Files {
    One(String),
    Many(Vec<String>),
}

impl Files {
    fn into_vec(self) -> Vec<String> {
        match self {
            Files::One(text) => vec![text],
            Files::Many(texts) => texts,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Clients {
    One(String),
    Many(Vec<Files>),
}

/// The hosts for a registry, of the first directory that says something about it.
pub async fn find(roots: &[PathBuf], registry: &str) -> Result<Option<Vec<HostConfig>>, FetchError> {
    if roots.is_empty() {
        return Ok(None);
    }
    let (roots, registry) = (roots.to_vec(), registry.to_owned());
    let search = move || {
        for root in &roots {
            if let Some(found) = load(root, &registry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    };
    let lost = |_| FetchError::from(crate::error::Error::Lost { what: "reading the hosts directory" });
    tokio::task::spawn_blocking(search).await.map_err(lost)?
}

/// The hosts for a registry; `None` if the directory says nothing about it. Blocks.
pub fn load(root: &Path, registry: &str) -> Result<Option<Vec<HostConfig>>, FetchError> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([registry.to_owned(), "_default".to_owned()]);
    for name in names {
        let folder = root.join(name);
        if folder.is_dir() {
            return load_folder(&folder).map(Some);
        }
    }
    Ok(None)
}

fn load_folder(folder: &Path) -> Result<Vec<HostConfig>, FetchError> {
    let path = folder.join("hosts.toml");
    let failed = |why: String| FetchError::HostsFile { path: path.clone(), why };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(failed(format!("is longer than {MAX_FILE} bytes"))),
        Ok(metadata) if metadata.len() == 0 => certificates(folder),
        Ok(_) => {
            let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            parse(folder, &text).map_err(failed)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => certificates(folder),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn parse(folder: &Path, text: &str) -> Result<Vec<HostConfig>, String> {
    let file: HostsFile = toml::from_str(text).map_err(|error| error.to_string())?;
    if file.host.len() > MAX_HOSTS {
        return Err(format!("has {} hosts; the limit is {MAX_HOSTS}", file.host.len()));
    }
    let mut listed: Vec<_> = file.host.into_iter().collect();
    // They are asked in the order of the file.
    listed.sort_by_key(|(_, table)| table.span().start);
    let own = HostTable {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
    };
    let hosts = listed.into_iter().map(|(server, table)| (server, table.into_inner()));
    let own = (file.server.unwrap_or_default(), own);
    hosts.chain([own]).map(|(server, table)| host(folder, &server, table)).collect()
}

fn host(folder: &Path, server: &str, table: HostTable) -> Result<HostConfig, String> {
    let mut config = HostConfig::default();
    if !server.is_empty() {
        let full = if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
        let url = Url::parse(&full).map_err(|error| format!("server {server:?}: {error}"))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(format!("server {server:?}: {other} is neither http nor https")),
        };
        let name = url.host_str().ok_or_else(|| format!("server {server:?} names no host"))?;
        let name = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        config.server = Some((scheme, name));
        let path = url.path().trim_matches('/');
        config.api = Some(match (path, table.override_path) {
            ("", true) => "/".to_owned(),
            ("", false) => "/v2/".to_owned(),
            (path, false) if path != "v2" && !path.ends_with("/v2") => format!("/{path}/v2/"),
            (path, _) => format!("/{path}/"),
        });
    }
    if let Some(capabilities) = table.capabilities.filter(|list| !list.is_empty()) {
        (config.pull, config.resolve, config.push) = (false, false, false);
        for capability in capabilities {
            match capability.to_ascii_lowercase().as_str() {
                "pull" => config.pull = true,
                "resolve" => config.resolve = true,
                "push" => config.push = true,
                "referrers" => {}
                _ => {
                    return Err(format!(
                        "capability {capability:?} is none of pull, resolve, push, referrers"
                    ));
                }
            }
        }
    }
    config.ca_files =
        table.ca.map(Files::into_vec).unwrap_or_default().iter().map(|ca| folder.join(ca)).collect();
    config.identity = table.client.map(|client| identity(folder, client)).transpose()?.flatten();
    config.skip_verify = table.skip_verify;
    for (name, values) in table.header {
        let bad = |_| format!("header {name:?} is malformed");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad(()))?;
        for value in values.into_vec() {
            let mut value = HeaderValue::from_str(&value).map_err(|_| bad(()))?;
            value.set_sensitive(true);
            config.headers.append(key.clone(), value);
        }
    }
    config.connect_timeout = table.dial_timeout.as_deref().map(duration).transpose()?;
    Ok(config)
}

fn identity(folder: &Path, client: Clients) -> Result<Option<(PathBuf, Option<PathBuf>)>, String> {
    let mut pairs: Vec<Vec<String>> = match client {
        Clients::One(file) => vec![vec![file]],
        Clients::Many(pairs) => pairs.into_iter().map(Files::into_vec).collect(),
    };
    if pairs.len() > 1 {
        return Err("client: one certificate for a host is supported, not several".to_owned());
    }
    let Some(mut pair) = pairs.pop() else { return Ok(None) };
    let key = if pair.len() == 2 { pair.pop().map(|key| folder.join(key)) } else { None };
    match pair.as_slice() {
        [certificate] => Ok(Some((folder.join(certificate), key))),
        _ => Err("client: a certificate and its key are expected".to_owned()),
    }
}

/// Go's durations, as far as they are used for timeouts: `10s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("dial_timeout {text:?} is no duration such as 10s or 500ms");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
        let (number, unit) = rest.split_at(end);
        let unit_end = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
        let seconds = match &unit[..unit_end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = &unit[unit_end..];
    }
    if total.is_zero() { Err(bad()) } else { Ok(total) }
}

// Docker's pattern: authorities are *.crt, a certificate to show is NAME.cert with NAME.key.
fn certificates(folder: &Path) -> Result<Vec<HostConfig>, FetchError> {
    let failed = |why: String| FetchError::HostsFile { path: folder.to_owned(), why };
    let mut config = HostConfig::default();
    let entries = std::fs::read_dir(folder).map_err(|error| failed(error.to_string()))?;
    for entry in entries.take(1024) {
        let path = entry.map_err(|error| failed(error.to_string()))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => config.ca_files.push(path),
            Some("cert") if config.identity.is_some() => {
                return Err(failed("has several client certificates; one is supported".to_owned()));
            }
            Some("cert") => {
                let key = path.with_extension("key");
                let key = key.exists().then_some(key);
                config.identity = Some((path, key));
            }
            _ => {}
        }
    }
    config.ca_files.sort();
    Ok(vec![config])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_in_the_order_of_the_file() {
        let text = r#"
            server = "https://registry.example"
            [host."http://zzz.local:5000"]
              capabilities = ["pull", "resolve"]
              skip_verify = true
              [host."http://zzz.local:5000".header]
                x-who = ["a", "b"]
            [host."https://aaa.local/proxy"]
              capabilities = ["push"]
              ca = "ca.pem"
              client = [["me.cert", "me.key"]]
              dial_timeout = "1m30s"
            [host."https://bbb.local/own"]
              override_path = true
        "#;
        let hosts = parse(Path::new("/etc/certs"), text).unwrap();
        let names: Vec<String> = hosts.iter().map(|host| host.server.as_ref().unwrap().1.clone()).collect();
        assert_eq!(names, ["zzz.local:5000", "aaa.local", "bbb.local", "registry.example"]);
        assert!(hosts[0].pull && hosts[0].resolve && !hosts[0].push && hosts[0].skip_verify);
        assert_eq!(hosts[0].headers.get_all("x-who").iter().count(), 2);
        assert_eq!(hosts[1].api.as_deref(), Some("/proxy/v2/"));
        assert_eq!(hosts[1].ca_files, [PathBuf::from("/etc/certs/ca.pem")]);
        assert_eq!(hosts[1].connect_timeout, Some(Duration::from_secs(90)));
        assert_eq!(hosts[1].identity.as_ref().unwrap().1, Some(PathBuf::from("/etc/certs/me.key")));
        assert_eq!(hosts[2].api.as_deref(), Some("/own/"));
        assert_eq!(hosts[3].api.as_deref(), Some("/v2/"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let folder = Path::new("/x");
        for bad in [
            "servr = \"x\"",
            "capabilities = [\"fly\"]",
            "dial_timeout = \"soon\"",
            "[host.\"ftp://x\"]\n",
            "[host.\"https://\"]\n",
            "client = [\"a\", \"b\"]",
        ] {
            assert!(parse(folder, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn folders_are_looked_for_by_host_and_port() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(load(root.path(), "a.b:5000").unwrap(), None);
        std::fs::create_dir(root.path().join("_default")).unwrap();
        assert_eq!(load(root.path(), "a.b:5000").unwrap(), Some(vec![HostConfig::default()]));
        let own = root.path().join("a.b_5000_");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("x.crt"), "").unwrap();
        let found = load(root.path(), "a.b:5000").unwrap().unwrap();
        assert_eq!(found[0].ca_files, [own.join("x.crt")]);
    }
}
