"""Pulls an image, runs a command in a container, shows its output and ends as it ended: by containerd's API.

usage: by_containerd.py SOCKET IMAGE COMMAND [ARGUMENT...]

IMAGE is a full reference, such as docker.io/library/busybox:latest.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import uuid

import grpc
from containerd.services.containers.v1 import containers_pb2 as containers
from containerd.services.containers.v1 import containers_pb2_grpc
from containerd.services.content.v1 import content_pb2 as content
from containerd.services.content.v1 import content_pb2_grpc
from containerd.services.images.v1 import images_pb2 as images
from containerd.services.images.v1 import images_pb2_grpc
from containerd.services.snapshots.v1 import snapshots_pb2 as snapshots
from containerd.services.snapshots.v1 import snapshots_pb2_grpc
from containerd.services.tasks.v1 import tasks_pb2 as tasks
from containerd.services.tasks.v1 import tasks_pb2_grpc
from containerd.services.transfer.v1 import transfer_pb2 as transfer
from containerd.services.transfer.v1 import transfer_pb2_grpc
from containerd.types import platform_pb2
from containerd.types.transfer import imagestore_pb2, registry_pb2
from google.protobuf.any_pb2 import Any

# Every call says in which namespace it works.
NAMESPACE = [("containerd-namespace", "default")]
SNAPSHOTTER = "overlayfs"
PLATFORM = platform_pb2.Platform(os="linux", architecture={"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine])


def packed(message):
    """An Any as containerd wants it: the bare name as type URL."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def pull(channel, image):
    unpack = imagestore_pb2.UnpackConfiguration(platform=PLATFORM, snapshotter=SNAPSHOTTER)
    target = imagestore_pb2.ImageStore(name=image, platforms=[PLATFORM], unpacks=[unpack])
    source = registry_pb2.OCIRegistry(reference=image)
    request = transfer.TransferRequest(source=packed(source), destination=packed(target))
    transfer_pb2_grpc.TransferStub(channel).Transfer(request, metadata=NAMESPACE)


def blob(channel, digest):
    service = content_pb2_grpc.ContentStub(channel)
    chunks = service.Read(content.ReadContentRequest(digest=digest), metadata=NAMESPACE)
    return json.loads(b"".join(chunk.data for chunk in chunks))


def top_snapshot(channel, image):
    """The snapshot with the image's files: unpacking labelled the image's configuration with its name."""
    request = images.GetImageRequest(name=image)
    target = images_pb2_grpc.ImagesStub(channel).Get(request, metadata=NAMESPACE).image.target
    manifest = blob(channel, target.digest)
    if "manifests" in manifest:
        ours = [m for m in manifest["manifests"] if m["platform"]["architecture"] == PLATFORM.architecture]
        manifest = blob(channel, ours[0]["digest"])
    service = content_pb2_grpc.ContentStub(channel)
    info = service.Info(content.InfoRequest(digest=manifest["config"]["digest"]), metadata=NAMESPACE).info
    return info.labels[f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"]


def spec(container, command):
    """A runtime specification; a real client makes it from the image's configuration, too."""
    return {
        "ociVersion": "1.1.0",
        "process": {"args": command, "cwd": "/", "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        ],
        "linux": {
            "cgroupsPath": f"/{os.environ.get('CGROUP_PARENT', 'default')}/{container}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }


def copy(fifo, to):
    """Output arrives through a FIFO, which the shim has open until the task is deleted or its process has ended."""
    with open(fifo, "rb") as source:
        shutil.copyfileobj(source, to.buffer)


def run(channel, image, command):
    pull(channel, image)
    container = f"example-{uuid.uuid4().hex[:8]}"
    filesystem = snapshots_pb2_grpc.SnapshotsStub(channel)
    parent = top_snapshot(channel, image)
    request = snapshots.PrepareSnapshotRequest(snapshotter=SNAPSHOTTER, key=container, parent=parent)
    mounts = filesystem.Prepare(request, metadata=NAMESPACE).mounts

    records = containers_pb2_grpc.ContainersStub(channel)
    text = json.dumps(spec(container, command)).encode()
    record = containers.Container(
        id=container,
        image=image,
        runtime=containers.Container.Runtime(name="io.containerd.runc.v2"),
        spec=Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=text),
        snapshotter=SNAPSHOTTER,
        snapshot_key=container,
    )
    records.Create(containers.CreateContainerRequest(container=record), metadata=NAMESPACE)

    service = tasks_pb2_grpc.TasksStub(channel)
    with tempfile.TemporaryDirectory() as folder:
        fifos = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        for fifo in fifos:
            os.mkfifo(fifo)
        request = tasks.CreateTaskRequest(container_id=container, rootfs=mounts, stdout=fifos[0], stderr=fifos[1])
        readers = [threading.Thread(target=copy, args=pair) for pair in zip(fifos, (sys.stdout, sys.stderr))]
        for reader in readers:
            reader.start()
        service.Create(request, metadata=NAMESPACE)
        # Wait is called before Start, so that no end is missed.
        ended = service.Wait.future(tasks.WaitRequest(container_id=container), metadata=NAMESPACE)
        service.Start(tasks.StartRequest(container_id=container), metadata=NAMESPACE)
        status = ended.result().exit_status
        service.Delete(tasks.DeleteTaskRequest(container_id=container), metadata=NAMESPACE)
        for reader in readers:
            reader.join()
    records.Delete(containers.DeleteContainerRequest(id=container), metadata=NAMESPACE)
    request = snapshots.RemoveSnapshotRequest(snapshotter=SNAPSHOTTER, key=container)
    filesystem.Remove(request, metadata=NAMESPACE)
    return status


if __name__ == "__main__":
    socket, image, *command = sys.argv[1:]
    try:
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            sys.exit(run(channel, image, command))
    except grpc.RpcError as error:
        # The readers still wait for somebody to open the FIFOs.
        print(f"{error.code().name}: {error.details()}", file=sys.stderr, flush=True)
        os._exit(1)
