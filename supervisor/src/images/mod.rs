//! Images: their records, and how they come here.

pub mod store;
