// Pulls an image, runs a command in a container, shows its output and ends as it ended: by containerd's API.
//
// usage: node by_containerd.js SOCKET IMAGE COMMAND [ARGUMENT...]
//
// IMAGE is a full reference, such as docker.io/library/busybox:latest.
"use strict";

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const protobuf = require("protobufjs");

const SNAPSHOTTER = "overlayfs";
const PLATFORM = { os: "linux", architecture: { x64: "amd64", arm64: "arm64" }[process.arch] };

// The folder proto/ of longshore's source; nothing is generated.
const proto = path.join(__dirname, "../../../proto");
const services = ["containers", "content", "images", "snapshots", "tasks", "transfer"];
const files = services.map((name) => `containerd/services/${name}/v1/${name}.proto`);
const loaded = grpc.loadPackageDefinition(loader.loadSync(files, { includeDirs: [proto], keepCase: true, defaults: true }));

const root = new protobuf.Root();
root.resolvePath = (_, target) => path.join(proto, target);
root.loadSync(["registry", "imagestore"].map((name) => `containerd/types/transfer/${name}.proto`), { keepCase: true });

// An Any as containerd wants it: the bare name as type URL.
function packed(type_url, fields) {
  const type = root.lookupType(type_url);
  return { type_url, value: type.encode(type.fromObject(fields)).finish() };
}

function clients(socket) {
  const metadata = new grpc.Metadata();
  // Every call says in which namespace it works.
  metadata.set("containerd-namespace", "default");
  const all = {};
  for (const name of services) {
    const service = name[0].toUpperCase() + name.slice(1);
    const Client = loaded.containerd.services[name].v1[service];
    const client = new Client(`unix://${socket}`, grpc.credentials.createInsecure());
    all[name] = {
      call: (method, request) => promisify(client[method]).call(client, request, metadata),
      stream: (method, request) => client[method](request, metadata),
      close: () => client.close(),
    };
  }
  return all;
}

async function pull(api, image) {
  const source = packed("containerd.types.transfer.OCIRegistry", { reference: image });
  const destination = packed("containerd.types.transfer.ImageStore", {
    name: image,
    platforms: [PLATFORM],
    unpacks: [{ platform: PLATFORM, snapshotter: SNAPSHOTTER }],
  });
  await api.transfer.call("Transfer", { source, destination });
}

async function blob(api, digest) {
  const chunks = [];
  for await (const chunk of api.content.stream("Read", { digest })) chunks.push(chunk.data);
  return JSON.parse(Buffer.concat(chunks));
}

// The snapshot with the image's files: unpacking labelled the image's configuration with its name.
async function topSnapshot(api, image) {
  const { target } = (await api.images.call("Get", { name: image })).image;
  let manifest = await blob(api, target.digest);
  if (manifest.manifests) {
    const ours = manifest.manifests.find((one) => one.platform.architecture === PLATFORM.architecture);
    manifest = await blob(api, ours.digest);
  }
  const { info } = await api.content.call("Info", { digest: manifest.config.digest });
  return info.labels[`containerd.io/gc.ref.snapshot.${SNAPSHOTTER}`];
}

// A runtime specification; a real client makes it from the image's configuration, too.
function spec(container, command) {
  return {
    ociVersion: "1.1.0",
    process: { args: command, cwd: "/", env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], user: { uid: 0, gid: 0 } },
    root: { path: "rootfs" },
    mounts: [
      { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
      { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "mode=755", "size=65536k"] },
    ],
    linux: {
      cgroupsPath: `/${process.env.CGROUP_PARENT ?? "default"}/${container}`,
      namespaces: ["pid", "mount", "ipc", "uts", "network"].map((type) => ({ type })),
    },
  };
}

// Output arrives through a FIFO, which the shim has open until the process has ended.
function copy(fifo, to) {
  const source = fs.createReadStream(fifo);
  source.on("data", (data) => to.write(data));
  return new Promise((resolve, reject) => source.on("end", resolve).on("error", reject));
}

async function run(api, image, command) {
  await pull(api, image);
  const container = `example-${process.pid}-${Date.now()}`;
  const parent = await topSnapshot(api, image);
  const { mounts } = await api.snapshots.call("Prepare", { snapshotter: SNAPSHOTTER, key: container, parent });
  const value = Buffer.from(JSON.stringify(spec(container, command)));
  await api.containers.call("Create", {
    container: {
      id: container,
      image,
      runtime: { name: "io.containerd.runc.v2" },
      spec: { type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec", value },
      snapshotter: SNAPSHOTTER,
      snapshot_key: container,
    },
  });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "example-"));
  const [stdout, stderr] = ["stdout", "stderr"].map((name) => path.join(folder, name));
  execFileSync("mkfifo", [stdout, stderr]);
  const copies = [copy(stdout, process.stdout), copy(stderr, process.stderr)];
  await api.tasks.call("Create", { container_id: container, rootfs: mounts, stdout, stderr });
  // Wait is called before Start, so that no end is missed.
  const ended = api.tasks.call("Wait", { container_id: container });
  await api.tasks.call("Start", { container_id: container });
  const { exit_status } = await ended;
  await api.tasks.call("Delete", { container_id: container });
  await Promise.all(copies);
  fs.rmSync(folder, { recursive: true });
  await api.containers.call("Delete", { id: container });
  await api.snapshots.call("Remove", { snapshotter: SNAPSHOTTER, key: container });
  return exit_status;
}

const [socket, image, ...command] = process.argv.slice(2);
run(clients(socket), image, command).then(
  (code) => process.exit(code),
  (error) => {
    console.error(error.message);
    process.exit(1);
  },
);
