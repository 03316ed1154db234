//! `-v HOST:CONTAINER[:OPTIONS]`.

use std::path::{Component, Path};

use longshore_proto::longshore::engine::v1::Mount;

/// A bind mount; named and anonymous volumes are refused, because they are not built yet.
pub fn bind(text: &str) -> Result<Mount, String> {
    let invalid = |why: &str| format!("invalid volume specification: '{text}': {why}");
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] if target.starts_with('/') => {
            return Err(format!("anonymous volumes are not built yet: write -v HOST_PATH:{target}"));
        }
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid("expected HOST_PATH:CONTAINER_PATH[:ro|rw]")),
    };
    if source.is_empty() || target.is_empty() {
        return Err(invalid("empty section between colons"));
    }
    let target_path = Path::new(target);
    if !target_path.is_absolute() {
        return Err(invalid(&format!("mount path must be absolute: '{target}'")));
    }
    if target_path.components().all(|part| matches!(part, Component::RootDir | Component::CurDir)) {
        return Err(invalid("destination can't be '/'"));
    }
    let read_only = read_only(options).map_err(|mode| invalid(&format!("invalid mode: {mode}")))?;
    Ok(Mount {
        source: absolute(source)?,
        target: target.to_string(),
        read_only,
        create_source: true,
        ..Mount::default()
    })
}

fn read_only(options: &str) -> Result<bool, &str> {
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // SELinux labels and consistency hints: nothing to do where docker, too, does nothing.
            "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other => return Err(other),
        }
    }
    Ok(read_only)
}

/// Paths that start with `.` or `~` are the user's own; a bare word would be a volume's name.
fn absolute(source: &str) -> Result<String, String> {
    if source.starts_with('/') {
        return Ok(source.to_string());
    }
    if source != "." && source != ".." && !source.starts_with("./") && !source.starts_with("../") {
        return Err(format!(
            "named volumes are not built yet ('{source}'): give the host's path, as in ./{source}"
        ));
    }
    let mut path =
        std::env::current_dir().map_err(|error| format!("the current directory is not known: {error}"))?;
    for part in Path::new(source).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path.into_os_string().into_string().map_err(|path| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes() {
        let mount = bind("/a:/b:ro").unwrap();
        assert_eq!((mount.source.as_str(), mount.target.as_str(), mount.read_only), ("/a", "/b", true));
        assert!(!bind("/a:/b").unwrap().read_only);
        assert!(bind("./a:/b").unwrap().source.ends_with("/a"));
        for (text, words) in [
            ("/b", "anonymous volumes are not built yet"),
            ("name:/b", "named volumes are not built yet"),
            ("/a:b", "mount path must be absolute"),
            ("/a:/", "destination can't be '/'"),
            ("/a:/b:rx", "invalid mode: rx"),
            ("/a:/b:ro:x", "invalid volume specification"),
            (":/b", "empty section"),
            ("", "invalid volume specification"),
        ] {
            let error = bind(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
