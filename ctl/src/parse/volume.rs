//! `-v [SOURCE:]TARGET[:OPTIONS]`: a folder of the host, a named volume, or an anonymous one.

use std::path::{Component, Path};

use longshore_proto::longshore::engine::v1::{Mount, MountKind};

/// What is wrong with a `-v`: docker's client says the first, its daemon the second.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    Spec(String),
    Volume(String),
}

/// One `-v`.
pub fn volume(text: &str) -> Result<Mount, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Spec("invalid empty volume spec".into()));
    }
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return Err(Wrong::Spec(format!("invalid spec: {text}: too many colons")));
    }
    if parts.iter().any(|part| part.is_empty()) {
        return Err(Wrong::Spec(format!("invalid spec: {text}: empty section between colons")));
    }
    let mut mount = Mount { spec: text.to_string(), ..Mount::default() };
    let invalid = |why: &str| Wrong::Volume(format!("invalid volume specification: '{text}'{why}"));
    let (source, options) = match parts.as_slice() {
        [target] => {
            mount.target = (*target).to_string();
            ("", "")
        }
        // A volume without a source has no mode: `/data:ro` would be a folder named ro.
        [_, mode] if parse_mode(mode, &mut Mount::default()).is_ok() => return Err(invalid("")),
        [source, target] => {
            mount.target = (*target).to_string();
            (*source, "")
        }
        [source, target, options] => {
            mount.target = (*target).to_string();
            (*source, *options)
        }
        _ => return Err(invalid("")),
    };
    let of_host = source.starts_with('/') || is_relative(source);
    mount.kind = if of_host { MountKind::Bind } else { MountKind::Volume }.into();
    mount.create_source = of_host;
    mount.source = if of_host { absolute(source).map_err(Wrong::Volume)? } else { source.to_string() };
    parse_mode(options, &mut mount).map_err(|()| Wrong::Volume(format!("invalid mode: {options}")))?;
    check(&mount).map_err(|why| invalid(&format!(": {why}")))?;
    Ok(mount)
}

fn check(mount: &Mount) -> Result<(), String> {
    let kind = if mount.kind() == MountKind::Bind { "bind" } else { "volume" };
    if !mount.target.starts_with('/') {
        return Err(format!(
            "invalid mount config for type \"{kind}\": invalid mount path: '{}' mount path must be absolute",
            mount.target
        ));
    }
    if Path::new(&mount.target)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::CurDir))
    {
        return Err("invalid mount config for type \"".to_string()
            + kind
            + "\": invalid specification: destination can't be '/'");
    }
    if kind == "volume" && !mount.propagation.is_empty() {
        return Err(
            "invalid mount config for type \"volume\": field BindOptions must not be specified".into()
        );
    }
    if kind == "bind" && mount.no_copy {
        return Err(
            "invalid mount config for type \"bind\": field VolumeOptions must not be specified".into()
        );
    }
    Ok(())
}

/// `ro`, `rw`, a label, a propagation, `nocopy` and hints of consistency, each kind once.
fn parse_mode(text: &str, mount: &mut Mount) -> Result<(), ()> {
    let mut seen = [false; 5];
    let mut once = |kind: usize| match std::mem::replace(&mut seen[kind], true) {
        true => Err(()),
        false => Ok(()),
    };
    for option in text.split(',').filter(|_| !text.is_empty()) {
        match option {
            "ro" | "rw" => {
                once(0)?;
                mount.read_only = option == "ro";
            }
            // SELinux labels: nothing to do where the host does not enforce them, as with docker.
            "z" | "Z" => once(1)?,
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" => {
                once(2)?;
                mount.propagation = option.to_string();
            }
            "nocopy" => {
                once(3)?;
                mount.no_copy = true;
            }
            "cached" | "delegated" | "consistent" | "default" => once(4)?,
            _ => return Err(()),
        }
    }
    Ok(())
}

/// Paths that start with `.` or `~` are the user's own; a bare word is a volume's name.
fn is_relative(source: &str) -> bool {
    source == "."
        || source == ".."
        || source == "~"
        || ["./", "../", "~/"].iter().any(|start| source.starts_with(start))
}

/// A path of the user's, seen from the root.
pub fn absolute(source: &str) -> Result<String, String> {
    if source.starts_with('/') {
        return Ok(source.to_string());
    }
    let (start, rest) = match source.strip_prefix('~') {
        Some(rest) => (
            std::env::var_os("HOME")
                .map(Into::into)
                .ok_or("HOME is not set: write the whole path instead of ~")?,
            rest.trim_start_matches('/'),
        ),
        None => {
            let here = std::env::current_dir();
            (here.map_err(|error| format!("the current directory is not known: {error}"))?, source)
        }
    };
    let mut path: std::path::PathBuf = start;
    for part in Path::new(rest).components() {
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
    fn binds() {
        let mount = volume("/a:/b:ro").unwrap();
        assert_eq!((mount.source.as_str(), mount.target.as_str(), mount.read_only), ("/a", "/b", true));
        assert!(mount.kind() == MountKind::Bind && mount.create_source && mount.spec == "/a:/b:ro");
        assert!(!volume("/a:/b").unwrap().read_only);
        assert!(volume("./a:/b").unwrap().source.ends_with("/a"));
        assert_eq!(volume("/a:/b:rshared,z").unwrap().propagation, "rshared");
    }

    #[test]
    fn volumes() {
        let named = volume("data:/b:nocopy").unwrap();
        assert_eq!((named.kind(), named.source.as_str(), named.no_copy), (MountKind::Volume, "data", true));
        let anonymous = volume("/b").unwrap();
        assert_eq!(
            (anonymous.kind(), anonymous.source.as_str(), anonymous.target.as_str()),
            (MountKind::Volume, "", "/b")
        );
    }

    #[test]
    fn docker_s_words() {
        for (text, words) in [
            ("", "invalid empty volume spec"),
            ("/a:", "invalid spec: /a:: empty section between colons"),
            (":/b", "invalid spec: :/b: empty section between colons"),
            ("/a:/b:/c:/d", "invalid spec: /a:/b:/c:/d: too many colons"),
        ] {
            assert_eq!(volume(text).unwrap_err(), Wrong::Spec(words.into()));
        }
        for (text, words) in [
            ("/a:/b:rx", "invalid mode: rx"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("/a:ro", "invalid volume specification: '/a:ro'"),
            (
                "/a:b",
                "invalid volume specification: '/a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute",
            ),
            (
                "/a:/",
                "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'",
            ),
        ] {
            assert_eq!(volume(text).unwrap_err(), Wrong::Volume(words.into()));
        }
    }
}
