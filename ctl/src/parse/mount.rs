//! `--mount type=…,source=…,target=…` and `--tmpfs PATH[:OPTIONS]`.

use longshore_proto::longshore::engine::v1::{Mount, MountKind};

use super::{csv, number, size, volume};

/// Which kinds of options were given.
#[derive(Default)]
struct Given {
    kind: Option<String>,
    bind: bool,
    volume: bool,
    tmpfs: bool,
    image: bool,
}

/// One `--mount`.
pub fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount { kind: MountKind::Volume.into(), ..Mount::default() };
    let mut given = Given::default();
    for field in csv::fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), value),
            None => match field.to_lowercase().as_str() {
                key @ ("readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive") => {
                    (key.to_string(), "true")
                }
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            },
        };
        set(&mut mount, &mut given, &key, value, &field)?;
    }
    let kind = given.kind.clone().unwrap_or_else(|| "volume".into());
    if kind.is_empty() {
        return Err("type is required".into());
    }
    if mount.target.is_empty() {
        return Err("target is required".into());
    }
    for (name, there) in
        [("volume", given.volume), ("bind", given.bind), ("tmpfs", given.tmpfs), ("image", given.image)]
    {
        if there && kind != name {
            return Err(format!("cannot mix '{name}-*' options with mount type '{kind}'"));
        }
    }
    mount.kind = match kind.as_str() {
        "bind" => MountKind::Bind,
        "volume" => MountKind::Volume,
        "tmpfs" => MountKind::Tmpfs,
        "image" => MountKind::Image,
        "npipe" => return Err("mount type npipe is for Windows".into()),
        "cluster" => return Err("mount type cluster is for a cluster: longshore runs on one host".into()),
        other => return Err(format!("mount type unknown: {other:?}")),
    }
    .into();
    recursive(&mount)?;
    Ok(mount)
}

fn set(mount: &mut Mount, given: &mut Given, key: &str, value: &str, field: &str) -> Result<(), String> {
    let invalid = || format!("invalid value for {key}: {value}");
    let flag = || number::boolean(value).map_err(|_| invalid());
    match key.split_once('-').map(|(kind, _)| kind) {
        Some("bind") => given.bind = true,
        Some("volume") => given.volume = true,
        Some("tmpfs") => given.tmpfs = true,
        Some("image") => given.image = true,
        _ => {}
    }
    match key {
        "type" => given.kind = Some(value.to_lowercase()),
        "source" | "src" => {
            let own = value == "." || value.starts_with("./");
            mount.source = if own { volume::absolute(value)? } else { value.to_string() };
        }
        "target" | "dst" | "destination" => mount.target = value.to_string(),
        "readonly" | "ro" => mount.read_only = flag()?,
        // A hint for Docker Desktop's shared folders, without a meaning on Linux.
        "consistency" => match value.to_lowercase().as_str() {
            "" | "default" | "consistent" | "cached" | "delegated" => {}
            _ => return Err(invalid()),
        },
        "bind-propagation" => mount.propagation = value.to_lowercase(),
        "bind-nonrecursive" => mount.non_recursive = flag()?,
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => mount.non_recursive = true,
            "writable" | "readonly" => mount.recursive_read_only = value.to_string(),
            _ => {
                return Err(format!(
                    "{} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
                    invalid()
                ));
            }
        },
        "volume-nocopy" => mount.no_copy = flag()?,
        "volume-subpath" | "image-subpath" => mount.subpath = value.to_string(),
        "volume-driver" => mount.driver = value.to_string(),
        "volume-label" => insert(&mut mount.labels, value),
        "volume-opt" => insert(&mut mount.driver_options, value),
        "tmpfs-size" => mount.tmpfs_size = size::memory(value).map_err(|_| invalid())?,
        "tmpfs-mode" => mount.tmpfs_mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?,
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn insert(map: &mut std::collections::HashMap<String, String>, value: &str) {
    let (key, value) = value.split_once('=').unwrap_or((value, ""));
    map.insert(key.to_string(), value.to_string());
}

/// A mount below a read-only one can only be said to be read-only, or not, when that one is.
fn recursive(mount: &Mount) -> Result<(), String> {
    let how = mount.recursive_read_only.as_str();
    if how.is_empty() {
        return Ok(());
    }
    if !mount.read_only {
        return Err(format!(
            "option 'bind-recursive={how}' requires 'readonly' to be specified in conjunction"
        ));
    }
    if how == "readonly" && mount.propagation != "rprivate" {
        return Err(
            "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction"
                .into(),
        );
    }
    Ok(())
}

/// One `--tmpfs`.
pub fn tmpfs(text: &str) -> Mount {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    Mount {
        kind: MountKind::Tmpfs.into(),
        target: target.to_string(),
        tmpfs_options: options.split(',').filter(|option| !option.is_empty()).map(str::to_string).collect(),
        spec: text.to_string(),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys() {
        let bind =
            mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rshared,bind-recursive=disabled").unwrap();
        assert_eq!(bind.kind(), MountKind::Bind);
        assert_eq!((bind.source.as_str(), bind.target.as_str(), bind.read_only), ("/a", "/b", true));
        assert_eq!((bind.propagation.as_str(), bind.non_recursive), ("rshared", true));
        assert!(!bind.create_source);
        let volume = mount("source=v,target=/b,volume-nocopy,volume-label=a=b,volume-opt=o=x,volume-driver=local,volume-subpath=s").unwrap();
        assert_eq!((volume.kind(), volume.no_copy, volume.subpath.as_str()), (MountKind::Volume, true, "s"));
        assert_eq!((volume.labels["a"].as_str(), volume.driver_options["o"].as_str()), ("b", "x"));
        let memory = mount("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap();
        assert_eq!((memory.tmpfs_size, memory.tmpfs_mode), (1 << 20, 0o1770));
        assert!(mount("type=bind,src=./x,dst=/b").unwrap().source.starts_with('/'));
        assert_eq!(mount(r#"type=bind,"src=/a,b",dst=/b"#).unwrap().source, "/a,b");
        assert_eq!(tmpfs("/x:size=1m,exec").tmpfs_options, ["size=1m", "exec"]);
        assert_eq!(mount("type=image,src=i,dst=/i,image-subpath=d").unwrap().kind(), MountKind::Image);
    }

    #[test]
    fn docker_s_words() {
        for (text, words) in [
            ("", "EOF"),
            ("type=bind", "target is required"),
            ("type=", "type is required"),
            ("type=volume,target=", "target is required"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("target=/x,foo=bar", "unexpected key 'foo' in 'foo=bar'"),
            ("type=volume,target=/x,readonly=x", "invalid value for readonly: x"),
            (
                "type=bind,src=/a,dst=/b,volume-nocopy=true",
                "cannot mix 'volume-*' options with mount type 'bind'",
            ),
            (
                "type=volume,dst=/b,bind-propagation=rshared",
                "cannot mix 'bind-*' options with mount type 'volume'",
            ),
            ("type=volume,dst=/b,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
            ("type=tmpfs,dst=/b,tmpfs-size=x", "invalid value for tmpfs-size: x"),
            ("type=tmpfs,dst=/b,tmpfs-mode=99", "invalid value for tmpfs-mode: 99"),
            ("type=bind,src=/a,dst=/b,bind-nonrecursive=x", "invalid value for bind-nonrecursive: x"),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=x",
                "invalid value for bind-recursive: x (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
            ),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=writable",
                "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
            ),
            ("type=foo,target=/x", "mount type unknown: \"foo\""),
        ] {
            assert_eq!(mount(text).unwrap_err(), words, "{text}");
        }
    }
}
