//! Images: their records, and how they come here.

pub mod platform;
pub mod reference;
pub mod store;
