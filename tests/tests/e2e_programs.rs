//! Programs that people run: PostgreSQL, Redis and nginx of Debian's packages, with a published port, a named volume and limits,
//! talked to by their own clients; killed, upgraded, and left alone by their daemon.
#![cfg_attr(
    not(all(have_debootstrap, have_psql, have_redis_cli, have_curl)),
    allow(dead_code, unused_imports)
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use longshore_tests::daemon::{PATIENCE, eventually, finish, run};
use longshore_tests::debian::{Recipe, put};
use longshore_tests::pty::Terminal;
use longshore_tests::{Daemon, Output};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const POSTGRES: Recipe = Recipe {
    name: "postgres",
    packages: &["postgresql"],
    script: "install -d -m 0700 -o postgres -g postgres /var/lib/postgresql/data",
    files: &[
        ("/usr/local/bin/entrypoint", include_str!("programs/postgres.sh")),
        ("/etc/image-version", "1\n"),
    ],
    changes: &[
        "ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENV PGDATA=/var/lib/postgresql/data",
        "ENTRYPOINT [\"entrypoint\"]",
        "CMD []",
        "USER postgres",
        "STOPSIGNAL SIGINT",
        "EXPOSE 5432",
        "VOLUME /var/lib/postgresql/data",
        "HEALTHCHECK --interval=500ms --timeout=10s --retries=40 CMD pg_isready -q -h 127.0.0.1",
    ],
};

const REDIS: Recipe = Recipe {
    name: "redis",
    packages: &["redis-server"],
    script: "install -d -o redis -g redis /data",
    files: &[("/etc/image-version", "1\n")],
    changes: &[
        "ENTRYPOINT [\"redis-server\"]",
        "CMD [\"--bind\",\"*\",\"--protected-mode\",\"no\",\"--appendonly\",\"yes\"]",
        "USER redis",
        "WORKDIR /data",
        "EXPOSE 6379",
        "VOLUME /data",
    ],
};

const NGINX: Recipe = Recipe {
    name: "nginx",
    packages: &["nginx-light", "curl"],
    script: "ln -sf /dev/stdout /var/log/nginx/access.log; ln -sf /dev/stderr /var/log/nginx/error.log",
    files: &[("/etc/image-version", "1\n"), ("/etc/nginx/conf.d/version.conf", "add_header X-Image 1;\n")],
    changes: &[
        "ENTRYPOINT [\"nginx\"]",
        "CMD [\"-g\",\"daemon off;\"]",
        "STOPSIGNAL SIGQUIT",
        "EXPOSE 80",
        "VOLUME /var/www/html",
    ],
};

/// A daemon with the image of a program, and a network where containers have names.
struct House {
    daemon: Daemon,
    image: String,
}

impl House {
    fn with(recipe: &Recipe) -> House {
        let daemon = Daemon::start();
        let image = recipe.provide(&daemon, Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("an image");
        daemon.ctl(&["network", "create", "back"]).ok();
        House { daemon, image }
    }

    /// `run -d --network back --name NAME FLAGS IMAGE MORE`.
    fn serve(&self, name: &str, flags: &[&str], image: &str, more: &[&str]) {
        let words = [&["run", "-d", "--network", "back", "--name", name][..], flags, &[image], more].concat();
        self.daemon.ctl(&words).ok();
    }

    /// A program of the image in a second container on the same network.
    fn beside(&self, flags: &[&str], program: &str, more: &[&str]) -> Output {
        let words = ["run", "--rm", "--network", "back", "--entrypoint", program];
        self.daemon.ctl(&[&words[..], flags, &[&self.image], more].concat())
    }

    /// `NAME:2`: the image with what a new version changes.
    fn upgraded(&self, name: &str, files: &[(&str, &str)]) -> String {
        let image = format!("{name}:2");
        self.daemon.ctl(&["create", "--name", "next", &self.image]).ok();
        for (place, content) in files {
            put(&self.daemon, "next", place, content).expect("a file");
        }
        self.daemon.ctl(&["commit", "-c", "LABEL version=2", "next", &image]).ok();
        self.daemon.ctl(&["rm", "-v", "next"]).ok();
        image
    }

    fn field(&self, name: &str, format: &str) -> String {
        self.daemon.ctl(&["inspect", "-f", format, name]).ok().line().to_owned()
    }

    fn sh(&self, name: &str, script: &str) -> String {
        self.daemon.ctl(&["exec", name, "sh", "-c", script]).ok().stdout
    }

    /// The host's port that leads to one of the container's.
    fn port(&self, name: &str, port: &str) -> u16 {
        let shown = self.daemon.ctl(&["port", name, port]).ok().stdout;
        shown.lines().next().and_then(|line| line.rsplit(':').next()?.parse().ok()).expect("a port")
    }

    /// The container's first process.
    fn pid(&self, name: &str) -> i32 {
        self.field(name, "{{.State.Pid}}").parse().expect("a process id")
    }

    /// As whoever has the pid can do it.
    fn kill_program(&self, name: &str) {
        let pid = self.pid(name);
        assert!(pid > 1, "{name} runs");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is killed");
    }

    /// The daemon, its program and the daemon again: nobody saw the end.
    fn kill_both(&mut self, name: &str) {
        let pid = self.pid(name);
        self.daemon.kill();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is killed");
        self.daemon.launch().expect("the daemon starts again");
    }

    /// Bytes of memory, time of the processors and number of processes, as the kernel tells them inside.
    fn limits(&self, name: &str) -> [String; 3] {
        let script = "cd /sys/fs/cgroup; first() { for f; do [ -e $f ] && { cat $f; return; }; done; }; \
            first memory/memory.limit_in_bytes memory.max; first pids/pids.max pids.max; \
            [ -e cpu.max ] && cat cpu.max || echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)";
        let shown = self.sh(name, script);
        let lines: Vec<&str> = shown.lines().collect();
        let [memory, pids, time] = lines[..] else { panic!("three lines: {shown}") };
        [memory, time, pids].map(str::to_owned)
    }
}

/// A client that stays connected, spoken to line by line.
struct Session {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
}

impl Session {
    fn start(command: &mut Command) -> Session {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("the client starts");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, said) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Session { child, stdin, said }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).expect("the client reads");
    }

    #[track_caller]
    fn hear(&self) -> String {
        self.said.recv_timeout(PATIENCE).expect("the client says something")
    }

    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.local_addr().expect("an address").port()
}

fn psql(port: u16) -> Command {
    let mut command = Command::new("psql");
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-X", "-q", "-A", "-t", "-p", &port.to_string()]);
    command.env("PGPASSWORD", "secret").env("PGCONNECT_TIMEOUT", "10");
    command
}

/// The answer to one statement on a connection of its own.
fn sql(port: u16, statement: &str) -> Output {
    run(psql(port).args(["-c", statement])).expect("psql runs")
}

const SUM: &str = "select count(*) || ' ' || sum(hashtext(words)) from kept";

#[test]
#[cfg_attr(not(all(have_debootstrap, have_psql)), ignore = "needs debootstrap and postgresql-client")]
fn postgresql_keeps_its_data() {
    let mut h = House::with(&POSTGRES);
    let port = free();
    let publish = format!("127.0.0.1:{port}:5432");
    let limits = ["-m", "256m", "--cpus", "1.5", "--pids-limit", "100", "--shm-size", "128m"];
    let own = [
        "-u",
        "postgres",
        "--health-cmd",
        "pg_isready -h 127.0.0.1 -U postgres",
        "--health-interval",
        "300ms",
    ];
    let common =
        ["-e", "POSTGRES_PASSWORD=secret", "-v", "pgdata:/var/lib/postgresql/data", "--restart", "always"];
    let healthy = |h: &House| {
        eventually("PostgreSQL is healthy", || h.field("db", "{{.State.Health.Status}}") == "healthy");
    };
    let image = h.image.clone();
    h.serve(
        "db",
        &[&common[..], &limits[..], &own[..], &["-p", &publish]].concat(),
        &image,
        &["-c", "max_connections=30"],
    );
    healthy(&h);
    assert_eq!(h.limits("db"), ["268435456", "150000 100000", "100"]);
    assert_eq!(
        h.sh("db", "df -k /dev/shm | awk 'END { print $2 }'; id -un; cat /proc/1/comm"),
        "131072\npostgres\npostgres\n"
    );

    // From the host, from a second container by name, and at a terminal.
    sql(port, "create table kept (id serial primary key, words text)").ok();
    sql(
        port,
        "insert into kept (words) select md5(i::text) || repeat('.', 200) from generate_series(1, 20000) i",
    )
    .ok();
    let sum = |port: u16| sql(port, SUM).ok().line().to_owned();
    let whole = sum(port);
    assert!(whole.starts_with("20000 "), "{whole}");
    let words = ["-h", "db", "-U", "postgres", "-At", "-c", SUM];
    assert_eq!(h.beside(&["-e", "PGPASSWORD=secret"], "psql", &words).ok().line(), whole);
    let stranger = h.beside(&["-e", "PGPASSWORD=wrong"], "psql", &words).expect(2);
    assert!(stranger.stderr.contains("password authentication failed"), "{}", stranger.stderr);
    let command = h.daemon.ctl_command(&["exec", "-it", "-e", "PAGER=cat", "db", "psql", "-U", "postgres"]);
    let mut terminal = Terminal::spawn(command, 100, 30).expect("a terminal");
    terminal.expect("postgres=#");
    terminal.send("select 'sum:' || count(*) from kept;\n");
    terminal.expect("sum:20000");
    terminal.send("select pg_sleep(600);\n");
    eventually("the statement runs", || {
        sql(port, "select 'busy' from pg_stat_activity where wait_event = 'PgSleep'").ok().line() == "busy"
    });
    terminal.send("\x03");
    terminal.expect("canceling statement due to user request");
    terminal.send("\\q\n");
    assert_eq!(terminal.wait(), 0);

    // A transaction that is open while the daemon dies and comes back.
    let mut session = Session::start(&mut psql(port));
    assert_eq!(
        session.ask("begin; insert into kept (words) values ('over its death'); select 'open';"),
        "open"
    );
    h.daemon.kill();
    assert_eq!(sum(port), whole, "a new connection, and what is not committed is not seen");
    assert_eq!(session.ask("select count(*) from kept;"), "20001");
    h.daemon.launch().expect("the daemon starts again");
    assert_eq!(session.ask("commit; select 'done';"), "done");
    let whole = sum(port);
    assert!(whole.starts_with("20001 "), "{whole}");
    assert_eq!(h.field("db", "{{.RestartCount}} {{.State.Running}}"), "0 true");

    // Its first process dies, seen and unseen.
    h.kill_program("db");
    eventually("it was started again", || h.field("db", "{{.RestartCount}}") == "1");
    healthy(&h);
    assert_eq!(sum(port), whole);
    h.kill_both("db");
    eventually("it runs again", || h.field("db", "{{.RestartCount}} {{.State.Running}}") == "2 true");
    healthy(&h);
    assert_eq!(sum(port), whole);
    assert_eq!(h.beside(&["-e", "PGPASSWORD=secret"], "psql", &words).ok().line(), whole);

    // Limits change while it runs; a dump comes out.
    h.daemon.ctl(&["update", "-m", "300m", "--memory-swap", "300m", "--cpus", "1", "db"]).ok();
    assert_eq!(h.limits("db"), ["314572800", "100000 100000", "100"]);
    h.sh("db", "pg_dump -U postgres -f /tmp/dump.sql postgres");
    let dump = h.daemon.path().join("dump.sql");
    h.daemon.ctl(&["cp", "db:/tmp/dump.sql", &dump.display().to_string()]).ok();
    let dump = std::fs::read_to_string(dump).expect("a dump");
    assert!(dump.contains("over its death") && dump.contains("-- PostgreSQL database dump complete"));

    // A new version, with a clean end of the old one, on another port.
    let next = h.upgraded("postgres", &[("/etc/image-version", "2\n")]);
    h.daemon.ctl(&["stop", "-t", "60", "db"]).ok();
    assert_eq!(h.field("db", "{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    let log = h.daemon.ctl(&["logs", "--tail", "3", "db"]).ok().stderr;
    assert!(log.contains("database system is shut down"), "{log}");
    assert!(sql(port, SUM).expect(2).stderr.contains("Connection refused"));
    h.daemon.ctl(&["rm", "db"]).ok();
    h.serve("db", &[&common[..], &["-P"]].concat(), &next, &[]);
    healthy(&h);
    assert_eq!(sum(h.port("db", "5432")), whole);
    let shown = h.field("db", "{{.Config.Labels.version}} {{.Config.StopSignal}} {{.Config.ExposedPorts}}");
    assert_eq!(shown, "2 SIGINT map[5432/tcp:{}]", "the image's settings are the container's");
    assert_eq!(h.sh("db", "cat /etc/image-version"), "2\n");
    let log = h.daemon.ctl(&["logs", "db"]).ok().stderr;
    assert!(log.contains("database system was shut down at") && !log.contains("recovery"), "{log}");
    let held = h.daemon.ctl(&["volume", "rm", "pgdata"]).expect(1);
    assert!(held.stderr.contains("volume is in use"), "{}", held.stderr);
}

fn redis(port: u16, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    run(command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(words))
        .expect("redis-cli runs")
        .ok()
        .line()
        .to_owned()
}

/// Many keys at once, by redis-cli from its standard input.
fn fill(port: u16, keys: u32) {
    let mut client = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("redis-cli runs");
    let mut stdin = client.stdin.take().expect("a pipe");
    std::thread::spawn(move || (0..keys).try_for_each(|key| writeln!(stdin, "set key{key} value{key}")));
    let said = finish(client).expect("redis-cli ends").ok().stdout;
    assert_eq!(said.matches("OK\n").count(), keys as usize);
}

#[test]
#[cfg_attr(not(all(have_debootstrap, have_redis_cli)), ignore = "needs debootstrap and redis-tools")]
fn redis_keeps_its_keys() {
    let mut h = House::with(&REDIS);
    let limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20"];
    let common = ["-v", "keys:/data", "-P", "--restart", "unless-stopped"];
    let image = h.image.clone();
    h.serve("cache", &[&common[..], &limits[..]].concat(), &image, &[]);
    let answers = |h: &House| {
        eventually("Redis answers", || {
            let running = h.field("cache", "{{.State.Running}}") == "true";
            running && h.daemon.ctl(&["exec", "cache", "redis-cli", "ping"]).line() == "PONG"
        });
        h.port("cache", "6379")
    };
    let port = answers(&h);
    assert_eq!(h.limits("cache"), ["67108864", "50000 100000", "20"]);
    let shown = h.daemon.ctl(&["top", "cache", "-o", "pid,args"]).ok().stdout;
    assert!(shown.lines().nth(1).is_some_and(|line| line.contains("redis-server")), "{shown}");
    assert!(h.daemon.ctl(&["stats", "--no-stream", "cache"]).ok().stdout.contains("64MiB"));
    fill(port, 2000);
    let by_name = |h: &House, words: &[&str]| {
        h.beside(&[], "redis-cli", &[&["-h", "cache"][..], words].concat()).ok().line().to_owned()
    };
    assert_eq!(by_name(&h, &["get", "key1999"]), "value1999");
    assert_eq!(by_name(&h, &["set", "from", "beside"]), "OK");
    assert_eq!(redis(port, &["get", "from"]), "beside");

    // Who listens goes on listening while there is no daemon, and when there is one again.
    let mut listener = Command::new("redis-cli");
    let listener =
        Session::start(listener.args(["-h", "127.0.0.1", "-p", &port.to_string(), "subscribe", "news"]));
    assert_eq!([listener.hear(), listener.hear(), listener.hear()], ["subscribe", "news", "1"]);
    h.daemon.kill();
    assert_eq!(redis(port, &["publish", "news", "no daemon"]), "1");
    assert_eq!([listener.hear(), listener.hear(), listener.hear()], ["message", "news", "no daemon"]);
    h.daemon.launch().expect("the daemon starts again");
    assert_eq!(redis(port, &["publish", "news", "a daemon"]), "1");
    assert_eq!([listener.hear(), listener.hear(), listener.hear()], ["message", "news", "a daemon"]);
    assert_eq!(h.port("cache", "6379"), port);

    h.kill_program("cache");
    eventually("it was started again", || h.field("cache", "{{.RestartCount}}") == "1");
    let port = answers(&h);
    assert_eq!(redis(port, &["dbsize"]), "2001");
    h.kill_both("cache");
    eventually("it was started again", || h.field("cache", "{{.RestartCount}}") == "2");
    let port = answers(&h);
    assert_eq!(redis(port, &["dbsize"]), "2001");
    assert_eq!(by_name(&h, &["get", "key7"]), "value7");

    // What somebody stopped stays so, whatever becomes of the daemon.
    h.daemon.ctl(&["stop", "cache"]).ok();
    let log = h.daemon.ctl(&["logs", "--tail", "3", "cache"]).ok().stdout;
    assert!(log.contains("Redis is now ready to exit, bye bye"), "{log}");
    h.daemon.kill();
    h.daemon.launch().expect("the daemon starts again");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(h.field("cache", "{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    assert_eq!(h.daemon.ctl(&["ps", "-a", "--format", "{{.Names}}:{{.Ports}}"]).ok().line(), "cache:");
    let next = h.upgraded("redis", &[("/etc/image-version", "2\n")]);
    h.daemon.ctl(&["rm", "cache"]).ok();
    h.serve("cache", &common, &next, &["--appendonly", "yes", "--bind", "*", "--protected-mode", "no"]);
    let port = answers(&h);
    assert_eq!(redis(port, &["get", "key1234"]), "value1234");
    assert_eq!(redis(port, &["dbsize"]), "2001");
    assert_eq!(h.sh("cache", "cat /etc/image-version"), "2\n");
    h.daemon.ctl(&["rm", "-f", "cache"]).ok();
    h.daemon.ctl(&["volume", "rm", "keys"]).ok();
}

fn curl(url: &str, more: &[&str]) -> Output {
    run(Command::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "60", url]).args(more))
        .expect("curl runs")
}

#[test]
#[cfg_attr(not(all(have_debootstrap, have_curl)), ignore = "needs debootstrap and curl")]
fn nginx_keeps_its_pages() {
    let mut h = House::with(&NGINX);
    let port = free();
    let fixed = format!("127.0.0.1:{port}:80");
    let url = format!("http://127.0.0.1:{port}/");
    let limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "30", "--read-only"];
    let folders = ["--tmpfs", "/run", "--tmpfs", "/var/lib/nginx"];
    let common = ["-v", "site:/var/www/html", "-p", &fixed, "--restart", "on-failure:10"];
    let image = h.image.clone();
    let flags = [&common[..], &limits[..], &folders[..], &["-p", "127.0.0.1::80"]].concat();
    h.serve("web", &flags, &image, &[]);
    let answers = |url: &str| eventually("nginx answers", || curl(url, &["-o", "/dev/null"]).code == 0);
    answers(&url);
    assert_eq!(h.limits("web"), ["67108864", "50000 100000", "30"]);
    assert!(curl(&url, &[]).ok().stdout.contains("Welcome to nginx"), "the volume has the image's page");
    let shown = h.daemon.ctl(&["inspect", "web"]).ok().stdout;
    let ports = serde_json::from_str::<Value>(&shown).expect("JSON")[0]["NetworkSettings"]["Ports"].clone();
    let bound = ports["80/tcp"].as_array().expect("ports").clone();
    assert_eq!(bound.len(), 2, "{ports}");
    for each in &bound {
        let url = format!("http://127.0.0.1:{}/", each["HostPort"].as_str().expect("a port"));
        assert!(curl(&url, &["-I"]).ok().stdout.starts_with("HTTP/1.1 200 OK"));
    }

    // Into the volume, not elsewhere; read from the host and by name.
    put(&h.daemon, "web", "/var/www/html/index.html", "a page\n").expect("a file");
    let page = h.daemon.path().join("page");
    std::fs::write(&page, "x").expect("a file");
    let refused = h.daemon.ctl(&["cp", &page.display().to_string(), "web:/etc/page"]).expect(1);
    assert!(refused.stderr.contains("read-only"), "{}", refused.stderr);
    assert_eq!(curl(&url, &[]).ok().stdout, "a page\n");
    assert_eq!(h.beside(&[], "curl", &["-sS", "http://web/"]).ok().stdout, "a page\n");
    h.sh("web", "head -c 6000000 /dev/urandom > /var/www/html/large");
    let sum = h.sh("web", "sha256sum < /var/www/html/large");

    // A download over the death of the daemon, and what is said meanwhile.
    let slow = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--limit-rate", "2M", "-o"])
        .arg(h.daemon.path().join("large"))
        .arg(format!("{url}large"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl runs");
    eventually("some of it is there", || h.daemon.path().join("large").exists());
    h.daemon.kill();
    assert_eq!(curl(&format!("{url}without"), &["-o", "/dev/null", "-w", "%{http_code}"]).ok().line(), "404");
    h.daemon.launch().expect("the daemon starts again");
    finish(slow).expect("curl ends").ok();
    let have = std::fs::File::open(h.daemon.path().join("large")).expect("a file");
    let have = Command::new("sha256sum").stdin(have).output().expect("sha256sum runs").stdout;
    assert_eq!(String::from_utf8_lossy(&have), sum);
    eventually("the log has what was asked meanwhile", || {
        h.daemon.ctl(&["logs", "web"]).ok().stdout.contains("\"GET /without HTTP/1.1\" 404")
    });

    h.kill_program("web");
    eventually("it was started again", || h.field("web", "{{.RestartCount}} {{.State.Running}}") == "1 true");
    answers(&url);
    assert_eq!(curl(&url, &[]).ok().stdout, "a page\n");
    h.kill_both("web");
    eventually("it was started again", || h.field("web", "{{.RestartCount}} {{.State.Running}}") == "2 true");
    answers(&url);
    assert_eq!(h.beside(&[], "curl", &["-sS", "http://web/"]).ok().stdout, "a page\n");

    // A new version; the old one ends in its own way, and a policy for failures does not start it again.
    let next = h.upgraded(
        "nginx",
        &[("/etc/image-version", "2\n"), ("/etc/nginx/conf.d/version.conf", "add_header X-Image 2;\n")],
    );
    h.daemon.ctl(&["kill", "-s", "HUP", "web"]).ok();
    answers(&url);
    assert!(curl(&url, &["-I"]).ok().stdout.contains("X-Image: 1\r\n"));
    h.daemon.ctl(&["stop", "web"]).ok();
    assert_eq!(h.field("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    h.daemon.ctl(&["rm", "web"]).ok();
    h.serve("web", &[&common[..], &folders[..]].concat(), &next, &[]);
    answers(&url);
    assert!(curl(&url, &["-I"]).ok().stdout.contains("X-Image: 2\r\n"));
    assert_eq!(curl(&url, &[]).ok().stdout, "a page\n");
    assert_eq!(h.sh("web", "sha256sum < /var/www/html/large"), sum);
}
