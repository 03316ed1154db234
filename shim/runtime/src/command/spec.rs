//! `spec`: a config.json to begin with.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::{Global, Verb, launch};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub const VERB: Verb = Verb {
    name: "spec",
    about: "make a config.json to begin with",
    operands: "",
    count: (0, 0),
    flags: &[launch::BUNDLE, Flag::switch("rootless", "for containers of an ordinary user")],
    reach: Reach::Anywhere,
    run,
};

/// In the order in which people read it.
const TEMPLATE: &str = include_str!("spec.json");

fn run(_: &Global, args: &Args) -> Result<i32> {
    let path = Path::new(args.filled("bundle").unwrap_or(".")).join("config.json");
    let text = if args.has("rootless") { rootless()? } else { TEMPLATE.to_owned() };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&path);
    let mut file = file.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Config("File config.json exists. Remove it first"),
        _ => Error::io("make", &path)(error),
    })?;
    file.write_all(text.as_bytes()).map_err(Error::io("write", &path))?;
    Ok(0)
}

/// Without what an ordinary user cannot have: a network namespace with something in it, a fresh sysfs, limits, gid 5.
fn rootless() -> Result<String> {
    let failed = |source| Error::Json { path: "the template".into(), source };
    let mut spec: Value = serde_json::from_str(TEMPLATE).map_err(failed)?;
    let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    if let Some(linux) = spec["linux"].as_object_mut() {
        linux.remove("resources");
        linux.insert("uidMappings".into(), map(rustix::process::geteuid().as_raw()));
        linux.insert("gidMappings".into(), map(rustix::process::getegid().as_raw()));
    }
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| !option.as_str().is_some_and(|option| option.starts_with("gid=")));
        }
        if mount["destination"] == "/sys" {
            *mount = json!({ "destination": "/sys", "type": "none", "source": "/sys",
                             "options": ["rbind", "nosuid", "noexec", "nodev", "ro"] });
        }
    }
    let mut text = serde_json::to_string_pretty(&spec).map_err(failed)?;
    text.push('\n');
    Ok(text)
}
