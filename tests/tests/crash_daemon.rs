//! `kill -9` of the daemon at random moments, again and again: while containers run and write, while one is started,
//! while one exits, while an image is pulled and unpacked. What was acknowledged is kept, what runs goes on, logs are
//! whole, and nothing is left that nobody owns.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use longshore_tests::Fixture;
use longshore_tests::daemon::{Daemon, Output, eventually, finish};
use longshore_tests::image::{self, Image, Layer};
use longshore_tests::registry::Fault;
use rand::RngExt;

/// How often the daemon is killed; `LONGSHORE_CRASH_ROUNDS` says otherwise.
const ROUNDS: u32 = 100;

/// The latest moment of a kill, after the round's work was begun.
const LATEST: Duration = Duration::from_millis(600);

/// Containers that run through all of it.
const LASTING: [&str; 2] = ["writer", "sleeper"];

/// Writes consecutive numbers, slowly enough to be read again each round.
const WRITER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

fn rounds() -> u32 {
    std::env::var("LONGSHORE_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::rng().fill(&mut bytes[..]);
    bytes
}

/// An image with layers of its own, large enough to be interrupted.
fn image_of(round: u32) -> Image {
    let small = (0..200).fold(Layer::new().dir("many/", 0o755), |layer, n| {
        layer.file(&format!("many/{n}"), 0o644, format!("{round}.{n}").as_bytes())
    });
    image::busybox()
        .expect("busybox")
        .layer(Layer::new().file("large", 0o644, &noise(6 << 20)))
        .layer(small)
        .layer(Layer::new().file("marker", 0o644, format!("image {round}\n").as_bytes()))
        .build()
        .expect("an image")
}

/// A command of the round, still under way.
fn begin(daemon: &Daemon, words: &[&str]) -> Child {
    let mut command: Command = daemon.ctl_command(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("longshore starts")
}

/// What became of a command after the daemon it spoke to was killed.
fn outcome(child: Child) -> Output {
    finish(child).expect("a client notices that its daemon is gone")
}

/// Everything that a loop of kills knows.
struct Loop {
    fixture: Fixture,
    /// The highest number that the writer's log was seen to end with.
    written: u64,
    pulls_done: u32,
    starts_acknowledged: u32,
    slowest_start: Duration,
}

impl Loop {
    fn begin() -> Loop {
        let fixture = Fixture::pulled();
        let busybox = fixture.busybox.clone();
        let run = |name: &str, script: &str| {
            fixture.daemon.ctl(&["run", "-d", "--name", name, &busybox, "sh", "-c", script]).ok();
        };
        run(LASTING[0], WRITER);
        run(LASTING[1], "exec sleep 100000");
        fixture.registry.fault("/blobs/", Fault::Slow(24 << 20), None);
        Loop { fixture, written: 0, pulls_done: 0, starts_acknowledged: 0, slowest_start: Duration::ZERO }
    }

    fn daemon(&self) -> &Daemon {
        &self.fixture.daemon
    }

    /// One round: work, a kill in the midst of it, and what must hold afterwards.
    fn round(&mut self, round: u32, pulling: &mut u32) {
        let mut random = rand::rng();
        let name = format!("round-{round}");
        let code = random.random_range(1..=120);
        let life = random.random_range(0..40);
        let script = format!("echo begun; sleep 0.{life:02}; echo ended; exit {code}");
        let reference = self.fixture.registry.reference(&format!("crash/image:{pulling}"));

        let busybox = self.fixture.busybox.clone();
        let pull = begin(self.daemon(), &["pull", "-q", &reference]);
        let run = begin(self.daemon(), &["run", "-d", "--name", &name, &busybox, "sh", "-c", &script]);
        sleep(LATEST.mul_f64(random.random()));
        self.fixture.daemon.kill();
        let (pulled, ran) = (outcome(pull), outcome(run));

        let began = Instant::now();
        self.fixture.daemon.launch().expect("the daemon starts again");
        self.slowest_start = self.slowest_start.max(began.elapsed());

        self.the_lasting_ones_run(round);
        self.the_log_is_whole(round);
        self.the_short_one_is_true(&name, code, &ran);
        if pulled.code == 0 {
            self.the_image_is_there(&reference, *pulling);
        }
        if pulled.code == 0 || round % 4 == 3 {
            // Whatever the kills left of it, the pull goes on to its end.
            self.daemon().ctl(&["pull", "-q", &reference]).ok();
            self.the_image_is_there(&reference, *pulling);
            self.daemon().ctl(&["rmi", &reference]).ok();
            self.pulls_done += 1;
            *pulling += 1;
            self.fixture.registry.put("crash/image", &pulling.to_string(), &image_of(*pulling));
        }
        self.nothing_is_left_over(round);
    }

    fn the_lasting_ones_run(&self, round: u32) {
        let listed = self.daemon().ctl(&["ps", "--format", "{{.Names}} {{.Status}}"]).ok().stdout;
        for name in LASTING {
            let line = listed.lines().find(|line| line.starts_with(name));
            assert!(
                line.is_some_and(|line| line.contains(" Up ")),
                "round {round}: {name} is lost:\n{listed}"
            );
        }
    }

    fn the_log_is_whole(&mut self, round: u32) {
        let log = self.daemon().ctl(&["logs", LASTING[0]]).ok().stdout;
        let numbers = log.lines().map(|line| line.parse::<u64>().expect("a number"));
        let mut last = 0;
        for number in numbers {
            assert_eq!(number, last + 1, "round {round}: the log has a gap or a repetition");
            last = number;
        }
        assert!(last >= self.written, "round {round}: the log lost its end: {last} after {}", self.written);
        self.written = last;
    }

    /// The container that was started, if that was acknowledged, ended or ends as it was told to.
    fn the_short_one_is_true(&mut self, name: &str, code: u32, ran: &Output) {
        let known = self.daemon().ctl(&["ps", "-a", "-q", "--filter", &format!("name=^{name}$")]).ok();
        if ran.code == 0 {
            self.starts_acknowledged += 1;
            assert_ne!(known.line(), "", "{name} was acknowledged and is lost");
            assert_eq!(self.daemon().ctl(&["wait", name]).ok().line(), code.to_string(), "{name}");
            assert_eq!(self.daemon().ctl(&["logs", name]).ok().stdout, "begun\nended\n", "{name}");
        }
        if !known.line().is_empty() {
            self.daemon().ctl(&["rm", "-f", name]).ok();
        }
    }

    fn the_image_is_there(&self, reference: &str, number: u32) {
        let marker = self.daemon().ctl(&["run", "--rm", reference, "cat", "/marker"]).ok().stdout;
        assert_eq!(marker, format!("image {number}\n"), "{reference}");
    }

    /// Only the lasting containers have a bundle, a shim and cgroups.
    fn nothing_is_left_over(&self, round: u32) {
        let ids = self.daemon().ctl(&["ps", "-a", "-q", "--no-trunc"]).ok().stdout;
        let ids: BTreeSet<String> = ids.lines().map(str::to_owned).collect();
        assert_eq!(ids.len(), LASTING.len(), "round {round}: {ids:?}");
        let bundles = || names(&self.daemon().state().join("tasks/default"));
        eventually("only the lasting containers have bundles", || bundles() == ids);
        eventually("only the lasting containers have cgroups", || {
            self.daemon().cgroups().iter().all(|name| ids.iter().any(|id| name.contains(id.as_str())))
        });
        eventually("only the lasting containers and the pool have shims", || {
            self.daemon().shim_processes().len() <= ids.len() + POOL
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let folder = self.daemon().path().display().to_string();
        let ours: Vec<&str> = mounts.lines().filter(|line| line.contains(&folder)).collect();
        assert!(ours.is_empty(), "round {round}: {ours:#?}");
    }
}

/// Shims that wait for containers, as configured by default.
const POOL: usize = 2;

fn names(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[test]
fn crash_at_any_moment_loses_nothing() {
    let mut kills = Loop::begin();
    let mut pulling = 0;
    kills.fixture.registry.put("crash/image", "0", &image_of(0));
    for round in 0..rounds() {
        kills.round(round, &mut pulling);
    }
    for name in LASTING {
        kills.daemon().ctl(&["rm", "-f", name]).ok();
    }
    println!(
        "{} kills: {} starts had been acknowledged, {} images were pulled to the end, the slowest start took {:?}",
        rounds(),
        kills.starts_acknowledged,
        kills.pulls_done,
        kills.slowest_start
    );
    assert!(kills.written > u64::from(rounds()), "the writer wrote through all of it");
}

/// How often the daemon is killed while volumes are made and filled.
const VOLUME_ROUNDS: u32 = 12;

/// Files that a volume is filled with, enough of them to be interrupted.
const FILLED: usize = 2000;

/// Names in a volume's folder, once the daemon has it as it should be.
fn files_of(daemon: &Daemon, volume: &str) -> usize {
    let folder = daemon.ctl(&["volume", "inspect", "-f", "{{.Mountpoint}}", volume]).ok();
    fs::read_dir(folder.line()).expect("the volume's folder").count()
}

#[test]
fn crash_while_volumes_are_made_and_filled() {
    let mut f = Fixture::pulled();
    let layer = (0..FILLED).fold(Layer::new().dir("many/", 0o755), |layer, n| {
        layer.file(&format!("many/{n}"), 0o644, &[b'x'; 500])
    });
    let image = image::busybox().expect("busybox").layer(layer).build().expect("an image");
    f.registry.put("crash/volumes", "1", &image);
    let image = f.registry.reference("crash/volumes:1");
    f.daemon.ctl(&["pull", "-q", &image]).ok();
    let (mut made, mut filled) = (0, 0);
    for round in 0..VOLUME_ROUNDS {
        let (named, volume) = (format!("named{round}"), format!("filled{round}"));
        let mount = format!("{volume}:/many");
        let creating = begin(&f.daemon, &["volume", "create", &named]);
        let filling = begin(&f.daemon, &["create", "-v", &mount, &image, "true"]);
        sleep(LATEST.mul_f64(rand::rng().random()));
        f.daemon.kill();
        let (created, filled_up) = (outcome(creating), outcome(filling));
        f.daemon.launch().expect("the daemon starts again");
        let d = &f.daemon;
        let listed = d.ctl(&["volume", "ls", "-q"]).ok().stdout;
        let there = |name: &str| listed.lines().any(|line| line == name);
        if created.code == 0 {
            made += 1;
            assert!(there(&named), "round {round}: {named} was acknowledged and is lost");
        }
        if there(&volume) {
            let count = files_of(d, &volume);
            assert!(count == 0 || count == FILLED, "round {round}: {count} files of {FILLED}");
        }
        if filled_up.code == 0 {
            filled += 1;
            assert_eq!(files_of(d, &volume), FILLED, "round {round}: it was acknowledged");
        }
        // Whatever the kill left of it, the next container finds it whole.
        let counted = d.ctl(&["run", "--rm", "-v", &mount, &image, "sh", "-c", "ls /many | wc -l"]).ok();
        assert_eq!(counted.line(), FILLED.to_string(), "round {round}");
        for id in d.ctl(&["ps", "-aq"]).ok().stdout.lines() {
            d.ctl(&["rm", id]).ok();
        }
        for name in d.ctl(&["volume", "ls", "-q"]).ok().stdout.lines() {
            d.ctl(&["volume", "rm", name]).ok();
        }
        eventually("nothing of the volumes is left", || names(&d.root().join("volumes/default")).is_empty());
    }
    println!("{VOLUME_ROUNDS} kills: {made} volumes and {filled} copies had been acknowledged");
}
