"""Pulls an image, runs a command in a container, shows its output and ends as it ended: by longshore's own API.

usage: engine.py SOCKET IMAGE COMMAND [ARGUMENT...]
"""

import queue
import sys

import grpc
from longshore.engine.v1 import containers_pb2 as containers
from longshore.engine.v1 import containers_pb2_grpc, images_pb2_grpc
from longshore.engine.v1 import images_pb2 as images


def run(channel, image, command):
    # Pull: a stream of progress that ends with `done`, or with an error.
    for progress in images_pb2_grpc.ImagesStub(channel).Pull(images.PullRequest(reference=image)):
        if progress.WhichOneof("what") == "resolving":
            print("pulling", progress.resolving, file=sys.stderr)

    service = containers_pb2_grpc.ContainersStub(channel)
    config = containers.ContainerConfig(image=image, args=command)
    events = service.Create(containers.CreateRequest(config=config))
    container = [event.created.id for event in events if event.HasField("created")][0]
    try:
        # Attach and start in one call, so that no output is missed. The stream ends after the container has.
        start = containers.AttachStart(container=container, stdout=True, stderr=True, start=True)
        # What we send; its end would detach us.
        inputs = queue.SimpleQueue()
        inputs.put(containers.AttachInput(start=start))
        for message in service.Attach(iter(inputs.get, None)):
            if message.WhichOneof("what") == "start_failed":
                raise SystemExit(message.start_failed.message)
            sys.stdout.buffer.write(message.stdio.stdout)
            sys.stderr.buffer.write(message.stdio.stderr)
        inputs.put(None)
        # Wait may be called at any time, also after the end.
        return service.Wait(containers.WaitRequest(container=container)).exited.exit_code
    finally:
        service.Remove(containers.RemoveRequest(container=container, force=True))


if __name__ == "__main__":
    socket, image, *command = sys.argv[1:]
    try:
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            sys.exit(run(channel, image, command))
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
