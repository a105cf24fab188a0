"""Machines that join an app, and those that do not: agents and strangers in this process."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from liveavatar import __version__
from liveavatar.cli import main
from liveavatar.config import AppConfig
from liveavatar.core import wire
from liveavatar.core.errors import InputRejected, LiveAvatarError
from liveavatar.core.launch import Launch, MachineState
from liveavatar.core.request import GenerationRequest
from liveavatar.core.wire_address import WireAddress
from liveavatar.service.cluster import Cluster, Endpoint, RemoteRanks
from liveavatar.service.cluster_key import ClusterKey
from liveavatar.service.facade import Studio
from liveavatar.service.machine_agent import MachineAgent
from tests.conftest import REPOSITORY, wait_until
from tests.free_port import free_port

TOKEN = "a token that is long enough to be one"
STRANGER = MachineState(name="stranger", version=__version__, slots=8)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(Endpoint("127.0.0.1", free_port()), ClusterKey.from_token(TOKEN), own_slots=1)
    yield cluster
    cluster.close()


Open = Callable[[], "zmq.Socket[bytes]"]


@pytest.fixture
def open_socket() -> Iterator[Open]:
    """Open sockets of machines that are no agents of ours."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets: list[zmq.Socket[bytes]] = []

    def open_one() -> zmq.Socket[bytes]:
        sockets.append(context.socket(zmq.DEALER))
        return sockets[-1]

    yield open_one
    for socket in sockets:
        socket.close(linger=0)
    context.term()


class Told:
    """A cluster that knows what the test says."""

    def __init__(self) -> None:
        self.machine: MachineState | None = dataclasses.replace(STRANGER, instance="first")
        self.run = ""

    def start(self, name: str, launch: Launch, run: str) -> None:
        self.run = run

    def state(self, name: str) -> MachineState | None:
        return self.machine


@pytest.mark.parametrize("was_running", [False, True])
@pytest.mark.parametrize("is_missed", [False, True])
def test_a_machine_that_comes_back_does_not_undo_its_loss(was_running: bool, is_missed: bool) -> None:
    """Neither when nobody looked while it was away, nor when its ranks had not even started."""
    told = Told()
    launch = Launch(
        first_rank=1,
        num_ranks=2,
        world_size=3,
        store_host="192.0.2.1",
        store_port=1,
        wire=WireAddress.in_directory(Path()),
    )
    ranks = RemoteRanks(told, "stranger", launch)  # type: ignore[arg-type]
    assert ranks.loss() == {}
    if was_running:
        told.machine = dataclasses.replace(STRANGER, instance="first", run=told.run)
        assert ranks.loss() == {}
    if not is_missed:
        told.machine = None
        assert ranks.loss().keys() == {1, 2}
    told.machine = dataclasses.replace(STRANGER, instance="second")
    for _ in range(2):
        assert {diagnosis.code for diagnosis in ranks.loss().values()} == {"machine_lost"}


def test_only_machines_with_the_token_join(cluster: Cluster, open_socket: Open, tmp_path: Path) -> None:
    agents = {
        token: MachineAgent(
            cluster.endpoint,
            ClusterKey.from_token(token),
            tmp_path / token,
            module="tests.fakes.worker",
            slots=3,
        )
        for token in (TOKEN[::-1], TOKEN)
    }
    stranger = open_socket()
    stranger.connect(f"tcp://{cluster.endpoint}")
    stranger.send_multipart(wire.encode(STRANGER))
    knows_the_public_key = open_socket()
    own_public, own_secret = zmq.curve_keypair()
    knows_the_public_key.curve_serverkey = cluster.key.public.encode()
    knows_the_public_key.curve_publickey, knows_the_public_key.curve_secretkey = own_public, own_secret
    knows_the_public_key.connect(f"tcp://{cluster.endpoint}")
    knows_the_public_key.send_multipart(wire.encode(STRANGER))

    def meet() -> bool:
        for agent in agents.values():
            agent.step()
        cluster.poll()
        return bool(cluster.machines)

    wait_until(meet)
    until = time.monotonic() + 1  # for those that must not come
    while time.monotonic() < until:
        meet()
    assert [machine.slots for machine in cluster.machines] == [3]
    for agent in agents.values():
        agent.close()


def test_machine_of_another_version_is_left_out(
    cluster: Cluster, open_socket: Open, caplog: pytest.LogCaptureFixture
) -> None:
    old, odd = open_socket(), open_socket()
    for socket in (old, odd):
        cluster.key.connect(socket)
        socket.connect(f"tcp://{cluster.endpoint}")
    old.send_multipart(wire.encode(MachineState(name="old", version="0.0.1", slots=1)))
    odd.send(b"what is this")
    wait_until(lambda: cluster.poll(0.05) or caplog.text.count("another version") == 2)
    assert cluster.machines == ()


@pytest.mark.parametrize("text", ["29400", "host:", "host:port", "host:70000", ":29400"])
def test_endpoint_that_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Endpoint.parse(text)


def test_token_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "cluster.token"
    key = ClusterKey.from_own_file(path)
    assert ClusterKey.from_own_file(path) == key
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match="32 characters"):
        ClusterKey.from_token("short")


def test_joining_without_the_token_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "liveavatar", "join", "--rdzv-endpoint", "127.0.0.1:29400"]
    refused = subprocess.run(
        [*command, "--token-file", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert refused.returncode == 2
    assert "cannot join" in refused.stderr


def test_missing_machines_are_named_and_the_built_in_engine_goes_on(
    tmp_path: Path, make_request: Callable[..., GenerationRequest]
) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    studio = Studio(AppConfig(data_dir=tmp_path, ckpt_dir=tmp_path, nnodes=2, rdzv_endpoint=endpoint))
    try:
        with pytest.raises(
            InputRejected, match=rf"1 of 2 machines are here.*join --rdzv-endpoint {endpoint}"
        ):
            studio.submit(dataclasses.replace(make_request(), engine="s2v"))
        assert studio.submit(make_request()).engine == "portrait"
        assert (tmp_path / "cluster.token").exists()
    finally:
        studio.close()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--nnodes", "2"], "--rdzv-endpoint HOST:PORT"),
        (["--rdzv-endpoint", "192.0.2.1:29400"], "Choose an address of this machine"),
    ],
)
def test_machines_that_cannot_meet_are_told_to_who_makes_one_video(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    cause: str,
) -> None:
    monkeypatch.setenv("LIVEAVATAR_DATA_DIR", str(tmp_path))
    command = ["generate", "--image", "a", "--audio", "b", "--out", str(tmp_path / "video.mp4")]
    assert main([*command, *options]) == 2
    assert cause in capsys.readouterr().err


def test_making_one_video_waits_for_the_machines(
    fake_config: AppConfig,
    make_request: Callable[..., GenerationRequest],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a script does it that starts this command on one machine and `join` on the others, in any order."""
    request, endpoint = make_request(seconds=1.0), f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("LIVEAVATAR_DATA_DIR", str(fake_config.data_dir))
    token_file = fake_config.data_dir / "cluster.token"
    made: list[int] = []
    target = fake_config.data_dir / "video.mp4"
    command = ["generate", "--image", request.image_path, "--audio", request.audio_path, "--out", str(target)]
    command += [
        "--nnodes",
        "2",
        "--rdzv-endpoint",
        endpoint,
        "--whole-picture",
        "--size",
        request.size,
        "--json",
    ]
    thread = threading.Thread(target=lambda: made.append(main(command)))
    fake_config.data_dir.mkdir(parents=True, exist_ok=True)
    thread.start()
    wait_until(token_file.exists)
    time.sleep(1.5)  # in which it must not go on
    assert "accepted" not in capsys.readouterr().out
    agent = MachineAgent(
        Endpoint.parse(endpoint),
        ClusterKey.from_file(token_file),
        fake_config.data_dir / "other",
        module=fake_config.worker_module,
        slots=1,
    )
    while thread.is_alive():
        agent.step()
    agent.close()
    assert made == [0]
    assert "accepted" in capsys.readouterr().out
    assert target.exists()
    assert not list(fake_config.data_dir.glob("liveavatar-*")), "nothing is left in the common folder"


def test_address_of_another_machine_cannot_be_listened_at(tmp_path: Path) -> None:
    with pytest.raises(LiveAvatarError, match="Choose an address of this machine"):
        Studio(AppConfig(data_dir=tmp_path, rdzv_endpoint="192.0.2.1:29400"))


def test_machines_without_a_meeting_point_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--rdzv-endpoint"):
        AppConfig(data_dir=tmp_path, nnodes=2)
