//! Networks by CNI configurations, with the reference plugins.

use longshore_tests::Fixture;
use longshore_tests::daemon::{Settings, eventually};

struct World {
    f: Fixture,
    _folder: tempfile::TempDir,
    leases: std::path::PathBuf,
}

/// A daemon with one configuration, `lab`, whose addresses and bridge are this test's own.
fn world(number: u8) -> World {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let leases = folder.path().join("leases");
    let bridge = format!("lscni{}{number}", std::process::id() % 10_000);
    let subnet = format!("10.{}.{}.0/24", 40 + number, std::process::id() % 250);
    let text = format!(
        r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [
            {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipam": {{"type": "host-local",
              "dataDir": "{}", "subnet": "{subnet}", "routes": [{{"dst": "0.0.0.0/0"}}]}},
              "dns": {{"nameservers": ["192.0.2.53"]}}}},
            {{"type": "tuning", "capabilities": {{"mac": true}}}}]}}"#,
        leases.display()
    );
    std::fs::write(folder.path().join("10-lab.conflist"), text).expect("written");
    let config = format!("[network]\ncni_configurations = [\"{}\"]\n", folder.path().display());
    let f = Fixture::with(Settings { config, ..Settings::default() }).expect("a registry and a daemon");
    f.daemon.ctl(&["pull", "-q", &f.busybox]).ok();
    World { f, _folder: folder, leases }
}

impl World {
    fn leased(&self) -> usize {
        let entries = std::fs::read_dir(self.leases.join("lab")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for number in 0..10 {
            let name = format!("lscni{}{number}", std::process::id() % 10_000);
            let _ = std::process::Command::new("ip").args(["link", "del", &name]).output();
        }
    }
}

#[test]
#[cfg_attr(
    not(all(have_nft, have_cni_plugins)),
    ignore = "needs nft and the CNI plugins (containernetworking-plugins)"
)]
fn a_container_is_attached_and_taken_back() {
    let w = world(1);
    let d = &w.f.daemon;
    d.ctl(&["run", "-d", "--name", "one", "--network", "cni:lab", &w.f.busybox, "sleep", "1000"]).ok();
    let shown = d.ctl(&["exec", "one", "ip", "-4", "addr", "show", "eth0"]).ok().stdout;
    assert!(shown.contains("inet 10.41."), "{shown}");
    let resolv = d.ctl(&["exec", "one", "cat", "/etc/resolv.conf"]).ok().stdout;
    assert!(resolv.contains("nameserver 192.0.2.53"), "{resolv}");
    assert_eq!(w.leased(), 1);
    d.ctl(&["rm", "-f", "one"]).ok();
    eventually("the lease is given back", || w.leased() == 0);
    let missing = d.ctl(&["run", "--rm", "--network", "cni:none", &w.f.busybox, "true"]).expect(125);
    assert!(missing.stderr.contains("no CNI configuration named \"none\""), "{}", missing.stderr);
}

#[test]
#[cfg_attr(
    not(all(have_nft, have_cni_plugins)),
    ignore = "needs nft and the CNI plugins (containernetworking-plugins)"
)]
fn what_ends_while_no_daemon_runs_is_taken_back_by_the_next() {
    let mut w = world(2);
    let d = &w.f.daemon;
    d.ctl(&["run", "-d", "--name", "one", "--network", "cni:lab", &w.f.busybox, "sleep", "1000"]).ok();
    let pid: i32 = d.ctl(&["inspect", "-f", "{{.State.Pid}}", "one"]).ok().line().parse().expect("a pid");
    w.f.daemon.kill();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("killed");
    assert_eq!(w.leased(), 1);
    w.f.daemon.launch().expect("it starts again");
    eventually("the lease is given back", || w.leased() == 0);
}
