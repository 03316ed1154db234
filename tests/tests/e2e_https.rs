//! A real registry over HTTPS: refused with a certificate that nobody vouches for, used with a configured authority.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use longshore_tests::Daemon;
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::image;
use longshore_tests::registry::Registry;

fn command(program: &str, folder: &Path, args: &[&str]) {
    let output = Command::new(program).current_dir(folder).args(args).output().expect("the program runs");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority of its own, and a certificate of it for 0.0.0.0: this host under an address that is not a loopback
/// address, for on those any certificate is taken, as docker does.
fn certificates(folder: &Path) {
    fs::write(folder.join("san"), "subjectAltName=IP:0.0.0.0\nbasicConstraints=CA:FALSE\n").expect("a file");
    command(
        "openssl",
        folder,
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            "/CN=tests",
            "-days",
            "2",
        ],
    );
    command(
        "openssl",
        folder,
        &[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
            "-subj",
            "/CN=0.0.0.0",
        ],
    );
    command(
        "openssl",
        folder,
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            "server.pem",
            "-days",
            "2",
            "-extfile",
            "san",
        ],
    );
}

#[test]
#[cfg_attr(
    not(all(have_docker_registry, have_skopeo, have_openssl)),
    ignore = "needs docker-registry, skopeo and openssl"
)]
fn https_is_spoken_with_configured_authorities_only() {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let folder = folder.path();
    certificates(folder);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let at = folder.display();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}', tls: {{certificate: {at}/server.pem, key: {at}/server.key}}}}\n"
    );
    fs::write(folder.join("config.yml"), config).expect("a file");
    let mut server = Command::new("docker-registry")
        .arg("serve")
        .arg(folder.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry starts");
    eventually("the registry listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let source = Registry::start().expect("a registry");
    source.put("busybox", "1", &image::busybox().expect("busybox").build().expect("an image"));
    let (from, to) = (
        format!("docker://{}", source.reference("busybox:1")),
        format!("docker://127.0.0.1:{port}/busybox:1"),
    );
    command(
        "skopeo",
        folder,
        &["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &to],
    );

    let reference = format!("0.0.0.0:{port}/busybox:1");
    let stranger = Daemon::start();
    let refused = stranger.ctl(&["pull", &reference]).expect(1);
    assert!(refused.stderr.to_lowercase().contains("certificate"), "{}", refused.stderr);
    let config = format!("[registry]\nca_files = [\"{at}/ca.pem\"]\n");
    let daemon = Daemon::with(Settings { config, ..Settings::default() }).expect("a daemon");
    assert_eq!(daemon.ctl(&["run", "--rm", &reference, "echo", "over tls"]).ok().stdout, "over tls\n");
    server.kill().expect("the registry is ours to end");
    server.wait().expect("the registry ends");
}
