//! Images of containers and containers as archives: diff, commit, export, import.

use std::fs;
use std::process::Stdio;

use longshore_tests::Fixture;

#[test]
fn what_changed_is_listed_as_docker_does() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let script = "mkdir /new; echo x > /new/f; rm /etc/group; echo y > /tmp/t";
    d.ctl(&["run", "--name", "changed", "-v", "vol:/data", &f.busybox, "sh", "-c", script]).ok();
    let listed = d.ctl(&["diff", "changed"]).ok().stdout;
    for line in ["A /new", "A /new/f", "C /etc", "D /etc/group", "A /tmp/t"] {
        assert!(listed.lines().any(|have| have == line), "{line} in {listed}");
    }
    for made in ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf"] {
        assert!(!listed.lines().any(|line| line.ends_with(made)), "{made} in {listed}");
    }
    let unknown = d.ctl(&["diff", "nope"]).expect(1);
    assert!(unknown.stderr.contains("No such container: nope"), "{}", unknown.stderr);
    d.ctl(&["rm", "changed"]).ok();
    d.ctl(&["volume", "rm", "vol"]).ok();
}

#[test]
fn a_committed_container_is_an_image_that_runs_at_once() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&[
        "run",
        "-d",
        "--name",
        "cc",
        "-e",
        "MINE=1",
        &f.busybox,
        "sh",
        "-c",
        "echo x > /made; sleep 1000",
    ])
    .ok();
    longshore_tests::daemon::eventually("the file is there", || {
        d.ctl(&["exec", "cc", "cat", "/made"]).code == 0
    });
    let made = d.ctl(&[
        "commit",
        "-a",
        "me",
        "-m",
        "a message",
        "-c",
        "ENV A=b",
        "-c",
        "CMD [\"cat\",\"/made\"]",
        "-c",
        "EXPOSE 80",
        "-c",
        "LABEL l=m",
        "-c",
        "WORKDIR /etc",
        "cc",
        "img:1",
    ]);
    let id = made.ok().line().to_owned();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(d.ctl(&["run", "--rm", "img:1"]).ok().stdout, "x\n");
    let environment = d.ctl(&["run", "--rm", "img:1", "sh", "-c", "echo $MINE $A $PWD"]).ok();
    assert_eq!(environment.line(), "1 b /etc");
    let shown = d.ctl(&[
        "image",
        "inspect",
        "-f",
        "{{.Author}} {{json .Config.Labels}} {{json .Config.ExposedPorts}}",
        "img:1",
    ]);
    assert_eq!(shown.ok().line(), "me {\"l\":\"m\"} {\"80/tcp\":{}}");
    assert_eq!(d.ctl(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok().line(), "running", "and not paused");
    for (line, why) in [
        ("RUN x", "run is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("EXPOSE x", "Invalid containerPort: x"),
    ] {
        let refused = d.ctl(&["commit", "-c", line, "cc"]).expect(1);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    let nameless = d.ctl(&["commit", "cc"]).ok().line().to_owned();
    let listed = d.ctl(&["images", "--no-trunc", "--format", "{{.Repository}} {{.Tag}} {{.ID}}"]).ok().stdout;
    assert!(listed.contains(&format!("<none> <none> {nameless}")), "{listed}");
    assert_eq!(d.ctl(&["run", "--rm", &nameless, "cat", "/made"]).ok().stdout, "x\n");
    d.ctl(&["rm", "-f", "cc"]).ok();
}

#[test]
fn an_exported_container_is_imported_again() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "--name", "cc", &f.busybox, "sh", "-c", "echo x > /made"]).ok();
    let file = d.path().join("all.tar");
    d.ctl(&["export", "-o", &file.display().to_string(), "cc"]).ok();
    let names: Vec<String> = tar::Archive::new(fs::File::open(&file).expect("the archive"))
        .entries()
        .expect("a tar archive")
        .map(|entry| entry.expect("an entry").path().expect("a name").display().to_string())
        .collect();
    assert!(
        names.iter().any(|name| name == "made") && names.iter().any(|name| name == "bin/sh"),
        "{names:?}"
    );
    let import = d
        .ctl_command(&["import", "-m", "hello", "-c", "CMD [\"cat\",\"/made\"]", "-", "imp:1"])
        .stdin(Stdio::from(fs::File::open(&file).expect("the archive")))
        .output()
        .expect("import");
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    assert_eq!(d.ctl(&["run", "--rm", "imp:1"]).ok().stdout, "x\n");
    let garbage = d.path().join("garbage");
    fs::write(&garbage, "garbage").expect("a file");
    for (arguments, why) in [
        (["import", &garbage.display().to_string()], "rror"),
        (["import", "/no/such/file"], "open /no/such/file: no such file or directory"),
        (["import", "https://example.org/x.tar"], "importing from a URL is not built"),
        (["export", "nope"], "No such container: nope"),
    ] {
        let refused = d.ctl(&arguments).expect(1);
        assert!(refused.stderr.contains(why), "{arguments:?}: {}", refused.stderr);
    }
    d.ctl(&["rm", "cc"]).ok();
}
