//! What is printed of containers, images, logs and events, and in which form.

use std::io::Read;

use crate::engine::{Engine, ID};
use crate::{call, call_with_input, longshore, start};

#[test]
fn ps_looks_like_docker_s() {
    let engine = Engine::start();
    let said = call(&engine, &["ps"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!(
        lines[0],
        "CONTAINER ID   IMAGE     COMMAND                  CREATED       STATUS         PORTS     NAMES"
    );
    assert!(lines[1].starts_with("0123456789ab   busybox   \"sh -c 'sleep 1000; …\"   "), "{}", lines[1]);
    assert!(lines[1].ends_with("Up 3 minutes             bold_ritchie"), "{}", lines[1]);
    for (arguments, out) in [
        (&["ps", "-q"][..], "0123456789ab\n"),
        (&["ps", "-q", "--no-trunc"], &format!("{ID}\n")),
        (
            &["ps", "--format", "{{.ID}}: {{.Names}} {{.State}} {{.Labels}}"],
            "0123456789ab: bold_ritchie running a=1,b=2\n",
        ),
        (
            &["ps", "--format", r"table {{.Names}}\t{{.Status}}"],
            "NAMES          STATUS\nbold_ritchie   Up 3 minutes\n",
        ),
        (&["ps", "--format", "{{.Label \"a\"}}{{.Label \"none\"}}"], "1\n"),
        (&["ps", "-s", "--format", "{{.Size}}"], "12B (virtual 4.26MB)\n"),
        (&["container", "ls", "--format={{.CreatedAt}}"], "2023-11-14 22:13:20 +0000 UTC\n"),
    ] {
        let said = call(&engine, arguments);
        assert_eq!((said.code, said.out.as_str()), (0, out), "{arguments:?} {said:?}");
    }
    let json = call(&engine, &["ps", "--format", "json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["Names"].as_str(), json["State"].as_str()), (Some("bold_ritchie"), Some("running")));
    let said = call(&engine, &["ps", "--format", "{{.Foo}}"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err
            == "failed to execute template: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext\n",
        "{said:?}"
    );
    call(&engine, &["ps", "-n", "3", "-f", "status=exited", "--filter", "name=x"]);
    assert_eq!(engine.calls().last().unwrap(), "list all=true last=3 [\"status=exited\", \"name=x\"]");
}

#[test]
fn images_look_like_docker_s() {
    let engine = Engine::start();
    let said = call(&engine, &["images"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(
        lines[0].starts_with("REPOSITORY               TAG       IMAGE ID       CREATED"),
        "{}",
        lines[0]
    );
    assert!(lines[1].starts_with("busybox                  latest    0123456789ab   "), "{}", lines[1]);
    assert!(lines[2].starts_with("127.0.0.1:5000/busybox   1         0123456789ab   "), "{}", lines[2]);
    assert!(lines[3].starts_with("<none>                   <none>    999999999999   "), "{}", lines[3]);
    assert!(lines[1].ends_with("   4.26MB"));
    assert_eq!(call(&engine, &["images", "-q"]).out, "0123456789ab\n0123456789ab\n999999999999\n");
    call(&engine, &["images", "busy*"]);
    assert_eq!(engine.calls().last().unwrap(), "images [\"reference=busy*\"]");
    let said = call(&engine, &["rmi", "busybox:latest", "nosuch"]);
    assert_eq!(said.code, 1);
    assert_eq!(said.out, format!("Untagged: busybox:latest\nDeleted: sha256:{ID}\n"));
    assert_eq!(said.err, "Error response from daemon: No such image: nosuch:latest\n");
}

#[test]
fn inspect_finds_containers_and_images() {
    let engine = Engine::start();
    let said = call(&engine, &["inspect", "c", "busybox"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json[0]["Name"], "/bold_ritchie");
    assert_eq!(json[0]["State"]["ExitCode"], 7);
    assert_eq!(json[1]["Config"]["Cmd"][0], "sh");
    assert!(said.out.starts_with("[\n    {\n        \"Id\": \"0123"), "{}", said.out);
    for (arguments, out) in [
        (
            &["inspect", "-f", "{{.State.ExitCode}} {{.Path}} {{json .Args}}", "c"][..],
            "7 sh [\"-c\",\"exit 7\"]\n",
        ),
        (
            &["image", "inspect", "-f", "{{.Os}}/{{.Architecture}} {{index .Config.Env 0}}", "busybox"],
            "linux/amd64 A=1\n",
        ),
        (&["container", "inspect", "--format", "{{.State.Running}}", "c"], "true\n"),
    ] {
        let said = call(&engine, arguments);
        assert_eq!((said.code, said.out.as_str()), (0, out), "{said:?}");
    }
    let said = call(&engine, &["inspect", "nosuch"]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (1, "[]\n", "Error: No such object: nosuch\n")
    );
    let said = call(&engine, &["container", "inspect", "nosuch"]);
    assert_eq!(said.err, "Error response from daemon: No such container: nosuch\n");
    assert_eq!(call(&engine, &["inspect", "-f", "{{.Nope}}", "c"]).code, 1);
}

#[test]
fn each_of_several_is_tried() {
    let engine = Engine::start();
    for verb in ["stop", "kill", "restart", "pause", "unpause", "rm", "start"] {
        let said = call(&engine, &[verb, "a", "nosuch", "b"]);
        assert_eq!((said.code, said.out.as_str()), (1, "a\nb\n"), "{verb} {said:?}");
        assert!(
            said.err.starts_with("Error response from daemon: No such container: nosuch\n"),
            "{verb} {said:?}"
        );
    }
    assert!(call(&engine, &["start", "nosuch"]).err.ends_with("failed to start containers: nosuch\n"));
    let said = call(&engine, &["rm", "-f", "nosuch"]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (0, "Error response from daemon: No such container: nosuch\n")
    );
    assert_eq!(call(&engine, &["wait", "a", "b"]).out, "7\n7\n");
    call(&engine, &["stop", "-s", "INT", "-t", "-1", "c"]);
    assert_eq!(engine.calls().last().unwrap(), "stop \"INT\" Some(-1) c");
    assert_eq!(call(&engine, &["rename", "a", "b"]).code, 0);
    assert_eq!(call(&engine, &["tag", "a", "b"]).code, 0);
}

#[test]
fn logs_keep_streams_and_lines_apart() {
    let engine = Engine::start();
    let said = call(&engine, &["logs", "c"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("one\ncut line\n", "two\n"));
    let said = call(&engine, &["logs", "-t", "-n", "5", "--since", "10m", "c"]);
    assert_eq!(said.out, "2023-11-14T22:13:20.000000001Z one\n2023-11-14T22:13:20.000000003Z cut line\n");
    assert_eq!(engine.calls().last().unwrap(), "logs follow=false tail=Some(5) since=true");
    let said = call(&engine, &["logs", "nosuch"]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "Error response from daemon: No such container: nosuch\n")
    );
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let engine = Engine::start();
    let mut child = start(longshore(&engine).args(["logs", "-f", "c"]));
    let mut first = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let said = crate::Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (141, "two\n"));
    engine.wait_for_call("reader left");
}

#[test]
fn prune_asks_first() {
    let engine = Engine::start();
    let said = call(&engine, &["container", "prune"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("container prune has been cancelled") && engine.calls().is_empty(), "{said:?}");
    let said = call_with_input(&engine, &["container", "prune"], b"y\n");
    assert!(
        said.out.ends_with(&format!("Deleted Containers:\n{ID}\n\nTotal reclaimed space: 12B\n")),
        "{said:?}"
    );
    assert_eq!(call(&engine, &["image", "prune", "-f"]).out, "Total reclaimed space: 0B\n");
}

#[test]
fn the_rest_is_readable() {
    let engine = Engine::start();
    assert_eq!(
        call(&engine, &["events"]).out,
        format!("2023-11-14T22:13:20.000000005+00:00 container start {ID} (image=busybox, name=x)\n")
    );
    assert_eq!(
        call(&engine, &["events", "--format", "{{.Action}} {{.Actor.Attributes.name}}"]).out,
        "start x\n"
    );
    let said = call(&engine, &["stats", "--no-stream"]);
    assert!(
        said.out.starts_with("CONTAINER ID   NAME           CPU %     MEM USAGE / LIMIT   MEM %     NET I/O"),
        "{said:?}"
    );
    assert!(said.out.contains("1.25%     1MiB / 4MiB         25.00%    1.5kB / 0B"), "{said:?}");
    let said = call(&engine, &["top", "c", "-o", "pid"]);
    assert_eq!(said.out.lines().next().unwrap(), "UID                 PID                 CMD");
    assert_eq!(engine.calls().last().unwrap(), "top [\"-o\", \"pid\"]");
    assert!(call(&engine, &["version"]).out.contains("Server:\n Version:          9.9"));
    assert_eq!(call(&engine, &["version", "-f", "{{.Server.Version}}"]).out, "9.9\n");
    let said = call(&engine, &["info"]);
    assert!(said.out.contains(" Containers: 3\n") && said.err == "WARNING: no swap\n", "{said:?}");
    assert_eq!(call(&engine, &["info", "-f", "{{.Containers}}"]).out, "3\n");
}
