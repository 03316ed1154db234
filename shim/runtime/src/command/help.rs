//! What `--help` and `--version` say.

use super::args::{Flag, Kind};
use super::{SPEC_VERSION, VERSION, Verb};

/// The first line has the shape that go-runc looks for.
pub fn version() {
    println!("longshore-runtime version {VERSION}\nspec: {SPEC_VERSION}");
    if let Ok(version) = longshore_runtime::libseccomp_version() {
        println!("libseccomp: {version}");
    }
}

/// The help of the whole command.
pub fn overview(verbs: &[&Verb], flags: &[Flag]) {
    println!(
        "longshore-runtime: an OCI runtime with runc's command line\n\n\
         A container is made from a bundle: a folder with a config.json and a root file system.\n\n\
         USAGE:\n   longshore-runtime [global options] command [command options] [arguments...]\n\nCOMMANDS:"
    );
    for verb in verbs {
        println!("   {:<12}{}", verb.name, verb.about);
    }
    println!("\nGLOBAL OPTIONS:");
    list(flags);
}

/// The help of one verb.
pub fn of_verb(verb: &Verb) {
    let options = if verb.flags.is_empty() { "" } else { " [command options]" };
    println!(
        "longshore-runtime {name}: {about}\n\nUSAGE:\n   longshore-runtime {name}{options} {operands}",
        name = verb.name,
        about = verb.about,
        operands = verb.operands
    );
    if !verb.flags.is_empty() {
        println!("\nOPTIONS:");
        list(verb.flags);
    }
}

fn list(flags: &[Flag]) {
    let shape = |flag: &Flag| {
        let value = if flag.kind == Kind::Switch { "" } else { " value" };
        let short = flag.short.map(|short| format!(", -{short}{value}")).unwrap_or_default();
        format!("--{}{value}{short}", flag.name)
    };
    let width = flags.iter().map(|flag| shape(flag).len()).max().unwrap_or(0);
    for flag in flags {
        println!("   {:<width$}  {}", shape(flag), flag.help);
    }
}
