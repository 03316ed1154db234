//! What a machine does that loses its power, and what it finds when it is on again; `make test-vm` switches it off.
//!
//! What always holds: what was acknowledged is said on the serial line, which survives; nothing is said before.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use longshore_tests::daemon::{answering, program, run};
use longshore_tests::image::{self, Image, Layer};
use longshore_tests::registry::Registry;
use rand::RngExt;

/// On the machine's disk.
const ROOT: &str = "/var/lib/longshore-power";
/// In its memory, as on any host.
const STATE: &str = "/run/longshore-power";

/// A line for whoever holds the switch.
fn say(line: &str) {
    let console = fs::File::options().write(true).open("/dev/console");
    console.and_then(|mut file| writeln!(file, "\n{line}")).expect("the console takes a line");
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    fn start() -> Daemon {
        fs::create_dir_all(STATE).expect("a folder in memory");
        let socket = Path::new(STATE).join("longshore.sock");
        let log = fs::File::create("/run/longshore-power.log").expect("a log");
        let child = Command::new(program("longshored"))
            .args(["--root", ROOT, "--state", STATE, "--address"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("longshored starts");
        let answers = || UnixStream::connect(&socket).is_ok();
        let log = || fs::read_to_string("/run/longshore-power.log").unwrap_or_default();
        Daemon(answering(child, "longshored", answers, log).expect("longshored answers"))
    }

    /// What a command has written.
    fn ctl(&self, words: &[&str]) -> String {
        let mut command = Command::new(program("longshore"));
        command.arg("-H").arg(format!("unix://{STATE}/longshore.sock")).args(words);
        let output = run(&mut command).expect("longshore runs");
        // The power's end is nobody's answer: whatever fails before is a defect.
        assert_eq!(output.code, 0, "{words:?}: {}", output.stderr.trim());
        output.line().to_owned()
    }

    /// All that a command has written.
    fn ctl_lines(&self, words: &[&str]) -> Vec<String> {
        self.ctl(words).lines().map(str::to_owned).collect()
    }
}

/// Files of the folder that a volume is filled from.
const MANY: usize = 50;

/// Whether a container has the name of its image's number, and not one that the daemon made up.
fn is_ours(name: &str) -> bool {
    name.strip_prefix('c').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn image_of(number: u32) -> Image {
    let mut noise = vec![0; 1 << 20];
    rand::rng().fill(&mut noise[..]);
    let many = (0..MANY).fold(Layer::new().dir("many/", 0o755), |layer, n| {
        layer.file(&format!("many/{n}"), 0o644, format!("{number}.{n}").as_bytes())
    });
    image::busybox()
        .expect("busybox")
        .layer(Layer::new().file("noise", 0o644, &noise))
        .layer(many)
        .layer(Layer::new().file("marker", 0o644, format!("image {number}\n").as_bytes()))
        .build()
        .expect("an image")
}

/// Pulls and creates until the power is gone.
#[test]
#[ignore = "ends with a power cut: make test-vm"]
fn works_until_the_power_is_cut() {
    let registry = Registry::start().expect("a registry");
    let daemon = Daemon::start();
    for number in 0..500 {
        let name = format!("power/image:{number}");
        registry.put("power/image", &number.to_string(), &image_of(number));
        let reference = registry.reference(&name);
        daemon.ctl(&["pull", "-q", &reference]);
        say(&format!("KEPT image {reference}"));
        let container = format!("c{number}");
        daemon.ctl(&["create", "--network", "none", "--name", &container, &reference, "cat", "/marker"]);
        say(&format!("KEPT container {container} {number}"));
        let (named, filled) = (format!("named{number}"), format!("filled{number}"));
        daemon.ctl(&["volume", "create", &named]);
        say(&format!("KEPT volume {named}"));
        let mount = format!("{filled}:/many");
        daemon.ctl(&["create", "--network", "none", "-v", &mount, &reference, "true"]);
        say(&format!("KEPT files {filled}"));
    }
}

/// Says what is there, once each of it was found to be whole.
#[test]
#[ignore = "needs a machine that has lost its power: make test-vm"]
fn finds_what_was_acknowledged() {
    let daemon = Daemon::start();
    let images = daemon.ctl(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    for reference in images.lines() {
        let number = reference.rsplit(':').next().expect("a tag");
        let told = daemon.ctl(&[
            "run",
            "--network",
            "none",
            "--rm",
            reference,
            "sh",
            "-c",
            "cat /marker; cat /many/* | wc -l; wc -c < /noise",
        ]);
        let whole = format!("image {number}\n0\n{}", 1 << 20);
        assert_eq!(told, whole, "{reference}");
        say(&format!("FOUND image {reference}"));
    }
    let volumes = daemon.ctl_lines(&["volume", "ls", "-q"]);
    for volume in &volumes {
        say(&format!("FOUND volume {volume}"));
        let Some(number) = volume.strip_prefix("filled") else { continue };
        // As its container found it in the image, or as nobody has filled it yet; never a part of it.
        let folder = Path::new(ROOT).join("volumes/default").join(volume).join("_data");
        let names = fs::read_dir(&folder).expect("a volume's folder").count();
        if names == 0 {
            continue;
        }
        assert_eq!(names, MANY, "{volume}");
        for n in 0..MANY {
            let text = fs::read_to_string(folder.join(n.to_string())).expect("a file of the volume");
            assert_eq!(text, format!("{number}.{n}"), "{volume}");
        }
        say(&format!("FOUND files {volume}"));
    }
    let containers = daemon.ctl_lines(&["ps", "-a", "--format", "{{.Names}}"]);
    for container in containers.iter().filter(|name| is_ours(name)) {
        let number = container.trim_start_matches('c');
        let told = daemon.ctl(&["start", "-a", container]);
        assert_eq!(told, format!("image {number}"), "{container}");
        say(&format!("FOUND container {container} {number}"));
    }
    say("FOUND all");
}
