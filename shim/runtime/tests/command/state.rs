//! What is kept between two commands, and what becomes of it when somebody spoils it.

use crate::bundle::Bundle;
use std::os::unix::fs::{PermissionsExt, symlink};

#[test]
fn the_state_is_this_users_alone() {
    let bundle = Bundle::new("true");
    bundle.ok(&["create", "c"]);
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bundle.root()), 0o700);
    assert_eq!(mode(bundle.folder()), 0o700);
    assert_eq!(mode(bundle.folder().join("state.json")), 0o600);
    bundle.ok(&["delete", "c"]);
    assert!(!bundle.folder().exists());
}

#[test]
fn damaged_state_is_an_error_that_says_so() {
    let bundle = Bundle::new("true");
    bundle.ok(&["create", "c"]);
    let file = bundle.folder().join("state.json");
    let sound = std::fs::read_to_string(&file).unwrap();
    let pid = bundle.state()["pid"].to_string();
    let damaged = [
        sound[..sound.len() / 2].to_owned(),
        String::new(),
        "[]".into(),
        sound.replace("\"id\":\"c\"", "\"id\":\"other\""),
        sound.replace("\"layout\":1", "\"layout\":2"),
        sound.replace(&format!("\"pid\":{pid}"), "\"pid\":-1"),
        sound.replacen('{', "{\"more\":1,", 1),
    ];
    for text in damaged {
        assert_ne!(text, sound);
        std::fs::write(&file, &text).unwrap();
        for verb in ["state", "start", "kill", "delete", "pause", "ps"] {
            bundle.fails(&[verb, "c"], "is damaged");
        }
        bundle.ok(&["list", "-q"]);
    }
    std::fs::remove_file(&file).unwrap();
    symlink("/etc/passwd", &file).unwrap();
    bundle.fails(&["state", "c"], "symbolic link");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &sound).unwrap();
    std::fs::set_permissions(bundle.folder(), PermissionsExt::from_mode(0o777)).unwrap();
    bundle.fails(&["state", "c"], "others may write to it");
    std::fs::set_permissions(bundle.folder(), PermissionsExt::from_mode(0o700)).unwrap();
    bundle.ok(&["delete", "c"]);
}

#[test]
fn a_process_that_got_the_same_id_later_is_another_one() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    let file = bundle.folder().join("state.json");
    let sound = std::fs::read_to_string(&file).unwrap();
    let start = sound.split("\"started\":").nth(1).unwrap().split([',', '}']).next().unwrap();
    std::fs::write(&file, sound.replace(&format!("\"started\":{start}"), "\"started\":1")).unwrap();
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.fails(&["kill", "c", "KILL"], "container not running");
    std::fs::write(&file, sound).unwrap();
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn ids_do_not_lead_out_of_the_root() {
    let bundle = Bundle::new("true");
    for id in ["..", ".", "a/b", "../c", "", "a b", "@seccomp"] {
        assert_ne!(bundle.run(&["create", id]).code, 0, "{id:?}");
        assert_ne!(bundle.run(&["delete", id]).code, 0, "{id:?}");
    }
}

#[test]
fn a_create_that_was_killed_leaves_what_delete_removes() {
    let bundle = Bundle::new("true");
    let mut spec = bundle.spec.clone();
    spec["hooks"] = serde_json::json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "15"], "timeout": 20 }] });
    std::fs::write(bundle.dir.path().join("config.json"), spec.to_string()).unwrap();
    let mut child = bundle.command(&["create", "c"]).spawn().unwrap();
    crate::bundle::eventually("it is being created", || {
        bundle.folder().join("state.json").exists() && bundle.state()["status"] == "creating"
    });
    bundle.fails(&["create", "c"], "container with given ID already exists");
    child.kill().unwrap();
    child.wait().unwrap();
    bundle.wait_for("stopped");
    bundle.ok(&["delete", "c"]);
    assert!(!bundle.folder().exists());
}

#[test]
fn many_commands_at_once_see_one_container() {
    let bundle = Bundle::new("sleep 1000");
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| bundle.run(&["create", "c"]).code)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| bundle.run(&["start", "c"]).code)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| bundle.run(&["delete", "-f", "c"]).code)).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
}
