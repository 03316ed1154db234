//! How help reads: docker's layout, flags in alphabetical order, the other names of a command, examples.

use std::collections::HashMap;

use clap::Command;

use super::Entry;
use crate::commands::{COMMON, NOUNS, TOP};

/// What people type first, by the verb's name without its noun; `noun verb` where the noun matters.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "run",
        "longshore run --rm -it debian bash\nlongshore run -d --name web -m 256m --cpus 0.5 nginx\n\
         longshore run --rm -v \"$PWD:/src\" -w /src -e CI=1 golang go test ./...",
    ),
    ("create", "longshore create --name web nginx\nlongshore start web"),
    ("exec", "longshore exec -it web sh\nlongshore exec -e A=1 -w /tmp web env"),
    (
        "ls",
        "longshore ps -a --filter status=exited\nlongshore ps --format 'table {{.Names}}\\t{{.Status}}'\n\
         longshore ps -aq",
    ),
    ("logs", "longshore logs -f --tail 100 web\nlongshore logs --since 10m web"),
    (
        "inspect",
        "longshore inspect web\nlongshore inspect -f '{{.State.ExitCode}}' web\n\
         longshore inspect -f '{{json .Config.Env}}' web",
    ),
    ("stop", "longshore stop -t 30 web"),
    ("kill", "longshore kill -s HUP web"),
    ("rm", "longshore rm -f web"),
    ("pull", "longshore pull debian:12\nlongshore pull registry.example.com:5000/team/app@sha256:…"),
    (
        "image ls",
        "longshore images --filter dangling=true\nlongshore images --format '{{.Repository}}:{{.Tag}}'",
    ),
    ("tag", "longshore tag app:latest registry.example.com/app:1.2"),
    ("prune", "longshore container prune --filter until=24h"),
    ("cp", "longshore cp web:/etc/nginx/nginx.conf .\nlongshore cp - web:/srv < site.tar"),
    ("events", "longshore events --since 1h --until 0s --filter type=container"),
    ("stats", "longshore stats --no-stream"),
    ("wait", "longshore wait web"),
    ("save", "longshore save -o app.tar app:latest"),
    ("load", "longshore load -i app.tar"),
    ("update", "longshore update -m 512m web"),
    (
        "context create",
        "longshore context create build --description 'the build host' --endpoint host=ssh://root@build\n\
         longshore --context build ps",
    ),
    ("completion", "source <(longshore completion bash)"),
    ("network create", "longshore network create --subnet 10.9.0.0/24 back"),
    ("volume create", "longshore volume create data\nlongshore run -v data:/var/lib/data app"),
];

const VERB: &str = "Usage:  {usage}\n\n{about}\n\n{before-help}{all-args}{after-help}";

/// Docker's layout for a verb, with its other names and its examples.
pub fn of_verb(command: Command, entry: &Entry, group: &str) -> Command {
    let mut names = Vec::new();
    for noun in NOUNS {
        for other in noun.verbs.iter().filter(|other| other.is_same(entry)) {
            let of_noun = |name: &&str| format!("longshore {} {name}", noun.name);
            names.extend([&other.name].into_iter().chain(other.aliases).map(of_noun));
        }
    }
    for other in TOP.iter().filter(|other| other.is_same(entry)) {
        names.extend([&other.name].into_iter().chain(other.aliases).map(|name| format!("longshore {name}")));
    }
    let mut command = command.help_template(VERB);
    if names.len() > 1 {
        command = command.before_help(format!("Aliases:\n  {}", names.join(", ")));
    }
    let full = format!("{group}{}", entry.name);
    let known = |name: &str| EXAMPLES.iter().find(|(verb, _)| *verb == name).map(|(_, text)| *text);
    let daily = || TOP.iter().any(|top| top.is_same(entry)) || group == "container ";
    let examples = known(&full).or_else(|| daily().then(|| known(plain_name(entry))).flatten());
    if let Some(examples) = examples {
        let lines: String = examples.lines().map(|line| format!("\n  {line}")).collect();
        command = command.after_help(format!("Examples:{lines}"));
    }
    command
}

/// The name below its noun of a verb that has another one at the top: `ls` for `ps`, `image ls` for `images`.
fn plain_name(entry: &Entry) -> &'static str {
    match entry.name {
        "ps" => "ls",
        "images" => "image ls",
        "rmi" => "image rm",
        name => name,
    }
}

pub fn of_noun(command: Command) -> Command {
    let name = command.get_name().to_string();
    command
        .help_template(
            "Usage:  {usage}\n\n{about}\n\nCommands:\n{subcommands}\n\nOptions:\n{options}{after-help}",
        )
        .after_help(format!("Run 'longshore {name} COMMAND --help' for more information on a command."))
}

/// The whole command line at a glance: what is typed daily, the nouns, the rest.
pub fn of_root(root: Command) -> Command {
    let line = |(name, about): (&str, &str)| format!("  {name:<12}{about}\n");
    let of = |entry: &Entry| (entry.name, entry.about);
    let common: String = COMMON
        .iter()
        .filter_map(|name| TOP.iter().find(|entry| entry.name == *name))
        .map(of)
        .map(line)
        .collect();
    let nouns: String = NOUNS.iter().map(|noun| line((noun.name, noun.about))).collect();
    let mut rest: Vec<_> = TOP.iter().filter(|entry| !COMMON.contains(&entry.name)).map(of).collect();
    rest.sort_unstable();
    let rest: String = rest.into_iter().map(line).collect();
    root.help_template(format!(
        "Usage:  {{usage}}\n\n{{about}}\n\nCommon Commands:\n{common}\nManagement Commands:\n{nouns}\n\
         Commands:\n{rest}\nGlobal Options:\n{{options}}{{after-help}}"
    ))
    .after_help("Run 'longshore COMMAND --help' for more information on a command.")
}

/// Flags by their long names, as docker shows them; clap would put those with a short form first.
pub fn in_order(command: Command) -> Command {
    let mut names: Vec<String> = command
        .get_arguments()
        .filter(|arg| !arg.is_positional())
        .filter_map(|arg| arg.get_long().map(str::to_string))
        .collect();
    names.sort_unstable();
    let places: HashMap<String, usize> = names.into_iter().zip(1..).collect();
    command.mut_args(|arg| match arg.get_long().and_then(|name| places.get(name)) {
        Some(place) => arg.display_order(*place),
        None => arg,
    })
}
