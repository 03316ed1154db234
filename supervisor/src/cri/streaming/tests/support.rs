//! A server whose target is made up: what a command is called says what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::config::Cri;
use crate::cri::streaming::spdy::client::Client;
use crate::cri::streaming::target::Input;
use crate::cri::streaming::{Attach, Exec, PortForward, Process, Size, StdinEnd, Streaming, Target};
use crate::error::{Error, Result};
use crate::tasks::{AttachInput, AttachOutput, Exit};

/// What happened to the made-up processes.
#[derive(Default)]
pub struct Seen {
    pub begun: AtomicUsize,
    pub stdin_closed: AtomicUsize,
    /// Processes whose streams nobody holds any more.
    pub detached: AtomicUsize,
}

pub struct Fake {
    pub seen: Arc<Seen>,
    /// Where ports of pods lead; none refuses.
    pub port: Option<std::net::SocketAddr>,
}

struct Keyboard(mpsc::Sender<AttachInput>);

impl Input for Keyboard {
    fn send(&self, input: AttachInput) -> BoxFuture<'_, Result<()>> {
        self.0
            .send(input)
            .map(|sent| sent.map_err(|_| Error::invalid("stdin", "the process has ended")))
            .boxed()
    }
}

struct Detached(Arc<Seen>);

impl Drop for Detached {
    fn drop(&mut self) {
        self.0.detached.fetch_add(1, Ordering::SeqCst);
    }
}

type Screen = mpsc::Sender<Result<AttachOutput>>;

/// `cat`: stdin to stdout, exit 0. `fail N`: a line to each output, exit N. `sizes`: the terminal's sizes as text until stdin ends.
/// `flood N`: N MiB. `sleep`: nothing, for ever. `deaf`: as that, and it does not take its input either.
async fn run(
    args: Vec<String>,
    size: Option<Size>,
    mut input: mpsc::Receiver<AttachInput>,
    screen: Screen,
    seen: Arc<Seen>,
) {
    let out = |text: String| screen.send(Ok(AttachOutput::Stdout(Bytes::from(text))));
    let mut status = 0;
    match args[0].as_str() {
        "cat" | "sizes" => {
            if let (Some(Size { columns, rows }), "sizes") = (size, args[0].as_str()) {
                let _ = out(format!("first {columns}x{rows}\n")).await;
            }
            while let Some(message) = input.recv().await {
                let sent = match message {
                    AttachInput::Stdin(bytes) => screen.send(Ok(AttachOutput::Stdout(bytes))).await,
                    AttachInput::Resize { columns, rows } if args[0] == "sizes" => {
                        out(format!("{columns}x{rows}\n")).await
                    }
                    AttachInput::Resize { .. } => Ok(()),
                    AttachInput::CloseStdin => {
                        seen.stdin_closed.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        }
        "fail" => {
            let _ = out("to stdout\n".into()).await;
            let _ = screen.send(Ok(AttachOutput::Stderr(Bytes::from_static(b"to stderr\n")))).await;
            status = args[1].parse().unwrap();
        }
        "flood" => {
            for _ in 0..args[1].parse::<usize>().unwrap() * 16 {
                if screen.send(Ok(AttachOutput::Stdout(Bytes::from(vec![b'f'; 64 * 1024])))).await.is_err() {
                    return;
                }
            }
        }
        "sleep" => {
            while let Some(message) = input.recv().await {
                if message == AttachInput::CloseStdin {
                    seen.stdin_closed.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        "deaf" => {
            screen.closed().await;
            drop(input);
        }
        other => panic!("{other}"),
    }
    let exit = Exit { status, at: jiff::Timestamp::UNIX_EPOCH, oom_killed: false };
    let _ = screen.send(Ok(AttachOutput::Exited(exit))).await;
}

impl Fake {
    fn process(&self, args: Vec<String>, size: Option<Size>, stdin_end: StdinEnd) -> Process {
        self.seen.begun.fetch_add(1, Ordering::SeqCst);
        let (keyboard, input) = mpsc::channel(1);
        let (screen, output) = mpsc::channel(1);
        tokio::spawn(run(args, size, input, screen, self.seen.clone()));
        let detached = Detached(self.seen.clone());
        let output = futures::stream::unfold((output, detached), |(mut output, detached)| async move {
            Some((output.recv().await?, (output, detached)))
        });
        Process { input: Box::new(Keyboard(keyboard)), output: output.boxed(), stdin_end }
    }
}

impl Target for Fake {
    fn exec<'a>(&'a self, exec: &'a Exec, size: Option<Size>) -> BoxFuture<'a, Result<Process>> {
        async move {
            if exec.args[0] == "missing" {
                return Err(Error::invalid("exec", "no such file"));
            }
            Ok(self.process(exec.args.clone(), size, StdinEnd::Closes))
        }
        .boxed()
    }

    fn attach<'a>(&'a self, attach: &'a Attach) -> BoxFuture<'a, Result<Process>> {
        async move { Ok(self.process(vec![attach.container.clone()], None, StdinEnd::Stays)) }.boxed()
    }

    fn connect<'a>(&'a self, pod: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream>> {
        async move {
            let refused = || Error::unavailable(format!("port {port} of {pod}"), "connection refused");
            TcpStream::connect(self.port.ok_or_else(refused)?).await.map_err(|_| refused())
        }
        .boxed()
    }
}

pub struct Server {
    pub streaming: Arc<Streaming>,
    pub seen: Arc<Seen>,
}

/// A server on a port of its own.
pub async fn server() -> Server {
    server_with(Cri::default(), None).await
}

/// `port`: where ports of pods lead.
pub async fn server_with(config: Cri, port: Option<std::net::SocketAddr>) -> Server {
    let seen = Arc::<Seen>::default();
    let fake = Arc::new(Fake { seen: seen.clone(), port });
    Server { streaming: Streaming::open(&config, fake).unwrap(), seen }
}

impl Server {
    /// The URL of a command with stdin and stdout, and with stderr or a terminal.
    pub fn exec(&self, args: &[&str], tty: bool) -> String {
        self.streaming
            .exec(Exec {
                container: "c".into(),
                args: args.iter().map(ToString::to_string).collect(),
                tty,
                stdin: true,
                stdout: true,
                stderr: !tty,
            })
            .unwrap()
    }

    pub fn forward(&self, ports: &[u16]) -> String {
        self.streaming.port_forward(PortForward { pod: "p".into(), ports: ports.to_vec() }).unwrap()
    }
}

/// Splits `http://HOST:PORT/PATH`.
pub fn parts(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

/// Sends a request and gives back the head of the answer, and the connection after it.
pub async fn request(url: &str, method: &str, headers: &str) -> (String, TcpStream) {
    let (host, path) = parts(url);
    let mut socket = TcpStream::connect(host).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap().to_lowercase(), socket)
}

pub async fn spdy(url: &str, protocol: &str) -> Client<TcpStream> {
    let headers = format!(
        "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n"
    );
    let (head, socket) = request(url, "POST", &headers).await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: spdy/3.1\r\n"), "{head}");
    Client::new(socket)
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..500 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 5 s: {what}");
}

/// A port that answers everything it was sent, once its client has ended its direction, in capitals; then it closes.
pub async fn shouting_port() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut said = Vec::new();
                let _ = socket.read_to_end(&mut said).await;
                let _ = socket.write_all(&said.to_ascii_uppercase()).await;
            });
        }
    });
    address
}
