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
    let note = bundle.dir.path().join("hook.pid");
    let script = format!("echo $$ > {}; exec sleep 1000", note.display());
    let hook = serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"] }]);
    spec["hooks"] = serde_json::json!({ "createRuntime": hook });
    std::fs::write(bundle.dir.path().join("config.json"), spec.to_string()).unwrap();
    let mut child = bundle.command(&["create", "c"]).spawn().unwrap();
    crate::bundle::eventually("it is being created", || {
        bundle.folder().join("state.json").exists() && bundle.state()["status"] == "creating"
    });
    bundle.fails(&["create", "c"], "container with given ID already exists");
    crate::bundle::eventually("the hook runs", || {
        std::fs::read_to_string(&note).is_ok_and(|text| text.ends_with('\n'))
    });
    let hook = std::path::Path::new("/proc").join(std::fs::read_to_string(&note).unwrap().trim());
    assert!(hook.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    bundle.wait_for("stopped");
    crate::bundle::eventually("the hook ends with its creator", || {
        // Whoever inherits it may not reap.
        std::fs::read_to_string(hook.join("stat")).map_or(true, |stat| stat.contains(") Z "))
    });
    bundle.ok(&["delete", "c"]);
    assert!(!bundle.folder().exists());
    let left = longshore_runtime::cgroups::CgroupPaths::open(&format!("/{}/c", bundle.id)).unwrap();
    assert!(left.hierarchies().is_empty(), "{:?}", left.hierarchies());
}

#[test]
fn a_half_made_container_is_not_taken_for_another_one_in_its_cgroup() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    // As `create` leaves it that was killed before it made anything.
    let state = std::fs::read_to_string(bundle.folder().join("state.json")).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
    (state["id"], state["container"], state["cgroups"]) = ("d".into(), ().into(), ().into());
    let half = bundle.root().join("d");
    std::fs::create_dir(&half).unwrap();
    std::fs::set_permissions(&half, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::write(half.join("state.json"), state.to_string()).unwrap();
    std::fs::copy(bundle.folder().join("config.json"), half.join("config.json")).unwrap();
    for file in ["state.json", "config.json"] {
        std::fs::set_permissions(half.join(file), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
    }
    bundle.ok(&["delete", "d"]);
    assert!(!half.exists());
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn a_cgroup_that_another_container_names_is_refused() {
    let bundle = Bundle::new("sleep 1000");
    bundle.ok(&["run", "-d", "c"]);
    bundle.fails(&["create", "d"], "has processes in it");
    bundle.ok(&["kill", "c", "KILL"]);
    bundle.wait_for("stopped");
    let deadline = std::time::Instant::now() + crate::bundle::PATIENCE;
    loop {
        let done = bundle.run(&["create", "d"]);
        assert_ne!(done.code, 0);
        if done.stderr.contains("container \\\"c\\\" has this cgroup") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{done:?}");
    }
    bundle.ok(&["delete", "c"]);
    bundle.ok(&["run", "-d", "d"]);
    bundle.ok(&["delete", "--force", "d"]);
}

#[test]
fn the_usual_parent_cgroup_goes_with_the_last_container() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    bundle.write();
    assert_eq!(bundle.run(&["run", "c"]).code, 0);
    // Others on this host may have theirs there, and come and go.
    crate::bundle::eventually("there is no empty parent", || {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let parents = hierarchies.map(|entry| entry.path().join("longshore"));
        let parents = parents.chain([std::path::PathBuf::from("/sys/fs/cgroup/longshore")]);
        let empty = |parent: &std::path::PathBuf| {
            let below = std::fs::read_dir(parent).map(|entries| entries.flatten().any(|e| e.path().is_dir()));
            below.is_ok_and(|any| !any)
        };
        !parents.into_iter().any(|parent| empty(&parent))
    });
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
