"""Several machines that make one video: two network namespaces, each with processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from liveavatar.core.request import GenerationRequest
from tests.conftest import REPOSITORY, wait_until
from tests.free_port import free_port

TOKEN = "a token that is long enough to be one"
HEAD, OTHER = "10.77.61.1", "10.77.61.2"

APP = """
import json, sys
from pathlib import Path
from liveavatar.config import AppConfig
from liveavatar.core.request import GenerationRequest
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.integration.test_rank_faults import DEADLINES, MODULE, TWO_RANKS

class StudioOfTwoMachines(Studio):
    def _plan_for(self, engine, size, request):
        return TWO_RANKS
    _warm_plan = lambda self: TWO_RANKS

folder, endpoint, request = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
studio = StudioOfTwoMachines(AppConfig(
    data_dir=folder, worker_module=MODULE, deadlines=DEADLINES, nnodes=2, rdzv_endpoint=endpoint,
    token_file=folder.parent / "token", slots=1))
studio.start()
for line in sys.stdin:
    if line.strip() == "wait":
        wait_until(lambda: studio.engine_status().state == "ready", timeout_s=60)
        print("true", flush=True)
        continue
    job = wait_for_end(studio, studio.submit(GenerationRequest(**request | {"prompt": line.strip()})).id)
    print(json.dumps([job.state, job.diagnosis and job.diagnosis.code, job.frames_done, job.num_frames]), flush=True)
studio.close()
"""

AGENT = """
import logging, sys
from pathlib import Path
from liveavatar.service.cluster import Endpoint
from liveavatar.service.cluster_key import ClusterKey
from liveavatar.service.facade import Studio
from liveavatar.service.machine_agent import MachineAgent
from tests.integration.test_rank_faults import MODULE
folder, endpoint = Path(sys.argv[1]), Endpoint.parse(sys.argv[2])
MachineAgent(endpoint, ClusterKey.from_file(folder.parent / "token"), folder, module=MODULE, slots=1).serve()
"""


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def namespaces() -> Iterator[tuple[str, str]]:
    """Two machines that reach each other by one cable and nothing else."""
    first, second = f"la-{os.getpid()}-a", f"la-{os.getpid()}-b"
    try:
        if not (ip("netns", "add", first) and ip("netns", "add", second)):
            pytest.skip("making network namespaces needs root and the program ip")
        assert ip(
            "-n", first, "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", second
        )
        for namespace, device, address in [(first, "cable0", HEAD), (second, "cable1", OTHER)]:
            assert ip("-n", namespace, "address", "add", f"{address}/24", "dev", device)
            assert ip("-n", namespace, "link", "set", device, "up")
            assert ip("-n", namespace, "link", "set", "lo", "up")
        yield first, second
    except FileNotFoundError:
        pytest.skip("the program ip is not installed")
    finally:
        for namespace in (first, second):
            with_ip = subprocess.run(["which", "ip"], capture_output=True, check=False).returncode == 0
            if with_ip:
                ip("netns", "delete", namespace)


class TwoMachines:
    """The app on the first, an agent on the second; jobs go in by a line of text and come out as lines."""

    def __init__(
        self, namespaces: tuple[str, str], folder: Path, request: GenerationRequest, link: str
    ) -> None:
        self._namespaces, self._folder = namespaces, folder
        self._environment = os.environ | {"FAKE_LINK": link, "FAKE_TIMEOUT_S": "30"}
        self._endpoint = f"{HEAD}:{free_port()}"
        (folder / "token").write_text(TOKEN)
        self.app = self._start(0, APP, "app", json.dumps(vars(request)))
        self.agent = self._start(1, AGENT, "other")

    def wait_ready(self) -> None:
        """Wait until both have the engine loaded."""
        assert self._ask("wait") is True

    def make(self, prompt: str) -> list[object]:
        """Return [state, code, frames done, frames wanted] of one job."""
        made = self._ask(prompt)
        assert isinstance(made, list)
        return made

    def _ask(self, line: str) -> object:
        assert self.app.stdin is not None
        assert self.app.stdout is not None
        self.app.stdin.write(line + "\n")
        self.app.stdin.flush()
        answer = self.app.stdout.readline()
        assert answer, "the app ended"
        return json.loads(answer)

    def restart_agent(self) -> None:
        self.agent = self._start(1, AGENT, "other")

    def ranks_of_agent(self) -> list[psutil.Process]:
        return psutil.Process(self.agent.pid).children()

    def close(self) -> None:
        for process in (self.app, self.agent):
            process.kill()
            process.communicate()

    def _start(self, machine: int, script: str, folder: str, *arguments: str) -> subprocess.Popen[str]:
        command: Sequence[str] = [
            "ip", "netns", "exec", self._namespaces[machine], sys.executable, "-c", script,
            str(self._folder / folder), self._endpoint, *arguments,
        ]  # fmt: skip
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=self._environment,
        )


@pytest.fixture
def two_machines(
    namespaces: tuple[str, str], tmp_path: Path, make_request: Callable[..., GenerationRequest]
) -> Iterator[Callable[[str], TwoMachines]]:
    started: list[TwoMachines] = []

    def start(link: str) -> TwoMachines:
        started.append(TwoMachines(namespaces, tmp_path, make_request(), link))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_one_video_over_two_machines_with_torch(two_machines: Callable[[str], TwoMachines]) -> None:
    machines = two_machines("gloo")
    machines.wait_ready()
    assert machines.make("") == ["finished", None, 100, 100]
    assert len(machines.ranks_of_agent()) == 1


def test_failures_on_the_other_machine(two_machines: Callable[[str], TwoMachines]) -> None:
    machines = two_machines("tcp")
    machines.wait_ready()
    assert machines.make("kill@1:4")[:2] == ["failed", "engine_killed"]
    assert machines.make("oom@1:4")[:2] == ["failed", "graphics_memory_full"]
    machines.wait_ready()
    ranks = machines.ranks_of_agent()
    assert len(ranks) == 1
    machines.agent.kill()
    machines.agent.communicate()
    wait_until(lambda: not ranks[0].is_running())
    assert machines.make("")[1] in ("peer_lost", "machine_lost", "machines_too_few")
    machines.restart_agent()
    machines.wait_ready()
    assert machines.make("") == ["finished", None, 100, 100]
    ranks = machines.ranks_of_agent()
    machines.app.kill()
    wait_until(lambda: not ranks[0].is_running())
