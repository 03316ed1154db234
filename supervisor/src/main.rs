//! longshored: the longshore daemon. Flags, configuration, and the wiring of everything in an explicit order.

#![deny(unsafe_code)]
#![allow(dead_code, unused_imports)]

mod any;
mod api;
mod config;
mod containers;
mod content;
mod engine;
mod error;
mod events;
mod filters;
mod gc;
mod hex;
mod images;
mod labels;
mod leases;
mod metadata;
mod namespaces;
mod services;
mod snapshots;
mod tasks;

fn main() {}
