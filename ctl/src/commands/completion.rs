//! `longshore completion SHELL`: the script that completes this command line's words in a shell.

use clap_complete::Shell;

use crate::cli::{self, Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// The shell: `source <(longshore completion bash)`
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Print the completion script for a shell";
    const USAGE: &'static str = "bash|zsh|fish";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, _context: &Context) -> Result<u8, Failure> {
        let shell = match self.shell.as_str() {
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            _ => Shell::Bash,
        };
        let mut script = Vec::new();
        let mut root = cli::root();
        root.build();
        clap_complete::generate(shell, &mut root, "longshore", &mut script);
        print::out(&String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}
