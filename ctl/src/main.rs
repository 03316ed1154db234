//! `longshore`, the command line: a thin client of `longshore.engine.v1`.
//!
//! What always holds: it keeps no state of its own; stdout carries results and stderr everything else; the
//! terminal is given back as it was found, however the process ends; a start costs one connection and no file
//! but the credentials that an image may need.

#![forbid(unsafe_code)]

mod auth;
mod cli;
mod client;
mod commands;
mod failure;
mod output;
mod parse;
mod terminal;

fn main() {
    let code = cli::main(std::env::args_os().collect());
    // Not a return: a thread may still be blocked in a read of stdin.
    std::process::exit(code.into());
}
