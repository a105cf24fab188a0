"""Rules about what holds the video up: on recordings, at their thresholds, and only when it lasts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from liveavatar.monitoring.bottlenecks import find_bottlenecks
from liveavatar.monitoring.readings import GpuProcess, GpuReading, HostReading, LinkLoad, Reading
from liveavatar.monitoring.trace import read_trace

TRACES = Path(__file__).parents[1] / "data" / "monitoring"
GIB = 1024**3
HOST = HostReading(total_bytes=64 * GIB, available_bytes=40 * GIB, cpu_percent=30.0)
FULL_LINK = LinkLoad(sent=60e9, received=5e9, limit=63e9)


def card(index: int = 0, *, is_ours: bool = True, **fields: Any) -> GpuReading:
    """A card at ordinary work."""
    process = GpuProcess(pid=7, name="python3", num_bytes=30 * GIB, is_ours=is_ours)
    ordinary: dict[str, Any] = {
        "name": "NVIDIA H200",
        "total_bytes": 140 * GIB,
        "used_bytes": 30 * GIB,
        "utilisation": 97,
        "memory_utilisation": 40,
        "temperature": 60,
        "is_slowed_by_heat": False,
        "pcie": LinkLoad(sent=1e9, received=1e9, limit=63e9),
        "processes": (process,),
    }
    return GpuReading(index=index, **(ordinary | fields))


def window(*gpus: GpuReading, host: HostReading = HOST, seconds: float = 10.0) -> list[Reading]:
    """The same state, ten times a second."""
    return [Reading(time_s=step / 10, gpus=gpus, host=host) for step in range(int(10 * seconds) + 1)]


def codes(readings: list[Reading]) -> list[str]:
    return [remark.code for remark in find_bottlenecks(readings)]


def test_a_busy_card_is_no_bottleneck() -> None:
    assert codes(window(card())) == []
    assert codes(window(card(0), card(1), card(2))) == []
    assert find_bottlenecks([]) == []


def test_full_links_between_waiting_cards() -> None:
    (remark,) = find_bottlenecks(
        window(*(card(n, utilisation=34, pcie=FULL_LINK) for n in range(1)), card(1))
    )
    assert remark.code == "communication_bound"
    assert remark.gpus == (0,)
    assert "waits for data from the other cards" in remark.text
    assert "95 %" in remark.text


def test_nvlink_counts_as_a_link() -> None:
    nvlink = LinkLoad(sent=430e9, received=430e9, limit=450e9)
    assert codes(window(card(0, utilisation=34, nvlink=nvlink), card(1))) == ["communication_bound"]


@pytest.mark.parametrize(
    ("fields", "is_told"),
    [
        ({"utilisation": 49}, True),
        ({"utilisation": 50}, False),
        ({"utilisation": 100, "memory_utilisation": 2}, True),  # what an H200 says while it only copies
        ({"utilisation": 100, "memory_utilisation": 10}, False),
        ({"utilisation": None, "memory_utilisation": None}, False),
        ({"utilisation": 49, "pcie": LinkLoad(sent=56e9, received=0, limit=63e9)}, False),
        ({"utilisation": 49, "pcie": LinkLoad(sent=60e9, received=0)}, False),
        ({"utilisation": 49, "pcie": None}, False),
    ],
)
def test_thresholds_of_the_link(fields: dict[str, Any], is_told: bool) -> None:
    found = codes(window(card(**({"pcie": FULL_LINK} | fields))))
    assert found == (["transfer_bound"] if is_told else [])


def test_a_recorded_copy_from_host_memory_is_found() -> None:
    readings = read_trace(TRACES / "one_gpu.jsonl")
    copying = [each for each in readings if 23 <= each.time_s <= 33]
    computing = [each for each in readings if 12.4 <= each.time_s <= 20.0]
    assert codes(copying) == ["transfer_bound"]
    assert codes([replace(each, time_s=1.3 * each.time_s) for each in computing]) == []


def test_recorded_full_links_of_eight_cards() -> None:
    readings = [each for each in read_trace(TRACES / "eight_gpus.jsonl") if each.time_s <= 10]
    found = find_bottlenecks(readings)
    assert [remark.gpus for remark in found if remark.code == "communication_bound"] == [
        (n,) for n in range(8)
    ]
    assert [remark.gpus for remark in found if remark.code == "heat"] == [(6,)]


def test_only_what_lasts_is_told() -> None:
    waiting = card(utilisation=30, pcie=FULL_LINK)
    assert codes(window(waiting, seconds=5)) == []
    readings = window(waiting)
    for number in range(10):
        readings[5 * number] = replace(readings[5 * number], gpus=(card(),))
    assert codes(readings) == ["transfer_bound"], "nine of ten readings are enough"
    for number in range(10):
        readings[5 * number + 2] = replace(readings[5 * number + 2], gpus=(card(),))
    assert codes(readings) == []


def test_cards_of_others_are_none_of_our_business() -> None:
    assert codes(window(card(is_ours=False, utilisation=30, pcie=FULL_LINK))) == []


def test_cards_whose_programs_are_hidden_are_judged() -> None:
    assert codes(window(card(processes=None, utilisation=30, pcie=FULL_LINK))) == ["transfer_bound"]


def test_memory_speed() -> None:
    assert codes(window(card(memory_utilisation=91))) == ["memory_bound"]
    assert codes(window(card(memory_utilisation=70))) == []
    assert codes(window(card(memory_utilisation=95, utilisation=60))) == []


def test_heat() -> None:
    (remark,) = find_bottlenecks(window(card(is_slowed_by_heat=True, temperature=91)))
    assert "91 °C" in remark.text
    assert find_bottlenecks(window(card(is_slowed_by_heat=True, temperature=None)))
    assert codes(window(card(is_slowed_by_heat=None, temperature=95))) == []


def test_a_processor_that_cannot_keep_up() -> None:
    busy = replace(HOST, cpu_percent=97.0)
    assert codes(window(card(utilisation=20), host=busy)) == ["processor_bound"]
    assert codes(window(card(utilisation=90), host=busy)) == []
    assert codes(window(card(utilisation=0), host=busy)) == [], "a card that does nothing waits for nobody"
    assert codes(window(host=busy)) == [], "without a card the processor is meant to be busy"


def test_one_card_does_all_the_work() -> None:
    (remark,) = find_bottlenecks(
        window(card(0, utilisation=10), card(1, utilisation=98), card(2, utilisation=5))
    )
    assert remark.code == "uneven"
    assert remark.gpus == (1,)
    assert codes(window(card(0, utilisation=60), card(1, utilisation=98))) == []
    assert codes(window(card(0, utilisation=None), card(1, utilisation=98))) == []


def test_host_memory() -> None:
    assert codes(window(host=replace(HOST, available_bytes=3 * GIB))) == ["host_memory"]
    assert codes(window(host=replace(HOST, available_bytes=4 * GIB))) == []


def test_a_card_that_comes_late_is_judged_by_its_own_time() -> None:
    readings = window(card(0))
    late = replace(readings[-1], gpus=(card(0), card(1, utilisation=30, pcie=FULL_LINK)))
    assert codes([*readings[:-1], late]) == []
