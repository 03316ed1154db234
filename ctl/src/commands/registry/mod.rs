//! Verbs on registries.

pub mod login;
pub mod logout;
