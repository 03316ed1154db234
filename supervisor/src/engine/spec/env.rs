//! The environment and the words that a process starts with. Later entries win over earlier ones, the place of
//! the first stays; a bare name removes a variable.

/// Where programs are looked up when the image does not say.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Merges `overrides` into `base`.
pub fn merge(base: &[String], overrides: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = Vec::with_capacity(base.len() + overrides.len());
    for entry in base.iter().chain(overrides) {
        let name = entry.split_once('=').map(|(name, _)| name);
        let key = name.unwrap_or(entry);
        let place = merged.iter().position(|have| have.split_once('=').is_some_and(|(have, _)| have == key));
        match (place, name) {
            (Some(at), Some(_)) => merged[at].clone_from(entry),
            (None, Some(_)) => merged.push(entry.clone()),
            (Some(at), None) => {
                merged.remove(at);
            }
            (None, None) => {}
        }
    }
    merged
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

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn later_entries_win_in_the_place_of_the_first() {
        let merged = merge(&list(&["A=1", "B=2"]), &list(&["A=3", "C=4", "B", "NONE", "D=x=y"]));
        assert_eq!(merged, list(&["A=3", "C=4", "D=x=y"]));
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
