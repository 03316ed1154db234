//! Volumes as a user of docker knows them: made, filled from the image, shared, protected, removed; and whole after the daemon died.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use longshore_tests::{Daemon, Fixture, image};
use serde_json::json;

fn volumes(daemon: &Daemon) -> Vec<String> {
    daemon.ctl(&["volume", "ls", "-q"]).ok().stdout.lines().map(str::to_owned).collect()
}

fn mountpoint(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    daemon.ctl(&["volume", "inspect", "-f", "{{.Mountpoint}}", name]).ok().line().into()
}

/// An image with a folder to be copied up, and a volume of its own.
fn with_data(f: &Fixture) -> String {
    let layer = image::Layer::new()
        .raw("srv/", tar::EntryType::Directory, 0o2750, (7, 8), "", b"")
        .raw("srv/file", tar::EntryType::Regular, 0o640, (9, 10), "", b"from the image")
        .raw("srv/also", tar::EntryType::Link, 0o640, (9, 10), "srv/file", b"")
        .raw("srv/link", tar::EntryType::Symlink, 0o777, (0, 0), "/etc/passwd", b"");
    let image = image::busybox().expect("busybox").layer(layer).config("Volumes", json!({"/own": {}}));
    f.registry.put("data", "1", &image.build().expect("an image"));
    f.registry.reference("data:1")
}

#[test]
fn names_options_and_refusals_are_dockers() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let made = d.ctl(&["volume", "create"]).ok();
    assert_eq!(made.line().len(), 64);
    assert_eq!(d.ctl(&["volume", "create", "--label", "a=b", "v1"]).ok().line(), "v1");
    assert_eq!(d.ctl(&["volume", "create", "v1"]).ok().line(), "v1");
    for (arguments, why) in [
        (
            &["volume", "create", "-d", "nope", "v2"][..],
            "create v2: error looking up volume plugin nope: plugin \"nope\" not found",
        ),
        (
            &["volume", "create", "x"],
            "create x: volume name is too short, names should be at least two alphanumeric characters",
        ),
        (
            &["volume", "create", "a/b"],
            "create a/b: \"a/b\" includes invalid characters for a local volume name",
        ),
        (&["volume", "create", "-o", "foo=bar", "v3"], "create v3: invalid option: \"foo\""),
        (&["volume", "create", "-o", "type=tmpfs", "v3"], "create v3: missing required option: \"device\""),
        (&["volume", "rm", "nope"], "get nope: no such volume"),
        (&["volume", "inspect", "nope"], "get nope: no such volume"),
        (&["volume", "ls", "--filter", "foo=bar"], "Invalid filter 'foo'"),
    ] {
        let refused = d.ctl(arguments).expect(1);
        assert!(refused.stderr.contains(why), "{arguments:?}: {}", refused.stderr);
    }
    d.ctl(&["volume", "rm", "-f", "nope"]).ok();
    let shown =
        d.ctl(&["volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels.a}}", "v1"]).ok();
    assert_eq!(shown.line(), "v1 local local b");
    assert_eq!(d.ctl(&["volume", "ls", "-q", "--filter", "label=a"]).ok().line(), "v1");
    let pruned = d.ctl(&["volume", "prune", "-f"]).ok();
    assert!(pruned.stdout.contains(made.line()) && !pruned.stdout.contains("v1"), "{}", pruned.stdout);
    assert!(d.ctl(&["volume", "prune", "-a", "-f"]).ok().stdout.contains("v1"));
    assert!(volumes(d).is_empty());
}

#[test]
fn a_volume_is_filled_from_the_image_once_and_outlives_its_containers() {
    let mut f = Fixture::pulled();
    let data = with_data(&f);
    let d = &f.daemon;
    let script = "cat /srv/file; echo more > /srv/new";
    assert_eq!(
        d.ctl(&["run", "--rm", "-v", "kept:/srv", &data, "sh", "-c", script]).ok().stdout,
        "from the image"
    );
    let folder = mountpoint(d, "kept");
    let meta = fs::metadata(&folder).expect("the volume's folder");
    assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o7777), (7, 8, 0o2750));
    let file = fs::metadata(folder.join("file")).expect("a file");
    assert_eq!((file.uid(), file.mode() & 0o7777, file.nlink()), (9, 0o640, 2));
    assert_eq!(fs::read_link(folder.join("link")).expect("a link").to_str(), Some("/etc/passwd"));
    let empty = d.ctl(&[
        "run",
        "--rm",
        "--mount",
        "type=volume,src=plain,dst=/srv,volume-nocopy",
        &data,
        "ls",
        "/srv",
    ]);
    assert_eq!(empty.ok().stdout, "");
    f.daemon.kill();
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    assert_eq!(volumes(d), ["kept", "plain"], "the image's own went with its container");
    assert_eq!(
        d.ctl(&["run", "--rm", "-v", "kept:/x:ro", &f.busybox, "cat", "/x/new"]).ok().stdout,
        "more\n"
    );
    let refused = d.ctl(&["run", "--rm", "-v", "kept:/x:ro", &f.busybox, "touch", "/x/y"]).expect(1);
    assert!(refused.stderr.contains("Read-only"), "{}", refused.stderr);
    d.ctl(&["volume", "rm", "kept", "plain"]).ok();
    assert!(!folder.exists());
}

#[test]
fn what_a_container_has_is_protected_and_what_has_no_name_goes_with_it() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let data = with_data(&f);
    let id = d.ctl(&["create", "--name", "one", "-v", "named:/n", "-v", "/anonymous", &data, "true"]).ok();
    assert_eq!(volumes(d).len(), 3, "with the image's own");
    let refused = d.ctl(&["volume", "rm", "named"]).expect(1);
    let why = format!("remove named: volume is in use - [{}]", id.line());
    assert!(refused.stderr.contains(&why), "{}", refused.stderr);
    assert!(d.ctl(&["volume", "prune", "-a", "-f"]).ok().stdout.starts_with("Total reclaimed space: 0B"));
    d.ctl(&["create", "--name", "two", "--volumes-from", "one:ro", &f.busybox, "true"]).ok();
    let mounts = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}};{{end}}";
    let shown = d.ctl(&["inspect", "-f", mounts, "two"]).ok();
    let mut shown: Vec<&str> = shown.line().split_terminator(';').collect();
    shown.sort_unstable();
    assert_eq!(shown, ["volume /anonymous false", "volume /n false", "volume /own false"]);
    d.ctl(&["rm", "-v", "one"]).ok();
    assert_eq!(volumes(d).len(), 3, "another container has them still");
    d.ctl(&["rm", "-v", "two"]).ok();
    assert_eq!(volumes(d), ["named"]);
    d.ctl(&["run", "--name", "three", "-v", "/anonymous", &f.busybox, "true"]).ok();
    d.ctl(&["rm", "three"]).ok();
    assert_eq!(d.ctl(&["volume", "ls", "-q", "--filter", "dangling=true"]).ok().stdout.lines().count(), 2);
    d.ctl(&["volume", "prune", "-a", "-f"]).ok();
    for (arguments, why) in [
        (&["--volumes-from", "nobody"][..], "No such container: nobody"),
        (
            &["--mount", "type=bind,src=/no/such/folder,dst=/x"],
            "bind source path does not exist: /no/such/folder",
        ),
        (&["-v", "a/b:/x"], "includes invalid characters for a local volume name"),
        (&["-v", "named:/etc/passwd"], "cannot mount volume over existing file, file exists"),
    ] {
        let mut command = vec!["create"];
        command.extend(arguments);
        command.extend([f.busybox.as_str(), "true"]);
        let refused = d.ctl(&command);
        assert!(refused.code != 0 && refused.stderr.contains(why), "{arguments:?}: {}", refused.stderr);
    }
    assert!(d.ctl(&["ps", "-aq"]).ok().stdout.is_empty());
    longshore_tests::daemon::eventually("nothing half-made is left", || volumes(d).is_empty());
}

#[test]
fn a_volume_with_options_is_mounted_while_containers_run_with_it() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,mode=700", "mem"])
        .ok();
    let folder = mountpoint(d, "mem");
    let mounted = |folder: &std::path::Path| {
        fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains(&folder.display().to_string())
    };
    d.ctl(&[
        "run",
        "-d",
        "--name",
        "first",
        "-v",
        "mem:/m",
        &f.busybox,
        "sh",
        "-c",
        "echo x > /m/f; exec sleep 1000",
    ])
    .ok();
    d.ctl(&["run", "-d", "--name", "second", "-v", "mem:/m", &f.busybox, "sleep", "1000"]).ok();
    assert!(mounted(&folder));
    longshore_tests::daemon::eventually("the two share it", || {
        d.ctl(&["exec", "second", "cat", "/m/f"]).stdout == "x\n"
    });
    d.ctl(&["rm", "-f", "first"]).ok();
    assert!(mounted(&folder));
    f.daemon.kill();
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    assert!(mounted(&folder), "a container runs with it");
    d.ctl(&["rm", "-f", "second"]).ok();
    assert!(!mounted(&folder), "nobody does");
    d.ctl(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device=/no/such/folder", "bad"])
        .ok();
    let refused = d.ctl(&["run", "--rm", "-v", "bad:/x", &f.busybox, "true"]).expect(125);
    assert!(
        refused.stderr.contains("failed to mount local volume: mount /no/such/folder:")
            && refused.stderr.contains("flags: 0x1000: no such file or directory"),
        "{}",
        refused.stderr
    );
    d.ctl(&["volume", "rm", "mem", "bad"]).ok();
}

#[test]
fn a_folder_within_a_volume_does_not_lead_out_of_it() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["volume", "create", "vol"]).ok();
    let folder = mountpoint(d, "vol");
    fs::create_dir_all(folder.join("in/side")).expect("folders");
    fs::write(folder.join("in/side/f"), "within").expect("a file");
    symlink("/etc", folder.join("out")).expect("a link");
    let mount = |subpath: &str| format!("type=volume,src=vol,dst=/x,volume-subpath={subpath}");
    let read = d.ctl(&["run", "--rm", "--mount", &mount("in/side"), &f.busybox, "cat", "/x/f"]).ok();
    assert_eq!(read.stdout, "within");
    for escaping in ["out", "../..", "in/../../.."] {
        let refused = d.ctl(&["run", "--rm", "--mount", &mount(escaping), &f.busybox, "ls", "/x"]);
        assert!(refused.code != 0, "{escaping}: {}", refused.stdout);
    }
    d.ctl(&["volume", "rm", "vol"]).ok();
}

#[test]
fn memory_and_binds_have_their_options() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let options = |arguments: &[&str], place: &str| {
        let mut command = vec!["run", "--rm"];
        command.extend(arguments);
        let script = format!("grep ' {place} ' /proc/mounts");
        command.extend([f.busybox.as_str(), "sh", "-c", &script]);
        d.ctl(&command).ok().stdout
    };
    let plain = options(&["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700"], "/t");
    for word in ["tmpfs", "noexec", "nosuid", "nodev", "size=1024k", "mode=700"] {
        assert!(plain.contains(word), "{word}: {plain}");
    }
    assert!(!options(&["--tmpfs", "/t:exec,size=2m"], "/t").contains("noexec"));
    let host = f.daemon.path().join("shared");
    fs::create_dir_all(host.join("below")).expect("folders");
    let bind = format!("type=bind,src={},dst=/b,readonly", host.display());
    assert!(options(&["--mount", &bind], "/b").contains("ro,"));
    let made = f.daemon.path().join("made/by/v");
    d.ctl(&["run", "--rm", "-v", &format!("{}:/b", made.display()), &f.busybox, "true"]).ok();
    assert!(made.is_dir());
}

#[test]
fn a_folder_within_a_volume_that_is_mounted_when_it_is_needed() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let host = d.path().join("device");
    fs::create_dir_all(host.join("in")).expect("folders");
    fs::write(host.join("in/f"), "within").expect("a file");
    let device = format!("device={}", host.display());
    d.ctl(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "vol"]).ok();
    let mount = "type=volume,src=vol,dst=/x,volume-subpath=in,volume-nocopy";
    let read = d.ctl(&["run", "--rm", "--mount", mount, &f.busybox, "cat", "/x/f"]).ok();
    assert_eq!(read.stdout, "within");
    d.ctl(&["create", "--name", "later", "--mount", mount, &f.busybox, "cat", "/x/f"]).ok();
    for _ in 0..2 {
        assert_eq!(d.ctl(&["start", "-a", "later"]).ok().stdout, "within");
    }
    let out = d.path().join("out").display().to_string();
    d.ctl(&["cp", "later:/x/f", &out]).ok();
    assert_eq!(fs::read_to_string(&out).expect("a copy"), "within");
    // As with docker, it is looked for when the container starts.
    let absent = "type=volume,src=vol,dst=/x,volume-subpath=yet,volume-nocopy";
    d.ctl(&["create", "--name", "absent", "--mount", absent, &f.busybox, "ls", "/x"]).ok();
    let refused = d.ctl(&["start", "absent"]).expect(1);
    assert!(refused.stderr.contains("cannot access path \"yet\" of volume vol"), "{}", refused.stderr);
    fs::create_dir(host.join("yet")).expect("a folder");
    d.ctl(&["start", "-a", "absent"]).ok();
    d.ctl(&["rm", "later", "absent"]).ok();
    let data = mountpoint(d, "vol").display().to_string();
    assert!(!fs::read_to_string("/proc/self/mountinfo").expect("mounts").contains(&data));
    d.ctl(&["volume", "rm", "vol"]).ok();
}

/// Files of an image that take a while to be copied.
const MANY: usize = 3000;

fn with_many(f: &Fixture) -> String {
    let layer = (0..MANY).fold(image::Layer::new().dir("srv/", 0o755), |layer, number| {
        layer.file(&format!("srv/{number}"), 0o644, &[b'x'; 2000])
    });
    let image = image::busybox().expect("busybox").layer(layer).build().expect("an image");
    f.registry.put("many", "1", &image);
    let reference = f.registry.reference("many:1");
    f.daemon.ctl(&["pull", "-q", &reference]).ok();
    reference
}

#[test]
fn two_containers_that_are_made_at_once_with_one_new_volume() {
    let f = Fixture::pulled();
    let (d, many) = (&f.daemon, with_many(&f));
    for round in 0..4 {
        let name = format!("race{round}");
        d.ctl(&["volume", "create", &name]).ok();
        let filling = d
            .ctl_command(&[
                "run",
                "--rm",
                "-v",
                &format!("{name}:/srv"),
                &many,
                "sh",
                "-c",
                "ls /srv | wc -l",
            ])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("longshore runs");
        std::thread::sleep(std::time::Duration::from_millis(20 + 40 * round));
        let mount = format!("type=volume,src={name},dst=/x,volume-nocopy");
        // It does not fill the volume, and may use it at once.
        d.ctl(&["run", "--rm", "--mount", &mount, &f.busybox, "touch", "/x/mark"]).ok();
        let filled = longshore_tests::daemon::finish(filling).expect("the first one ends").ok();
        let count: usize = filled.line().parse().expect("a number");
        let folder = mountpoint(d, &name);
        assert!(folder.join("mark").exists(), "round {round}: what the second one wrote is lost");
        let there = fs::read_dir(&folder).expect("the volume").count();
        // Whoever came first: either it was filled, whole, or it had a file already, and was not.
        assert!(there == MANY + 1 || there == 1, "round {round}: {there} files, {count} seen");
        d.ctl(&["volume", "rm", &name]).ok();
    }
}

#[test]
fn a_copy_up_whose_client_goes_away_is_whole_or_nothing() {
    let f = Fixture::pulled();
    let (d, many) = (&f.daemon, with_many(&f));
    for round in 0..4 {
        let name = format!("gone{round}");
        d.ctl(&["volume", "create", &name]).ok();
        let volume = format!("{name}:/srv");
        let mut client = d
            .ctl_command(&["create", "-v", &volume, &many, "true"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("longshore runs");
        std::thread::sleep(std::time::Duration::from_millis(20 + 30 * round));
        client.kill().expect("the client can be killed");
        client.wait().expect("the client ends");
        let counted = d.ctl(&["run", "--rm", "-v", &volume, &many, "sh", "-c", "ls /srv | wc -l"]).ok();
        assert_eq!(counted.line(), MANY.to_string(), "round {round}");
        for id in d.ctl(&["ps", "-aq"]).ok().stdout.lines() {
            d.ctl(&["rm", id]).ok();
        }
        d.ctl(&["volume", "rm", &name]).ok();
    }
}

#[test]
fn a_volume_that_is_added_later_is_filled_from_the_image() {
    let f = Fixture::pulled();
    let (d, data) = (&f.daemon, with_data(&f));
    d.ctl(&["create", "--name", "one", &data, "cat", "/srv/file"]).ok();
    d.ctl(&["update", "--mount", "type=volume,src=added,dst=/srv", "one"]).ok();
    assert_eq!(
        fs::read_to_string(mountpoint(d, "added").join("file")).expect("a file of the image"),
        "from the image"
    );
    assert_eq!(d.ctl(&["start", "-a", "one"]).ok().stdout, "from the image");
    d.ctl(&["update", "--unmount", "/srv", "one"]).ok();
    d.ctl(&["update", "--mount", "type=volume,src=empty,dst=/srv,volume-nocopy", "one"]).ok();
    assert_eq!(fs::read_dir(mountpoint(d, "empty")).expect("the volume").count(), 0);
}

#[test]
fn images_are_mounted_read_only_and_stay_as_they_are() {
    let mut f = Fixture::pulled();
    let data = with_data(&f);
    let d = &f.daemon;
    let mount = |more: &str| format!("type=image,src={data},dst=/i{more}");
    let refused = d.ctl(&["create", "--mount", &mount(""), &f.busybox, "true"]);
    assert!(refused.code != 0 && refused.stderr.contains("No such image"), "{}", refused.stderr);
    d.ctl(&["pull", "-q", &data]).ok();
    let read = d.ctl(&["run", "--rm", "--mount", &mount(""), &f.busybox, "cat", "/i/srv/file"]).ok();
    assert_eq!(read.stdout, "from the image");
    let refused = d.ctl(&["run", "--rm", "--mount", &mount(""), &f.busybox, "touch", "/i/srv/new"]).expect(1);
    assert!(refused.stderr.contains("Read-only"), "{}", refused.stderr);
    let within = mount(",image-subpath=srv");
    d.ctl(&["create", "--name", "within", "--mount", &within, &f.busybox, "cat", "/i/file"]).ok();
    let out = d.path().join("out").display().to_string();
    d.ctl(&["cp", "within:/i/file", &out]).ok();
    assert_eq!(fs::read_to_string(&out).expect("a copy"), "from the image");
    let refused = d.ctl(&["cp", &out, "within:/i/new"]).expect(1);
    assert!(refused.stderr.contains("mounted volume is marked read-only"), "{}", refused.stderr);
    for escaping in ["srv/link", "nowhere"] {
        let mount = mount(&format!(",image-subpath={escaping}"));
        let refused = d.ctl(&["run", "--rm", "--mount", &mount, &f.busybox, "true"]);
        assert!(refused.code != 0 && refused.stderr.contains("of image"), "{escaping}: {}", refused.stderr);
    }
    let refused = d.ctl(&["rmi", &data]).expect(1);
    assert!(refused.stderr.contains("is using its referenced image"), "{}", refused.stderr);
    // With its name the image is gone, and its layers stay for the container.
    d.ctl(&["rmi", "-f", &data]).ok();
    f.daemon.kill();
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    for _ in 0..2 {
        assert_eq!(d.ctl(&["start", "-a", "within"]).ok().stdout, "from the image");
    }
    let shown = d.ctl(&["inspect", "-f", "{{range .Mounts}}{{.Type}} {{.RW}}{{end}}", "within"]).ok();
    assert_eq!(shown.line(), "image false");
    d.ctl(&["pull", "-q", &data]).ok();
    d.ctl(&["run", "-d", "--name", "runs", "--volumes-from", "within", &f.busybox, "sleep", "1000"]).ok();
    assert_eq!(d.ctl(&["exec", "runs", "cat", "/i/file"]).ok().stdout, "from the image");
    d.ctl(&["create", "--name", "never", "--mount", &mount(""), &f.busybox, "true"]).ok();
    assert!(d.ctl(&["system", "df", "--why"]).ok().stdout.contains("-image-"));
    d.ctl(&["rm", "-f", "within", "runs", "never"]).ok();
    let folder = d.root().display().to_string();
    longshore_tests::daemon::eventually("neither a mount nor a view is left", || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let views = d.ctl(&["system", "df", "--why"]).ok().stdout;
        !mounts.contains(&format!("{folder}/containers")) && !views.contains("-image-")
    });
}
