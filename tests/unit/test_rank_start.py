"""What a rank is started with: its card, its processors, its variables."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pynvml
import pytest

from liveavatar import __version__
from liveavatar.core.errors import EngineFailed
from liveavatar.core.launch import Launch, MachineState
from liveavatar.core.memory import MemoryBudget
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.wire_address import WireAddress
from liveavatar.monitoring.hardware import GpuSample
from liveavatar.monitoring.visible_cards import visible_cards
from liveavatar.service import engine_run, rank_processes
from liveavatar.service.cluster import Cluster, Endpoint
from liveavatar.service.cluster_key import ClusterKey
from liveavatar.worker import near_card

WIRE = WireAddress.in_directory(Path("/run"))


def environment(
    monkeypatch: pytest.MonkeyPatch,
    launch: dict[str, object],
    rank: int = 0,
    **operator: str,
) -> dict[str, str]:
    """Return what the process of a rank finds when the app was started with the operator's variables."""
    for name in ("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in operator.items():
        monkeypatch.setenv(name, value)
    fields = {"first_rank": 0, "num_ranks": 1, "world_size": 1, "store_host": "127.0.0.1", "store_port": 1}
    whole = Launch(**fields | {"wire": WIRE} | launch)  # type: ignore[arg-type]
    return dict(os.environ) | rank_processes._environment(whole, rank, Path("/run"))


def test_every_rank_has_segments_that_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    for num_ranks in (1, 2):
        found = environment(monkeypatch, {"num_ranks": num_ranks, "world_size": num_ranks})
        assert found["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    own = "expandable_segments:False"
    assert environment(monkeypatch, {}, PYTORCH_ALLOC_CONF=own)["PYTORCH_ALLOC_CONF"] == own
    assert "PYTORCH_ALLOC_CONF" not in environment(monkeypatch, {}, PYTORCH_CUDA_ALLOC_CONF=own)


def test_ranks_see_their_machines_cards_in_their_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 3 is the second one here: LOCAL_RANK 1 is the second card that it sees."""
    launch = {"first_rank": 2, "num_ranks": 2, "world_size": 4, "cards": ("GPU-c", "GPU-a")}
    found = environment(monkeypatch, launch, 3, CUDA_VISIBLE_DEVICES="0,1,2")
    assert found["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-a"
    assert found["LOCAL_RANK"] == "1"
    assert near_card.own_card(found) == "GPU-a"


def test_a_rank_sees_its_own_slice_of_a_divided_card(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = {"num_ranks": 2, "world_size": 2, "cards": ("MIG-a", "MIG-b")}
    assert environment(monkeypatch, launch, 1)["CUDA_VISIBLE_DEVICES"] == "MIG-b"


def test_cards_nobody_knows_are_left_to_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in environment(monkeypatch, {})
    found = environment(monkeypatch, {}, CUDA_VISIBLE_DEVICES="2")
    assert found["CUDA_VISIBLE_DEVICES"] == "2"
    assert found["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "2 means what nvidia-smi means"


def test_threads_are_shared_out_among_the_processors_that_may_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    assert environment(monkeypatch, {"num_ranks": 4, "world_size": 4})["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(monkeypatch, {})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("GPU-b", [1]),
        ("GPU-c, 0 ,0", [2, 0]),
        ("1,7,0", [1]),
        ("", []),
        ("-1", []),
    ],
)
def test_cards_are_used_that_cuda_would_show(setting: str | None, expected: list[int]) -> None:
    gpus = [
        GpuSample(
            index=index,
            name="card",
            uuid=f"GPU-{letter}{letter}",
            total_bytes=8,
            used_bytes=0,
            free_bytes=8,
            utilisation=None,
            temperature=None,
        )
        for index, letter in enumerate("abc")
    ]
    assert [gpu.index for gpu in visible_cards(gpus, setting)] == expected


@pytest.mark.parametrize(
    ("variables", "card"),
    [
        ({}, "0"),
        ({"LOCAL_RANK": "3"}, "3"),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "5,GPU-b"}, "GPU-b"),
        ({"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "5,6"}, "5"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
    ],
)
def test_card_of_a_rank(variables: dict[str, str], card: str) -> None:
    assert near_card.own_card(variables) == card


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """A tree like /sys/bus/pci/devices of a machine with two processor sockets."""
    for bus_id, near in {"0000:3b:00.0": "0-3,16-19\n", "0001:d8:00.0": "4\n", "0000:05:00.0": "odd"}.items():
        (tmp_path / bus_id).mkdir()
        (tmp_path / bus_id / "local_cpulist").write_text(near)
    return tmp_path


@pytest.mark.parametrize(
    ("bus_id", "processors"),
    [
        ("00000000:3B:00.0", {0, 1, 2, 3, 16, 17, 18, 19}),
        ("00000001:D8:00.0", {4}),
        ("00000000:05:00.0", set()),
        ("00000000:99:00.0", set()),
        ("", set()),
    ],
)
def test_processors_near_a_device(devices: Path, bus_id: str, processors: set[int]) -> None:
    assert near_card.near_processors(bus_id, devices) == processors


@pytest.mark.parametrize(
    ("allowed", "bound"),
    [({0, 1, 4, 5}, {0, 1}), ({0, 1}, None), ({4, 5}, None)],
    ids=["some are near", "all are near", "none is"],
)
def test_a_rank_stays_near_its_card_within_what_it_may_use(
    monkeypatch: pytest.MonkeyPatch, devices: Path, allowed: set[int], bound: set[int] | None
) -> None:
    asked: list[str] = []
    set_to: list[set[int]] = []
    near = near_card.near_processors
    monkeypatch.setattr(near_card, "_bus_id", lambda card: asked.append(card) or "00000000:3B:00.0")
    monkeypatch.setattr(near_card, "near_processors", lambda bus_id: near(bus_id, devices))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, chosen: set_to.append(chosen))
    near_card.stay_near_card({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"})
    assert asked == ["GPU-b"]
    assert set_to == ([] if bound is None else [bound])


def planned(*places: tuple[str, str]) -> ExecutionPlan:
    """Return a plan of one step for each (card, machine)."""
    budgets = [
        MemoryBudget(rank=rank, role="", gpu="", available_bytes=1, items=(), card=card, machine=machine)
        for rank, (card, machine) in enumerate(places)
    ]
    return ExecutionPlan(
        engine="s2v",
        width=64,
        height=64,
        parallel=ParallelPlan(step_split=(1,) * len(places)),
        budgets=tuple(budgets),
    )


class StartedParts:
    """Stands in for the processes of a run, here and elsewhere; keeps what was to be started."""

    launches: ClassVar[list[tuple[str, Launch]]] = []

    def __init__(self, *arguments: object) -> None:
        launch = next(each for each in arguments if isinstance(each, Launch))
        name = arguments[1] if isinstance(arguments[0], Cluster) else ""
        self.launches.append((str(name), launch))

    def end(self) -> None:
        pass


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An app of two ranks, and one machine that joined with four."""
    monkeypatch.setattr(StartedParts, "launches", [])
    monkeypatch.setattr(engine_run, "RankProcesses", StartedParts)
    monkeypatch.setattr(engine_run, "RemoteRanks", StartedParts)
    key = ClusterKey.from_token("a token that is long enough to be one")
    cluster = Cluster(Endpoint("127.0.0.1", engine_run.free_port()), key, own_slots=2)
    state = MachineState(name="other", version=__version__, slots=4, address="10.0.0.2")
    cluster.machines = (state,)
    monkeypatch.setattr(cluster, "state", {"other": state}.get)
    yield cluster
    cluster.close()


def started(plan: ExecutionPlan, cluster: Cluster, folder: Path) -> list[tuple[str, Launch]]:
    engine_run.EngineRun(cluster.context, "", folder / "log", plan, cluster).end()
    return StartedParts.launches


def test_ranks_start_where_their_cards_are(cluster: Cluster, tmp_path: Path) -> None:
    plan = planned(("GPU-b", ""), ("GPU-z", "other"), ("GPU-y", "other"))
    (_, here), (name, there) = started(plan, cluster, tmp_path)
    assert name == "other"
    assert (here.ranks, here.cards) == (range(1), ("GPU-b",))
    assert (there.ranks, there.cards) == (range(1, 3), ("GPU-z", "GPU-y"))
    assert here.store_host == there.store_host == "127.0.0.1"


def test_ranks_meet_where_the_first_of_them_is(cluster: Cluster, tmp_path: Path) -> None:
    """All four share a layer, for which the app's own machine has too few cards."""
    plan = dataclasses.replace(
        planned(*[("", "other")] * 4), parallel=ParallelPlan(step_split=(4,), tensor=4)
    )
    ((name, launch),) = started(plan, cluster, tmp_path)
    assert (name, launch.ranks, launch.cards) == ("other", range(4), ())
    assert launch.store_host == "10.0.0.2"
    assert launch.wire.control.startswith("tcp://127.0.0.1:"), "the app is reached over the network"
    StartedParts.launches.clear()
    same = dataclasses.replace(plan, budgets=())
    ((name, launch),) = started(same, cluster, tmp_path)
    assert (name, launch.store_host) == ("other", "10.0.0.2")


def test_a_machine_that_left_since_is_told(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="machine"):
        started(planned(("GPU-a", ""), ("GPU-b", "gone")), cluster, tmp_path)


def test_a_driver_that_does_not_tell_binds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*arguments: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", silent)
    before = os.sched_getaffinity(0)
    near_card.stay_near_card({"CUDA_VISIBLE_DEVICES": "GPU-a"})
    assert os.sched_getaffinity(0) == before


def test_a_killed_rank_that_takes_long_to_die_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the kernel frees pinned memory for longer than is waited: the end of the process is not seen."""
    monkeypatch.setattr(rank_processes, "_REAP_S", 0.0)
    monkeypatch.setattr(subprocess.Popen, "poll", lambda process: None)
    launch = Launch(first_rank=2, num_ranks=1, world_size=3, store_host="127.0.0.1", store_port=1, wire=WIRE)
    started = rank_processes.RankProcesses("tests.fakes.worker", launch, tmp_path, tmp_path / "log")
    started.end()
    assert "killed ranks [2] are still there" in caplog.text
    monkeypatch.undo()
    assert started.wait(30.0), "it was killed all the same"
    assert started.exit_codes() == {2: -signal.SIGKILL}
