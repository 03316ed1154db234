// Pulls an image, runs a command in a container, shows its output and ends as it ended: by longshore's own API.
//
// usage: node engine.js SOCKET IMAGE COMMAND [ARGUMENT...]
"use strict";

const path = require("node:path");
const { promisify } = require("node:util");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

// The folder proto/ of longshore's source; nothing is generated.
const includeDirs = [path.join(__dirname, "../../../proto")];
const files = ["containers", "images"].map((name) => `longshore/engine/v1/${name}.proto`);
const options = { includeDirs, keepCase: true, defaults: true, oneofs: true };
const { Containers, Images } = grpc.loadPackageDefinition(loader.loadSync(files, options)).longshore.engine.v1;

async function run(socket, image, command) {
  const [images, service] = [Images, Containers].map(
    (Client) => new Client(`unix://${socket}`, grpc.credentials.createInsecure()),
  );
  const call = (method, request) => promisify(service[method]).call(service, request);

  // Pull: a stream of progress that ends with `done`, or with an error.
  for await (const progress of images.Pull({ reference: image })) {
    if (progress.what === "resolving") console.error("pulling", progress.resolving);
  }

  let container;
  for await (const event of service.Create({ config: { image, args: command } })) {
    if (event.what === "created") container = event.created.id;
  }
  try {
    // Attach and start in one call, so that no output is missed. The stream ends after the container has.
    const attached = service.Attach();
    attached.write({ start: { container, stdout: true, stderr: true, start: true } });
    for await (const message of attached) {
      if (message.what === "start_failed") throw new Error(message.start_failed.message);
      if (message.what !== "stdio") continue;
      process[message.stdio.what].write(message.stdio[message.stdio.what]);
    }
    // Before, the end of what we send would have detached us.
    attached.end();
    // Wait may be called at any time, also after the end.
    return (await call("Wait", { container })).exited.exit_code;
  } finally {
    await call("Remove", { container, force: true });
    [images, service].forEach((client) => client.close());
  }
}

const [socket, image, ...command] = process.argv.slice(2);
run(socket, image, command).then(
  (code) => (process.exitCode = code),
  (error) => {
    console.error(error.message);
    process.exitCode = 1;
  },
);
