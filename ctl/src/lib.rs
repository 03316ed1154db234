//! `longshore`, the command line: a thin client of `longshore.engine.v1`.
//!
//! What always holds: it keeps no state but the user's named contexts; stdout carries results and stderr everything
//! else; the terminal is given back as it was found, however the process ends; a start costs one connection and no file
//! but the user's settings and the credentials that an image may need.

#![forbid(unsafe_code)]

mod auth;
mod cli;
mod client;
mod commands;
mod contexts;
mod endpoint;
mod failure;
mod output;
mod parse;
mod terminal;

pub use cli::{main, whole as tree};
pub use commands::completion::SCRIPTS as COMPLETIONS;
