//! CNI network configurations: lists of plugins, found by name in folders.
//!
//! What always holds: a file is read up to a bound, and one that cannot be understood hides no other.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::{CniError, Result};
use super::version::{self, OLDEST};

/// Bytes of one file.
const FILE: u64 = 1 << 20;
/// Files that are looked at in one folder.
const FILES: usize = 1000;
/// Plugins in one list.
const PLUGINS: usize = 64;

/// A network: plugins that are run one after the other.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NetworkList {
    pub name: String,
    pub version: String,
    /// Plugins that cannot be checked say so for all.
    #[serde(default)]
    pub disable_check: bool,
    /// Others have attachments of it that we do not know.
    #[serde(default)]
    pub disable_gc: bool,
    /// As they are written, each with a `type`.
    pub plugins: Vec<Map<String, Value>>,
}

impl NetworkList {
    /// Reads a list, or a single plugin's configuration as a list of one.
    pub fn parse(text: &[u8]) -> std::result::Result<NetworkList, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let Value::Object(mut object) = value else { return Err("is no JSON object".to_owned()) };
        let string = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = string("name").filter(|name| is_name(name)).ok_or("has no usable \"name\"")?;
        let one = string("cniVersion");
        // Several may be named, for runtimes of different age.
        let several = object.get("cniVersions").and_then(Value::as_array).map(Vec::as_slice);
        let several = several.unwrap_or_default().iter().filter_map(Value::as_str);
        let newest = version::newest(several.chain(one.as_deref())).map(str::to_owned);
        let version = newest.or(one).unwrap_or_else(|| OLDEST.to_owned());
        let flag = |key: &str| match object.get(key) {
            Some(Value::Bool(value)) => *value,
            // The specification lets it be written as text.
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        };
        let (disable_check, disable_gc) = (flag("disableCheck"), flag("disableGC"));
        let plugins = match object.remove("plugins") {
            None => vec![Value::Object(object)],
            Some(Value::Array(plugins)) => plugins,
            Some(_) => return Err("has \"plugins\" that are no list".to_owned()),
        };
        if plugins.is_empty() || plugins.len() > PLUGINS {
            return Err(format!("has {} plugins: it needs 1 to {PLUGINS}", plugins.len()));
        }
        let plugins = plugins.into_iter().map(|plugin| match plugin {
            Value::Object(plugin) if plugin_type(&plugin).is_some() => Ok(plugin),
            _ => Err("has a plugin without a usable \"type\"".to_owned()),
        });
        Ok(NetworkList {
            name,
            version,
            disable_check,
            disable_gc,
            plugins: plugins.collect::<std::result::Result<_, _>>()?,
        })
    }
}

/// The name of a plugin's program: a file's name, nothing that leads elsewhere.
pub fn plugin_type(plugin: &Map<String, Value>) -> Option<&str> {
    let name = plugin.get("type")?.as_str()?;
    let is_file = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
    is_file.then_some(name)
}

/// As the specification wants names of networks.
pub fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// The network of this name: of the first file that has it, by the files' names, a folder after the other.
pub fn find(folders: &[PathBuf], name: &str) -> Result<NetworkList> {
    let (mut known, mut broken) = (Vec::new(), Vec::new());
    for folder in folders {
        for path in files(folder)? {
            match read(&path) {
                Ok(list) if list.name == name => return Ok(list),
                Ok(list) => known.push(list.name),
                Err(why) => broken.push(format!("{} {why}", path.display())),
            }
        }
    }
    Err(CniError::NoNetwork { name: name.to_owned(), folders: folders.to_vec(), known, broken })
}

/// The first network that can be understood, by the files' names, a folder after the other. Where there are files, but none that can be
/// understood, there is no other network instead.
pub fn first(folders: &[PathBuf]) -> Result<Option<NetworkList>> {
    let mut broken = Vec::new();
    for folder in folders {
        for path in files(folder)? {
            match read(&path) {
                Ok(list) => return Ok(Some(list)),
                Err(why) => {
                    tracing::warn!("CNI configuration {} {why}", path.display());
                    broken.push(format!("{} {why}", path.display()));
                }
            }
        }
    }
    if broken.is_empty() { Ok(None) } else { Err(CniError::NoneUsable { broken }) }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(CniError::Io { doing: "listing", path: folder.into(), source }),
    };
    let is_configuration = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json"))
    };
    let mut paths: Vec<PathBuf> =
        entries.take(FILES).flatten().map(|entry| entry.path()).filter(is_configuration).collect();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> std::result::Result<NetworkList, String> {
    let mut text = Vec::new();
    // Whatever it is, nothing waits for it.
    let open = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("is no regular file".to_owned());
    }
    file.take(FILE + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE {
        return Err(format!("is longer than {FILE} bytes"));
    }
    NetworkList::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_plugins_are_found_by_name_past_broken_files() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("10-broken.conflist", "{");
        put(
            "20-a.conflist",
            r#"{"cniVersion":"1.0.0","name":"lab","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#,
        );
        put("30-b.conf", r#"{"name":"one","type":"ptp"}"#);
        put("40-c.txt", r#"{"name":"ignored","type":"ptp"}"#);
        let fifo = folder.path().join("50-d.conf");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let folders = [folder.path().to_path_buf(), "/nonexistent-longshore".into()];
        assert_eq!(find(&folders, "lab").unwrap().plugins.len(), 2);
        let one = find(&folders, "one").unwrap();
        assert_eq!((one.version.as_str(), one.plugins.len()), (OLDEST, 1));
        let error = find(&folders, "ignored").unwrap_err().to_string();
        assert!(error.contains("lab, one") && error.contains("10-broken.conflist"), "{error}");
    }

    #[test]
    fn the_newest_known_version_is_taken_and_flags_may_be_text() {
        let text = r#"{"cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","9.0.0"],"name":"x","disableGC":"True","type":"a"}"#;
        let list = NetworkList::parse(text.as_bytes()).unwrap();
        assert_eq!((list.version.as_str(), list.disable_gc, list.disable_check), ("1.1.0", true, false));
        let unknown = NetworkList::parse(br#"{"cniVersion":"7.0.0","name":"x","type":"a"}"#).unwrap();
        assert_eq!(unknown.version, "7.0.0");
    }

    #[test]
    fn files_that_cannot_be_understood_are_no_reason_for_another_network() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_path_buf()];
        assert!(first(&folders).unwrap().is_none());
        std::fs::write(folder.path().join("10-half.conflist"), "{\"name\":").unwrap();
        let error = first(&folders).unwrap_err().to_string();
        assert!(error.contains("10-half.conflist"), "{error}");
        std::fs::write(folder.path().join("20-whole.conf"), r#"{"name":"one","type":"ptp"}"#).unwrap();
        assert_eq!(first(&folders).unwrap().unwrap().name, "one");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for bad in [
            r#"{"name":"../x","type":"bridge"}"#,
            r#"{"name":"x","type":"../bridge"}"#,
            r#"{"name":"x","plugins":[]}"#,
            r#"{"name":"x","plugins":[1]}"#,
            r#"{"plugins":[{"type":"bridge"}]}"#,
            "[]",
        ] {
            assert!(NetworkList::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: Vec<u8>) {
            let _ = NetworkList::parse(&text);
        }
    }
}
