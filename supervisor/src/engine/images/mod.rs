//! Images as people use them: found by reference, short name or id; listed, tagged, removed, pruned.

mod inspect;
mod list;
mod lookup;
mod prune;
mod pull;
mod remove;
mod tag;

pub use list::ImageSummary;
pub use lookup::{ImageCache, Layer, LocalImage};
pub use prune::Unused;
pub use pull::{Auth, LayerStep, Policy, PullEvent, PullRequest};
pub use remove::Force;
