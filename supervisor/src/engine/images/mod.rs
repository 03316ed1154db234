//! Images as people use them: found by reference, short name or id; pulled, pushed, saved, loaded, listed, tagged, removed, pruned.

pub(super) mod assemble;
mod history;
pub mod import;
mod inspect;
pub(super) mod instructions;
mod list;
mod load;
mod login;
mod lookup;
mod naming;
mod parts;
mod prune;
mod pull;
mod push;
mod remove;
mod save;
mod tag;
mod usage;

pub use list::{Group, ImageSummary};
pub use load::LoadEvent;
pub use lookup::{ImageCache, Layer, LocalImage};
pub use prune::Unused;
pub use pull::{Auth, LayerStep, Policy, PullEvent, PullRequest};
pub use push::{PushEvent, PushRequest, PushStep, Tags};

pub use remove::{Force, Removal};
pub use save::SaveRequest;
pub use usage::ImageUsage;
