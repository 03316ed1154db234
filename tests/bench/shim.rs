//! The path through the shim alone: containerd's task API over a connection to a shim that runs already; no daemon, no client
//! program, no image.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use longshore_proto::containerd::task::v3 as task;
use longshore_proto::ttrpc::{self, Call, ClientStreams, Decoder, Kind, Response, Target};
use longshore_tests::daemon::program;
use prost::Message;

use crate::arena::{Arena, MARK, OWNER, mark};
use crate::place::Place;

const TASK: &str = "containerd.task.v3.Task";
const NAMESPACE: &str = "bench";
/// Pause between a shim's start and the measurement.
const SETTLE: Duration = Duration::from_millis(30);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes containers from a bundle that a runtime has run, too.
pub struct ShimPath {
    folder: PathBuf,
    config: PathBuf,
    place: Place,
}

impl ShimPath {
    /// `bundle` holds the config.json; the place is the runtimes'.
    pub fn new(arena: &Arena, bundle: &Path) -> Result<Self> {
        let folder = arena.path().join("shim-path");
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder, config: bundle.join("config.json"), place: Place::v1()? })
    }

    /// From `Create` to the answer of `Delete`; the shim was started before, as by containerd, and is ended afterwards.
    pub fn run(&self, id: &str) -> Result<Duration> {
        let (bundle, id) = (self.folder.join(id), id.to_owned());
        std::fs::create_dir(&bundle)?;
        std::fs::copy(&self.config, bundle.join("config.json"))?;
        let taken = self.place.run(move || {
            let mut client = Client::connect(&start(&bundle, &id)?)?;
            // Its own start is over.
            std::thread::sleep(SETTLE);
            let taken = one(&mut client, &bundle, &id);
            let ended = client.call::<_, ()>("Shutdown", &task::ShutdownRequest { id, now: true });
            std::fs::remove_dir_all(&bundle)?;
            taken.and_then(|taken| ended.map(|()| taken))
        });
        taken?
    }
}

fn one(client: &mut Client, bundle: &Path, id: &str) -> Result<Duration> {
    let id = id.to_owned();
    let bundle = bundle.to_str().context("a folder that is not UTF-8")?.to_owned();
    let exec_id = String::new();
    let began = Instant::now();
    let create = task::CreateTaskRequest { id: id.clone(), bundle, ..Default::default() };
    let _: task::CreateTaskResponse = client.call("Create", &create)?;
    let start = task::StartRequest { id: id.clone(), exec_id: exec_id.clone() };
    let _: task::StartResponse = client.call("Start", &start)?;
    let wait = task::WaitRequest { id: id.clone(), exec_id: exec_id.clone() };
    let ended: task::WaitResponse = client.call("Wait", &wait)?;
    let _: task::DeleteResponse = client.call("Delete", &task::DeleteRequest { id, exec_id })?;
    ensure!(ended.exit_status == 0, "true ended with {}", ended.exit_status);
    Ok(began.elapsed())
}

/// Where the new shim of a bundle listens.
fn start(bundle: &Path, id: &str) -> Result<PathBuf> {
    let output = Command::new(program("containerd-shim-longshore-v1"))
        .args([
            "-namespace",
            NAMESPACE,
            "-address",
            "/nowhere",
            "-publish-binary",
            "/nowhere",
            "-id",
            id,
            "start",
        ])
        .current_dir(bundle)
        .env_remove("TTRPC_ADDRESS")
        .env(MARK, mark())
        .env(OWNER, "shim")
        .stdin(Stdio::null())
        .output()
        .context("starting a shim")?;
    ensure!(output.status.success(), "start: {}", String::from_utf8_lossy(&output.stderr));
    let address = String::from_utf8(output.stdout)?;
    Ok(address.trim().strip_prefix("unix://").context("an address of another form")?.into())
}

/// One call after the other.
struct Client {
    socket: UnixStream,
    decoder: Decoder,
    numbers: ClientStreams,
}

impl Client {
    fn connect(path: &Path) -> Result<Self> {
        let socket =
            UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, decoder: Decoder::new(), numbers: ClientStreams::default() })
    }

    fn call<Q: Message, A: Message + Default>(&mut self, method: &str, request: &Q) -> Result<A> {
        let stream = self.numbers.open().context("no more streams")?;
        let mut bytes = Vec::new();
        ttrpc::encode_request(&mut bytes, stream, Target::new(TASK, method, Call::Unary), request)?;
        self.socket.write_all(&bytes)?;
        let mut buffer = [0; 16 << 10];
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                if frame.kind != Kind::Response || frame.stream != stream {
                    continue;
                }
                let response: Response = frame.decode("Response")?;
                return match response.into_result() {
                    Ok(payload) => Ok(A::decode(payload.as_slice())?),
                    Err(error) => bail!("{method}: {error}"),
                };
            }
            match self.socket.read(&mut buffer)? {
                0 => bail!("{method}: the shim hung up"),
                count => self.decoder.feed(&buffer[..count]),
            }
        }
    }
}
