//! What of a mount list is to be done here, and what is left to the runtime.
//!
//! A type may have prefixes, each naming a change that is made to the mount first: `format/`, `mkdir/`, `mkfs/`. What remains may be a
//! type that only the manager can handle: `loop`.

use crate::snapshots::Mount;

/// A change to a mount before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// `{{ … }}` in source, target and options stand for earlier mounts.
    Format,
    /// Options name directories that are to be there.
    Mkdir,
    /// The source is a file that is to hold a file system.
    Mkfs,
}

impl Transform {
    fn named(name: &str) -> Option<Self> {
        match name {
            "format" => Some(Self::Format),
            "mkdir" => Some(Self::Mkdir),
            "mkfs" => Some(Self::Mkfs),
            _ => None,
        }
    }
}

/// One mount of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub transforms: Vec<Transform>,
    /// Its type is without the prefixes.
    pub mount: Mount,
}

/// What is to be done: the first `here` mounts are made by the manager, the rest is the runtime's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub here: usize,
}

/// `None` if the runtime can do all of it. With `temporary` everything is done here. `allowed` are types, or prefixes as in
/// `format/*`, that the runtime handles itself.
pub fn plan(mounts: &[Mount], temporary: bool, allowed: &[String]) -> Option<Plan> {
    let mut here = None;
    let mut steps = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let (mut transforms, mut kind) = (Vec::new(), mount.kind.as_str());
        while let Some((prefix, rest)) = kind.split_once('/') {
            let Some(transform) = Transform::named(prefix) else { break };
            if allowed.iter().any(|allowed| *allowed == mount.kind || *allowed == format!("{prefix}/*")) {
                break;
            }
            transforms.push(transform);
            here = Some(index);
            kind = rest;
        }
        let handled = kind == "loop" && !allowed.iter().any(|allowed| allowed == kind);
        if handled || temporary {
            here = Some(index + 1);
        }
        let mount = Mount { kind: kind.to_owned(), ..mount.clone() };
        steps.push(Step { transforms, mount });
    }
    here.map(|here| Plan { steps, here })
}

/// Whether a mount list is none that mount(2) knows, or a runtime that handles the types `allowed`.
pub fn needs_activation(mounts: &[Mount], allowed: &[String]) -> bool {
    plan(mounts, false, allowed).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str) -> Mount {
        Mount { kind: kind.into(), source: "s".into(), target: String::new(), options: Vec::new() }
    }

    #[test]
    fn what_comes_before_a_formatted_mount_is_made_here() {
        let mounts = [mount("bind"), mount("xfs"), mount("format/overlay")];
        let plan = super::plan(&mounts, false, &[]).unwrap();
        assert_eq!((plan.here, plan.steps[2].mount.kind.as_str()), (2, "overlay"));
        assert_eq!(plan.steps[2].transforms, [Transform::Format]);
        assert_eq!(super::plan(&mounts, true, &[]).unwrap().here, 3);
        assert_eq!(super::plan(&mounts, false, &["format/*".into()]), None);
        assert_eq!(super::plan(&mounts[..2], false, &[]), None);
        assert_eq!(super::plan(&[mount("loop"), mount("ext4")], false, &[]).unwrap().here, 1);
        let plan = super::plan(&[mount("format/mkdir/overlay")], false, &[]).unwrap();
        assert_eq!((plan.here, plan.steps[0].transforms.len()), (0, 2));
    }
}
