//! `longshore-runtime`: the OCI runtime as a command, with the command line, texts and exit codes that callers of runc rely on.
#![forbid(unsafe_code)]

mod command;

fn main() {
    std::process::exit(command::main())
}
