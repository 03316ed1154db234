//! What of two outcomes is compared, and which differences are meant.

use crate::run::Outcome;

/// Fields of `/proc/self/status` that say something of the runtime.
const STATUS: &[&str] = &[
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Umask",
    "NSpid",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "Threads",
    "Cpus_allowed_list",
    "Mems_allowed_list",
    "TracerPid",
    "CoreDumping",
    "THP_enabled",
];

/// The first difference in words, if there is any.
pub fn difference(theirs: &Outcome, ours: &Outcome) -> Option<String> {
    if theirs.ran() != ours.ran() {
        let say = |outcome: &Outcome| {
            if outcome.ran() { "runs".into() } else { format!("refuses: {}", outcome.stderr.trim()) }
        };
        return Some(format!("runc {}; ours {}", say(theirs), say(ours)));
    }
    if !theirs.ran() {
        // Both refuse, or the program cannot run: the code is all that a caller sees.
        return (theirs.code != ours.code).then(|| {
            format!(
                "code {:?} ({}) and {:?} ({})",
                theirs.code,
                theirs.stderr.trim(),
                ours.code,
                ours.stderr.trim()
            )
        });
    }
    if theirs.code != ours.code {
        return Some(format!("exit codes {:?} and {:?}", theirs.code, ours.code));
    }
    for (name, text) in &theirs.parts {
        let (a, b) = (view(name, text), view(name, ours.parts.get(name).map_or("", String::as_str)));
        if a != b {
            let only = |from: &[String], other: &[String]| {
                from.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>().join("\n    ")
            };
            return Some(format!(
                "{name}:\n  only runc\n    {}\n  only ours\n    {}",
                only(&a, &b),
                only(&b, &a)
            ));
        }
    }
    None
}

/// The lines of a part as far as they must agree.
fn view(name: &str, text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().filter_map(|line| line_of(name, line)).collect();
    if matches!(name, "env" | "cgroup" | "cgroups" | "dev" | "mountinfo") {
        lines.sort();
    }
    lines
}

fn line_of(name: &str, line: &str) -> Option<String> {
    match name {
        "status" => {
            let field = line.split(':').next()?;
            STATUS.contains(&field).then(|| match field {
                // How many processes came before is the runtime's affair; in how many namespaces it has a number is not.
                "NSpid" => format!("NSpid in {} namespaces", line.split_whitespace().count() - 1),
                // runc's C code leaves the signal ignored with which its thread library cancels.
                "SigIgn" => line.replace("0000000080000000", "0000000000000000"),
                _ => line.to_owned(),
            })
        }
        "mountinfo" => mount(line),
        "dev" => Some(node(line)),
        // For root with a passwd file that has no such line: runc takes any first line's home, which is nothing.
        "env" => Some(if line == "HOME=" { "HOME=/".into() } else { line.to_owned() }),
        // runc 1.1 allows tun devices to everybody; later ones do not, nor does ours.
        "cgroups" => (line != "c 10:200 rwm").then(|| line.to_owned()),
        // Numbers of namespaces: only whether they are the host's.
        "exe" => {
            let (kind, _) = line.split_once(':')?;
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
            Some(format!("{kind} {}", if host.to_str() == Some(line) { "host" } else { "new" }))
        }
        _ => Some(line.to_owned()),
    }
}

/// A line of `ls -l` without the date.
fn node(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.iter().position(|word| word.len() == 5 && word.as_bytes()[2] == b':') {
        Some(time) if time >= 6 => [&words[..1], &words[2..time - 2], &words[time + 1..]].concat().join(" "),
        _ => line.to_owned(),
    }
}

/// A mount without the numbers that every run has of its own.
fn mount(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let dash = words.iter().position(|word| *word == "-")?;
    let tags: Vec<&str> = words[6..dash].iter().filter_map(|tag| tag.split(':').next()).collect();
    let (root, target, flags) = (words[3], words[4], words[5]);
    let (kind, source, data) =
        (words[dash + 1], words[dash + 2], words.get(dash + 3).copied().unwrap_or_default());
    // Under masks: runc binds the container's /dev/null, ours the host's, which no container can replace (CVE-2025-31133);
    // the empty folder of ours says nosuid, nodev and noexec, too, and all masks share it.
    let below = ["/proc/", "/sys/"].iter().any(|top| target.starts_with(top)) && target != "/sys/fs/cgroup";
    if below && (root.ends_with("/null") || kind == "tmpfs" && flags.starts_with("ro")) {
        return Some(format!("mask {target}"));
    }
    // runc 1.1 leaves the folder of the hierarchies writable where the config asks for read-only.
    let flags = match (target, kind) {
        ("/sys/fs/cgroup", "tmpfs") => flags.trim_start_matches("ro,").trim_start_matches("rw,"),
        _ => flags,
    };
    // A name only: runc calls a named hierarchy by its name.
    let source = if kind == "cgroup" { "cgroup" } else { source };
    Some(format!("{root} {target} {flags} {} {kind} {source} {data}", tags.join(",")))
}
