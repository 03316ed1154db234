//! The program `longshore`: see the library beside it.

#![forbid(unsafe_code)]

fn main() {
    let code = longshore::main(std::env::args_os().collect());
    // Not a return: a thread may still be blocked in a read of stdin.
    std::process::exit(code.into());
}
