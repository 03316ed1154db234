//! Mirrors and settings of hosts by containerd's `hosts.toml`, with several registries on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use longshore_tests::Daemon;
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::image;
use longshore_tests::registry::{Access, Fault, Registry};

/// A daemon that reads hosts directories below a folder.
fn daemon(folder: &Path) -> Daemon {
    let config = format!("[registry]\nconfig_path = [\"{}\"]\n", folder.display());
    Daemon::with(Settings { config, ..Settings::default() }).expect("a daemon")
}

fn hosts(folder: &Path, registry: &str, text: &str) {
    let own = folder.join(registry);
    fs::create_dir_all(&own).expect("a folder");
    fs::write(own.join("hosts.toml"), text).expect("a file");
}

fn serving(tag: &str) -> Registry {
    let registry = Registry::start().expect("a registry");
    registry.put("team/app", tag, &image::busybox().expect("busybox").build().expect("an image"));
    registry
}

#[test]
fn mirrors_are_asked_in_their_order_and_the_registry_at_last() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second, own) = (serving("1"), serving("1"), serving("1"));
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n[host.\"http://{}\".header]\nx-team = \"blue\"\n",
        own.address(),
        first.address(),
        second.address(),
        second.address(),
    );
    hosts(folder.path(), "registry.test", &text);
    let daemon = daemon(folder.path());
    let name = "registry.test/team/app:1";
    let asked =
        |registry: &Registry| registry.requests().iter().filter(|line| line.contains("/v2/team/")).count();
    let clear = || [&first, &second, &own].iter().for_each(|registry| registry.forget_requests());
    daemon.ctl(&["pull", "-q", name]).ok();
    assert!(asked(&first) > 0 && asked(&second) == 0 && asked(&own) == 0);
    // The first is out of order: the second is asked, and then the registry itself.
    for (out_of_order, answers) in [(&first, &second), (&second, &own)] {
        out_of_order.fault("/v2/", Fault::Status(500), None);
        daemon.ctl(&["rmi", name]).ok();
        eventually("the blobs are collected", || {
            daemon.ctr(&["content", "ls", "-q"]).stdout.trim().is_empty()
        });
        clear();
        assert_eq!(daemon.ctl(&["run", "--rm", name, "echo", "mirrored"]).ok().line(), "mirrored");
        assert!(asked(answers) > 0);
    }
    // What is pushed goes to who may be pushed to, which no mirror here may.
    let (mirrors, pushed) = (asked(&first) + asked(&second), "registry.test/team/new:1");
    daemon.ctl(&["tag", name, pushed]).ok();
    daemon.ctl(&["push", pushed]).ok();
    assert!(own.manifest("team/new", "1").is_some());
    assert_eq!(asked(&first) + asked(&second), mirrors);
}

#[test]
fn a_mirror_without_the_capability_is_not_asked_for_tags() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mirror, own) = (serving("1"), serving("1"));
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
        own.address(),
        mirror.address()
    );
    hosts(folder.path(), "_default", &text);
    let daemon = daemon(folder.path());
    daemon.ctl(&["pull", "-q", "any.test/team/app:1"]).ok();
    let manifests =
        |registry: &Registry| registry.requests().iter().filter(|line| line.contains("/manifests/1")).count();
    assert_eq!((manifests(&mirror), manifests(&own)), (0, 1));
    assert!(mirror.requests().iter().any(|line| line.contains("/blobs/")), "blobs come from the mirror");
    // The path of a mirror that is no registry of its own.
    let text = format!("[host.\"http://{}/v2/team\"]\noverride_path = true\n", own.address());
    hosts(folder.path(), "deep.test", &text);
    assert_eq!(daemon.ctl(&["run", "--rm", "deep.test/app:1", "echo", "deep"]).ok().line(), "deep");
    // Nonsense is told with the file that it is in.
    hosts(folder.path(), "odd.test", "servre = \"x\"\n");
    let refused = daemon.ctl(&["pull", "odd.test/x"]).expect(1);
    assert!(
        refused.stderr.contains("odd.test/hosts.toml") && refused.stderr.contains("servre"),
        "{}",
        refused.stderr
    );
    // A registry's secret is not for its mirror.
    mirror.set_access(Access::Basic { user: "me".into(), password: "secret".into() });
    let refused = daemon.ctl(&["pull", "-q", "any.test/team/app:1"]);
    assert_eq!(refused.code, 0, "a mirror that wants credentials is passed over: {}", refused.stderr);
}

/// docker-registry over TLS; gone when dropped.
struct Secure {
    server: Child,
    port: u16,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output();
    let output = output.expect("openssl runs");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, a certificate of it for 127.0.0.1, and one for a client.
fn certificates(folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        .expect("a file");
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=tests -days 2");
    for name in ["server", "client"] {
        openssl(
            folder,
            &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile san"
            ),
        );
    }
}

impl Secure {
    /// Clients must show a certificate of the authority.
    fn start(folder: &Path) -> Secure {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let at = folder.display();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}', tls: {{certificate: {at}/server.pem, key: {at}/server.key, clientcas: ['{at}/ca.pem']}}}}\n"
        );
        fs::write(folder.join("config.yml"), config).expect("a file");
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry starts");
        let secure = Secure { server, port };
        eventually("the registry listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        secure
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

#[test]
#[cfg_attr(not(all(have_docker_registry, have_openssl)), ignore = "needs docker-registry and openssl")]
fn certificates_of_a_host_are_checked_and_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let files: PathBuf = folder.path().join("tls");
    certificates(&files);
    let other = folder.path().join("other");
    certificates(&other);
    let secure = Secure::start(&files);
    let (source, address) = (serving("1"), secure.address());
    let daemon = daemon(&folder.path().join("hosts"));
    let table = |ca: &Path, client: &str| {
        format!("server = \"https://{address}\"\nca = \"{}/ca.pem\"\n{client}", ca.display())
    };
    let client = format!("client = [[\"{0}/client.pem\", \"{0}/client.key\"]]\n", files.display());
    let from = source.reference("team/app:1");
    daemon.ctl(&["pull", "-q", &from]).ok();
    let push = |host: &str, text: &str| {
        hosts(&folder.path().join("hosts"), host, text);
        let name = format!("{host}/team/app:1");
        daemon.ctl(&["tag", &from, &name]).ok();
        daemon.ctl(&["push", &name])
    };
    // Who shows no certificate, and a server whose certificate is of another authority.
    assert!(push("silent.test", &table(&files, "")).expect(1).stderr.to_lowercase().contains("certificate"));
    let stranger = push("stranger.test", &table(&other, &client)).expect(1);
    assert!(stranger.stderr.to_lowercase().contains("certificate"), "{}", stranger.stderr);
    push("right.test", &table(&files, &client)).ok();
    daemon.ctl(&["rmi", "right.test/team/app:1"]).ok();
    assert_eq!(daemon.ctl(&["run", "--rm", "right.test/team/app:1", "echo", "shown"]).ok().line(), "shown");
    // Unchecked, where that is asked for.
    push("blind.test", &format!("{}skip_verify = true\n", table(&other, &client))).ok();

    // docker's folder of certificates, without a hosts.toml.
    let dockers = folder.path().join("hosts").join(&address);
    fs::create_dir_all(&dockers).expect("a folder");
    for (from, to) in [("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")] {
        fs::copy(files.join(from), dockers.join(to)).expect("a file");
    }
    daemon.ctl(&["pull", "-q", &format!("{address}/team/app:1")]).ok();
}
