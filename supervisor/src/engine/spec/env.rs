//! The environment and the words that a process starts with. Later entries win over earlier ones, the place of
//! the first stays; a bare name removes a variable.

use std::collections::{HashMap, HashSet};

/// Where programs are looked up when the image does not say.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Merges `overrides` into `base`.
pub fn merge(base: &[String], overrides: &[String]) -> Vec<String> {
    let mut merged: Vec<Option<&String>> = Vec::with_capacity(base.len() + overrides.len());
    // Where each name is: images and users may have tens of thousands.
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(base.len() + overrides.len());
    for entry in base.iter().chain(overrides) {
        if !entry.contains('=') {
            if let Some(at) = places.remove(entry.as_str()) {
                merged[at] = None;
            }
            continue;
        }
        let at = *places.entry(name(entry)).or_insert(merged.len());
        match merged.get_mut(at) {
            Some(place) => *place = Some(entry),
            None => merged.push(Some(entry)),
        }
    }
    merged.into_iter().flatten().cloned().collect()
}

fn name(entry: &str) -> &str {
    entry.split('=').next().unwrap_or(entry)
}

/// The user's entries and then those of the image that the user did not name, as docker's inspect shows them.
pub fn with_images(own: &[String], images: &[String]) -> Vec<String> {
    let named: HashSet<&str> = own.iter().map(|entry| name(entry)).collect();
    let kept = images.iter().filter(|entry| !named.contains(name(entry)));
    own.iter().chain(kept).cloned().collect()
}

/// What an interactive or plain container's environment starts from, in docker's order: PATH, HOSTNAME, TERM; the
/// image's and the user's entries come after and win. HOME is added by [`with_home`] once the user is known.
pub fn base(hostname: &str, tty: bool) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Adds HOME unless it is there already.
pub fn with_home(mut env: Vec<String>, home: &str) -> Vec<String> {
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// The words of the process: `entrypoint` replaces the image's and with it the image's Cmd; `args` replace the
/// image's Cmd.
pub fn words(
    entrypoint: Option<&[String]>,
    args: &[String],
    image_entrypoint: &[String],
    image_cmd: &[String],
) -> Vec<String> {
    let (program, mut rest) = match entrypoint {
        Some(own) => (own, args),
        None => (image_entrypoint, args),
    };
    if entrypoint.is_none() && args.is_empty() {
        rest = image_cmd;
    }
    entrypoint_of(program).iter().chain(rest).cloned().collect()
}

/// The first of those words: the user's entrypoint, or the image's.
pub fn entrypoint<'a>(own: Option<&'a [String]>, images: &'a [String]) -> &'a [String] {
    entrypoint_of(own.unwrap_or(images))
}

/// One empty word is none.
fn entrypoint_of(program: &[String]) -> &[String] {
    match program {
        [word] if word.is_empty() => &[],
        words => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_variables_cost_little() {
        let many: Vec<String> = (0..100_000).map(|number| format!("V{number}=x")).collect();
        let started = std::time::Instant::now();
        assert_eq!(merge(&many, &many), many);
        // A search for each took minutes.
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn later_entries_win_in_the_place_of_the_first() {
        let merged = merge(&list(&["A=1", "B=2"]), &list(&["A=3", "C=4", "B", "NONE", "D=x=y"]));
        assert_eq!(merged, list(&["A=3", "C=4", "D=x=y"]));
    }

    #[test]
    fn many_entries_are_merged_at_once() {
        let many: Vec<String> = (0..100_000).map(|number| format!("N{number}=1")).collect();
        assert_eq!(merge(&many, &many).len(), many.len());
        assert_eq!(with_images(&many, &many).len(), many.len());
    }

    #[test]
    fn the_users_entries_come_before_the_images() {
        let images = list(&["PATH=/bin", "A=image", "B=image"]);
        let both = with_images(&list(&["Z=1", "A=mine", "B"]), &images);
        assert_eq!(both, list(&["Z=1", "A=mine", "B", "PATH=/bin"]));
        assert_eq!(with_images(&both, &images), both);
        let process = merge(&base("box", false), &both);
        assert_eq!(process, list(&["PATH=/bin", "HOSTNAME=box", "Z=1", "A=mine"]));
    }

    #[test]
    fn entrypoint_and_command() {
        let (entry, cmd) = (list(&["/e"]), list(&["c"]));
        assert_eq!(words(None, &[], &entry, &cmd), list(&["/e", "c"]));
        assert_eq!(words(None, &list(&["x"]), &entry, &cmd), list(&["/e", "x"]));
        assert_eq!(words(Some(&list(&["/o"])), &[], &entry, &cmd), list(&["/o"]));
        assert_eq!(words(Some(&list(&["/o"])), &list(&["x"]), &entry, &cmd), list(&["/o", "x"]));
        assert_eq!(words(Some(&[]), &list(&["x"]), &entry, &cmd), list(&["x"]));
        assert_eq!(words(Some(&list(&[""])), &list(&["x"]), &entry, &cmd), list(&["x"]));
        assert!(words(Some(&[]), &[], &entry, &cmd).is_empty());
    }
}
