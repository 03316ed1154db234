//! Refusals that depend on what else there is. Their words are those that scripts look for.

/// Why something cannot be done now.
#[derive(Debug, thiserror::Error)]
pub enum Conflict {
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse { name: String, id: String },
    #[error("Renaming a container with the same name as its current name")]
    SameName,
    #[error("Container {id} {why}")]
    State { id: String, why: super::state::Refused },
    #[error("cannot kill container: {asked}: container {id} is not running")]
    NotRunningForKill { asked: String, id: String },
    #[error(
        "cannot remove container \"/{name}\": container is {state}: stop the container before removing or force remove"
    )]
    RemoveLive { name: String, state: &'static str },
    #[error("removal of container {id} is already in progress")]
    RemovalInProgress { id: String },
    #[error("can't join {what} of container {name}: {why}")]
    Join { what: &'static str, name: String, why: String },
    #[error("You cannot attach to a stopped container, start it first")]
    AttachStopped,
    #[error("You cannot attach to a paused container, unpause it first")]
    AttachPaused,
    #[error("Restart policy cannot be updated because AutoRemove is enabled for the container")]
    PolicyOfAutoRemove,
    #[error("You cannot attach to a restarting container, wait until it is running")]
    AttachRestarting,
    #[error("configured logging driver does not support reading")]
    LogsNotReadable,
    #[error("container {id} is paused, unpause the container before exec")]
    ExecPaused { id: String },
    #[error(
        "conflict: unable to remove repository reference \"{reference}\" (must force) - container {container} is using its referenced image {image}"
    )]
    ReferenceInUse { reference: String, container: String, image: String },
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is referenced in multiple repositories"
    )]
    ManyReferences { image: String },
    #[error(
        "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {container}"
    )]
    ImageOfStopped { image: String, container: String },
    #[error("An image does not exist locally with the tag: {name}")]
    NoLocalImage { name: String },
    #[error("tag does not exist: {name}")]
    NoSuchTag { name: String },
    #[error(
        "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {container}"
    )]
    ImageOfRunning { image: String, container: String },
    #[error("get {name}: no such volume")]
    NoSuchVolume { name: String },
    #[error("extraction point is not a directory")]
    NoFolder,
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    #[error("mounted volume is marked read-only")]
    ReadOnlyVolume,
    /// Of an image's config, by a line that makes no sense.
    #[error("{why}")]
    Change { why: String },
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath { path: String, container: String },
    #[error("remove {name}: volume is in use - [{}]", users.join(", "))]
    VolumeInUse { name: String, users: Vec<String> },
}

impl Conflict {
    /// Whether there is nothing to do it to.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Conflict::NoLocalImage { .. }
                | Conflict::NoSuchTag { .. }
                | Conflict::NoSuchVolume { .. }
                | Conflict::NoSuchPath { .. }
        )
    }

    /// Whether the thing exists already, as opposed to being in the wrong state.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Conflict::NameInUse { .. })
    }

    /// Whether it would be refused whatever else there is.
    pub fn is_bad_request(&self) -> bool {
        matches!(self, Conflict::Change { .. } | Conflict::NoFolder)
    }
}
