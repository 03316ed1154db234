//! The whole tree of commands, as a newcomer meets it: every `--help` answers and is complete, every slip of the hand is
//! understood. The tree is asked for by the way that shells ask for it, so that nothing here can miss a verb.

use std::process::Command;

use longshore_tests::daemon::{Output, program, run};

fn longshore(arguments: &[&str]) -> Output {
    let mut command = Command::new(program("longshore"));
    command.args(arguments).env("LONGSHORE_HOST", "unix:///nonexistent/longshore.sock").env("LC_ALL", "C");
    run(&mut command).expect("longshore runs")
}

/// Candidates after some words, each with its description.
fn candidates(words: &[&str], start: &str) -> Vec<(String, String)> {
    let mut arguments = vec!["__complete"];
    arguments.extend(words);
    arguments.push(start);
    let text = longshore(&arguments).ok().stdout;
    text.lines()
        .map(|line| {
            let (word, about) = line.split_once('\t').unwrap_or((line, ""));
            (word.to_string(), about.to_string())
        })
        .collect()
}

/// Every verb's path, and the nouns'.
fn tree() -> (Vec<Vec<String>>, Vec<String>) {
    let (mut verbs, mut nouns) = (Vec::new(), Vec::new());
    for (word, about) in candidates(&[], "") {
        assert!(!about.is_empty(), "{word} says what it does");
        if word == "help" {
            continue;
        }
        let below = match about.starts_with("Manage ") {
            true => candidates(&[&word], ""),
            false => Vec::new(),
        };
        if below.is_empty() {
            verbs.push(vec![word]);
            continue;
        }
        for (verb, about) in &below {
            assert!(!about.is_empty(), "{word} {verb} says what it does");
            verbs.push(vec![word.clone(), verb.clone()]);
        }
        nouns.push(word);
    }
    (verbs, nouns)
}

fn words(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

#[test]
fn every_command_s_help_is_complete() {
    let (verbs, nouns) = tree();
    assert!(verbs.len() >= 60 && nouns.len() >= 4, "{} verbs, {} nouns", verbs.len(), nouns.len());
    for noun in &nouns {
        let help = longshore(&[noun, "--help"]).ok();
        assert!(help.stdout.starts_with(&format!("Usage:  longshore {noun} COMMAND")), "{}", help.stdout);
        assert_eq!(longshore(&[noun]).ok().stdout, help.stdout, "a noun alone shows its help");
    }
    for path in &verbs {
        let mut arguments = words(path);
        arguments.push("--help");
        let help = longshore(&arguments).ok();
        let name = path.join(" ");
        assert!(help.stderr.is_empty(), "{name}: {}", help.stderr);
        let usage = format!("Usage:  longshore {name}");
        assert!(help.stdout.starts_with(&usage), "{name}: {}", help.stdout);
        let flags = candidates(&words(path), "--");
        assert!(flags.iter().any(|(flag, _)| flag == "--help"), "{name}");
        for (flag, about) in &flags {
            assert!(!about.is_empty(), "{name} {flag} has help");
            assert!(help.stdout.contains(flag.as_str()), "{name} --help shows {flag}");
        }
        let shown: Vec<&str> = help
            .stdout
            .lines()
            .filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-'))
            .filter_map(|line| line.split([' ', '=', ',', '[']).find(|word| word.starts_with("--")))
            .collect();
        let mut sorted = shown.clone();
        sorted.sort_unstable();
        assert_eq!(shown, sorted, "{name}: flags in alphabetical order");
    }
}

#[test]
fn slips_of_the_hand_are_understood() {
    let (verbs, nouns) = tree();
    for path in &verbs {
        let name = path.join(" ");
        let (verb, noun) = path.split_last().expect("a verb");
        // One letter too many.
        let slip = format!("{verb}{}", verb.chars().next_back().expect("a letter"));
        let mut arguments = words(noun);
        arguments.push(&slip);
        let said = longshore(&arguments).expect(1);
        assert!(
            said.stderr.contains("unknown command") && said.stderr.contains("Did you mean"),
            "{name}: {}",
            said.stderr
        );
        assert!(said.stderr.contains(&format!("'{verb}'")), "{name}: {}", said.stderr);

        let unknown: Vec<&str> = words(path).into_iter().chain(["--no-such-flag-at-all"]).collect();
        let said = longshore(&unknown).expect(125);
        assert!(said.stderr.starts_with("unknown flag: --no-such-flag-at-all\n"), "{name}: {}", said.stderr);
        assert!(said.stderr.contains(&format!("Run 'longshore {name} --help'")), "{name}: {}", said.stderr);

        for (flag, _) in candidates(&words(path), "--") {
            let slip = format!("{flag}{}", flag.chars().next_back().expect("a letter"));
            let slipped: Vec<&str> = words(path).into_iter().chain([slip.as_str()]).collect();
            let said = longshore(&slipped).expect(125);
            assert!(said.stderr.contains("Did you mean '--"), "{name} {slip}: {}", said.stderr);
        }
    }
    for noun in &nouns {
        let said = longshore(&[&format!("{noun}x")]).expect(1);
        assert!(said.stderr.contains(&format!("Did you mean '{noun}'")), "{}", said.stderr);
    }
    let said = longshore(&["--contxt", "x", "ps"]).expect(125);
    assert!(said.stderr.contains("Did you mean '--context'?"), "{}", said.stderr);
    for tls in ["--tls", "--tlsverify", "--tlscacert=x", "--tlscert=x", "--tlskey=x"] {
        let said = longshore(&[tls, "ps"]).expect(125);
        assert!(said.stderr.contains("ssh://"), "{tls}: {}", said.stderr);
    }
}

#[test]
fn bash_completes_commands_flags_and_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let complete = |line: &str| {
        let script = format!(
            "source <(longshore completion bash); COMP_LINE={line:?}; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD=1; \
             _longshore; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let path = program("longshore").parent().expect("a folder").display().to_string();
        let mut command = Command::new("bash");
        command
            .args(["-c", &script])
            .env("PATH", format!("{path}:/usr/bin:/bin"))
            .env("LONGSHORE_CONFIG", folder.path());
        run(&mut command).expect("bash runs").ok().stdout
    };
    assert_eq!(complete("longshore vers"), "version\n");
    assert_eq!(complete("longshore run --pull=al"), "always\n");
    assert_eq!(complete("longshore container rest"), "restart\n");
    std::fs::create_dir(folder.path().join("contexts")).expect("a folder");
    std::fs::write(
        folder.path().join("contexts/faraway.json"),
        r#"{"Name": "faraway", "Host": "unix:///x"}"#,
    )
    .expect("a context");
    assert_eq!(complete("longshore context use far"), "faraway\n");
}
