//! Disk use, why things are kept, and pruning all of it.

use longshore_tests::Fixture;
use longshore_tests::daemon::eventually;
use longshore_tests::image::{self, Layer};
use serde_json::Value;

#[test]
fn disk_use_is_told_as_docker_tells_it() {
    let Fixture { daemon, busybox, registry, .. } = &Fixture::pulled();
    let second = image::busybox().expect("busybox").layer(Layer::new().file("second", 0o644, &[7; 50_000]));
    registry.put("second", "1", &second.build().expect("an image"));
    let from = registry.reference("second:1");
    daemon.ctl(&["pull", "-q", &from]).ok();
    daemon.ctl(&["tag", &from, "second:1"]).ok();
    let rows = || -> Vec<Value> {
        let text = daemon.ctl(&["system", "df", "--format", "{{json .}}"]).ok().stdout;
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let kinds: Vec<String> =
        rows().iter().map(|row| row["Type"].as_str().unwrap_or_default().into()).collect();
    assert_eq!(kinds, ["Images", "Containers", "Local Volumes", "Build Cache"]);
    assert_eq!((&rows()[0]["TotalCount"], &rows()[0]["Active"]), (&"2".into(), &"0".into()));
    assert!(
        rows()[0]["Reclaimable"].as_str().is_some_and(|text| text.ends_with("MB (100%)")),
        "{:?}",
        rows()
    );

    daemon
        .ctl(&["run", "--name", "writer", busybox, "dd", "if=/dev/zero", "of=/x", "bs=1000", "count=100"])
        .ok();
    daemon.ctl(&["run", "-d", "--name", "sleeper", busybox, "sleep", "1000"]).ok();
    let told = rows();
    assert_eq!(
        (&told[0]["Active"], &told[1]["TotalCount"], &told[1]["Active"]),
        (&"1".into(), &"2".into(), &"1".into())
    );
    assert_ne!(told[1]["Size"], "0B");
    let text = daemon.ctl(&["system", "df"]).ok().stdout;
    assert!(text.starts_with("TYPE            TOTAL     ACTIVE    SIZE "), "{text}");
    assert!(text.ends_with("Build Cache     0         0         0B        0B\n"), "{text}");

    let verbose = daemon.ctl(&["system", "df", "-v"]).ok().stdout;
    for heading in [
        "Images space usage:\n\nREPOSITORY ",
        "\n\nContainers space usage:\n\nCONTAINER ID   IMAGE ",
        "\n\nLocal Volumes space usage:\n\nVOLUME NAME   LINKS     SIZE\n",
        "\nBuild cache usage: 0B\n\nCACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED\n",
    ] {
        assert!(verbose.contains(heading), "{heading:?} in {verbose}");
    }
    let all: Value =
        serde_json::from_str(&daemon.ctl(&["system", "df", "-v", "--format", "{{json .}}"]).ok().stdout)
            .expect("JSON");
    let of = |repository: &str| {
        let images = all["Images"].as_array().cloned().unwrap_or_default();
        images
            .into_iter()
            .find(|image| image["Repository"].as_str().is_some_and(|name| name.ends_with(repository)))
    };
    let (second, first) = (of("second").expect("an image"), of("busybox").expect("an image"));
    assert_eq!(first["UniqueSize"], "0B", "all of it is in the other one, too: {all}");
    assert_eq!(first["SharedSize"], second["SharedSize"]);
    assert!(second["UniqueSize"].as_str().is_some_and(|size| size.ends_with("kB")), "{second}");
    assert_eq!(first["Containers"], "2");

    // Why something is kept.
    let why = daemon.ctl(&["system", "df", "--why"]).ok().stdout;
    let line =
        |kind: &str, holder: &str| why.lines().any(|line| line.starts_with(kind) && line.contains(holder));
    assert!(line("blob", &format!("image {from}")) && line("blob", &format!("image {busybox}")), "{why}");
    assert!(line("snapshot", "container writer") && line("snapshot", "container sleeper"), "{why}");
    daemon.ctl(&["volume", "create", "idle"]).ok();
    daemon.ctl(&["create", "--name", "keeper", "-v", "kept:/kept", busybox, "true"]).ok();
    let why = daemon.ctl(&["system", "df", "--why"]).ok().stdout;
    let volume = |name: &str, holder: &str| {
        let mut lines = why.lines().filter(|line| line.starts_with("volume"));
        lines.any(|line| line.contains(name) && line.contains(holder))
    };
    assert!(volume("kept", "container keeper") && volume("idle", "no container"), "{why}");
}

#[test]
fn what_nothing_needs_is_pruned() {
    let Fixture { daemon, busybox, registry, .. } = &Fixture::pulled();
    let second = image::busybox().expect("busybox").config("Labels", serde_json::json!({"keep": "1"}));
    registry.put("second", "1", &second.build().expect("an image"));
    let labelled = registry.reference("second:1");
    daemon.ctl(&["pull", "-q", &labelled]).ok();
    let stopped = daemon.ctl(&["create", "--name", "stopped", busybox, "true"]).ok().line().to_owned();
    // Asked, and not answered with yes.
    let asked = daemon.ctl(&["system", "prune"]);
    assert!(
        asked.stdout.starts_with("WARNING! This will remove:\n  - all stopped containers\n"),
        "{}",
        asked.stdout
    );
    assert!(asked.stdout.ends_with("Are you sure you want to continue? [y/N] "), "{}", asked.stdout);
    assert_eq!(daemon.ctl(&["ps", "-aq"]).ok().line().len(), 12);
    let filtered = daemon.ctl(&["system", "prune", "-a", "--filter", "label!=keep", "--filter", "until=1h"]);
    assert!(
        filtered.stdout.contains("  - all images without at least one container associated to them\n")
            && filtered
                .stdout
                .contains("\n  Items to be pruned will be filtered with:\n  - label!=keep\n  - until=1h\n"),
        "{}",
        filtered.stdout
    );
    let pruned = daemon.ctl(&["system", "prune", "-f"]).ok().stdout;
    assert!(pruned.starts_with(&format!("Deleted Containers:\n{stopped}\n\n")), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(daemon.ctl(&["images", "-q"]).ok().line().lines().count(), 2, "tagged images stay");
    let pruned = daemon.ctl(&["system", "prune", "-a", "-f", "--filter", "label!=keep"]).ok().stdout;
    assert!(pruned.contains("Deleted Images:\n") && pruned.contains("untagged: "), "{pruned}");
    assert_eq!(daemon.ctl(&["images", "-q"]).ok().line().lines().count(), 1, "the labelled one stays");
    daemon.ctl(&["system", "prune", "-a", "-f"]).ok();
    eventually("nothing is left", || daemon.ctl(&["system", "df", "--why"]).ok().stdout.lines().count() == 1);
}

#[test]
fn volumes_are_counted_and_pruned_where_that_is_asked_for() {
    let Fixture { daemon, busybox, .. } = &Fixture::pulled();
    daemon.ctl(&["volume", "create", "named"]).ok();
    let anonymous = daemon.ctl(&["volume", "create"]).ok().line().to_owned();
    daemon.ctl(&["create", "--name", "has", "-v", "named:/data", busybox, "true"]).ok();
    let row = daemon.ctl(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]).ok().stdout;
    assert!(row.contains("Local Volumes 2 1\n"), "{row}");
    let verbose = daemon.ctl(&["system", "df", "-v"]).ok().stdout;
    let line = |name: &str| verbose.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    assert!(line("named ").is_some_and(|line| line.contains(" 1 ")), "{verbose}");
    let refused = daemon.ctl(&["system", "prune", "--volumes", "--filter", "until=1h"]).expect(1);
    assert_eq!(refused.stderr, "ERROR: The \"until\" filter is not supported with \"--volumes\"\n");
    let pruned = daemon.ctl(&["system", "prune", "-f", "--volumes"]).ok().stdout;
    assert!(pruned.contains(&format!("Deleted Volumes:\n{anonymous}\n\n")), "{pruned}");
    assert_eq!(daemon.ctl(&["volume", "ls", "-q"]).ok().line(), "named");
}

#[test]
fn info_has_docker_s_lines() {
    let Fixture { daemon, .. } = &Fixture::pulled();
    let info = daemon.ctl(&["info"]).ok().stdout;
    for line in [
        "Client:",
        "Server:",
        " Containers: 0",
        "  Running: 0",
        " Images: 1",
        " Cgroup Driver: cgroupfs",
        " Security Options:",
        "  seccomp",
        " OSType: linux",
        " Insecure Registries:",
        "  127.0.0.0/8",
        " Live Restore Enabled: true",
    ] {
        assert!(info.lines().any(|shown| shown == line), "{line:?} in {info}");
    }
    assert_eq!(daemon.ctl(&["system", "info", "-f", "{{.Images}} {{.OSType}}"]).ok().line(), "1 linux");
    let json: Value = serde_json::from_str(&daemon.ctl(&["info", "-f", "json"]).ok().stdout).expect("JSON");
    assert!(
        json["ID"].as_str().is_some_and(|id| !id.is_empty()) && json["NCPU"].as_u64() > Some(0),
        "{json}"
    );
}
