"""The gauge on recorded machines with one, five and eight graphics cards, and on drivers that fail."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from liveavatar import cli
from liveavatar.monitoring.hardware import HardwareMonitor, HardwareSnapshot
from liveavatar.monitoring.nvml_reader import NvmlReader
from liveavatar.monitoring.prometheus import metrics_text
from liveavatar.monitoring.readings import GpuProcess, HostReading, Reading, Unreadable
from liveavatar.monitoring.trace import read_trace, record, write_trace
from tests.fakes.recorded_machine import TRACES, Machine, trace
from tests.fakes.replayed_nvml import FIELDS, ReplayedNvml

GIB = 1024**3
HOST = HostReading(total_bytes=64 * GIB, available_bytes=40 * GIB)


def still(reading: Reading, seconds: float = 12.0) -> list[Reading]:
    """The same moment, twice a second."""
    return [replace(reading, time_s=step / 2) for step in range(int(2 * seconds))]


def codes(snapshot: HardwareSnapshot) -> list[str]:
    return [remark.code for remark in snapshot.warnings]


@pytest.mark.parametrize(("name", "count"), [("one_gpu", 1), ("five_gpus", 5), ("eight_gpus", 8)])
def test_every_card_is_read(name: str, count: int) -> None:
    readings = trace(name)
    snapshot = Machine(readings).play()
    assert len(snapshot.gpus) == count
    assert not snapshot.problem
    assert not snapshot.unknowns
    for gpu, recorded in zip(snapshot.gpus, readings[-1].gpus, strict=True):
        assert gpu.name == recorded.name
        assert gpu.used_bytes == recorded.used_bytes
        assert gpu.used_bytes + gpu.free_bytes == gpu.total_bytes
        assert gpu.utilisation == recorded.utilisation
        assert gpu.temperature == recorded.temperature
        assert gpu.power_w == pytest.approx(recorded.power_w, abs=0.01)


def test_our_memory_and_that_of_others() -> None:
    machine = Machine(trace("one_gpu"))
    (gpu,) = machine.play(until_s=18).gpus
    assert gpu.own_bytes == pytest.approx(61 * GIB, rel=0.02)
    assert gpu.programs == (("python3", 22_114_467_840),)
    assert codes(machine.look()) == ["other_programs"]
    (gpu,) = machine.play().gpus
    assert gpu.own_bytes == 0, "the engine has ended"


def test_the_first_reading_names_programs_already() -> None:
    machine = Machine(trace("one_gpu"))
    machine.monitor.read()
    assert machine.look().gpus[0].programs


def test_the_culprit_is_named() -> None:
    snapshot = Machine(trace("five_gpus")).play()
    (remark,) = snapshot.warnings
    assert (
        remark.text
        == "Other programs use 46.0 GB on GPU 4 (ollama 46.0 GB). End them to make room for larger pictures."
    )
    assert remark.gpus == (3,)


def test_a_peak_between_two_questions_is_kept() -> None:
    quiet = trace("five_gpus")[0]
    high = replace(quiet.gpus[1], used_bytes=60 * GIB)
    burst = replace(quiet, gpus=(quiet.gpus[0], high, *quiet.gpus[2:]))
    machine = Machine(
        [replace(each, time_s=0.1 * n) for n, each in enumerate([quiet, quiet, burst, quiet, quiet])]
    )
    snapshot = machine.play()
    assert snapshot.gpus[1].used_bytes == 30 * GIB
    assert snapshot.gpus[1].peak_bytes == 60 * GIB
    assert max(used or 0 for used in snapshot.gpus[1].history) == 60 * GIB


def test_peaks_are_forgotten_and_history_lasts_two_minutes() -> None:
    first = trace("one_gpu")[0]
    high = replace(first, gpus=(replace(first.gpus[0], used_bytes=100 * GIB),))
    machine = Machine([high, *(replace(first, time_s=float(second)) for second in range(1, 300))])
    (gpu,) = machine.play(until_s=60).gpus
    assert gpu.peak_bytes == first.gpus[0].used_bytes
    assert gpu.history[0] == 100 * GIB
    (gpu,) = machine.play().gpus
    assert len(gpu.history) == 60
    assert set(gpu.history) == {first.gpus[0].used_bytes}


@pytest.mark.parametrize("name", ["one_gpu", "five_gpus", "eight_gpus"])
@pytest.mark.parametrize("field", FIELDS)
def test_no_field_is_needed(name: str, field: str) -> None:
    readings = trace(name)
    snapshot = Machine(readings, unavailable=(field,)).play()
    assert len(snapshot.gpus) == len(readings[-1].gpus)
    assert [gpu.used_bytes for gpu in snapshot.gpus] == [gpu.used_bytes for gpu in readings[-1].gpus]
    told = " ".join(remark.text for remark in snapshot.unknowns)
    if field in {"utilisation", "temperature", "power_w"}:
        assert f"not report {field.removesuffix('_w')}" in told
    elif field == "processes":
        assert all(gpu.own_bytes is None for gpu in snapshot.gpus)
        assert "does not say whose memory" in told
    else:
        assert not told
    assert metrics_text(snapshot).endswith("\n")


def test_nothing_but_memory_is_known() -> None:
    snapshot = Machine(trace("five_gpus"), unavailable=FIELDS).play()
    told = [remark.text for remark in snapshot.unknowns]
    assert told[1] == "GPU 1 to 5 do not report utilisation, temperature, power."
    assert [gpu.name for gpu in snapshot.gpus] == ["graphics card"] * 5


NVML_CALLS = sorted(name for name in vars(ReplayedNvml) if name.startswith("nvml"))
ERRORS = [
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNKNOWN,
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", NVML_CALLS)
@pytest.mark.parametrize("fails_at_s", [0.0, 5.0], ids=["from the start", "in mid-run"])
def test_any_call_may_fail(call: str, error: int, fails_at_s: float) -> None:
    """Whatever the driver refuses, the page is told of the cards, or why there are none."""
    machine = Machine(trace("one_gpu"))
    if fails_at_s:
        machine.play(until_s=fails_at_s)

    def refuse(*arguments: object, **options: object) -> None:
        raise pynvml.NVMLError(error)

    setattr(machine.nvml, call, refuse)
    snapshot = machine.play(until_s=fails_at_s + 10)
    assert snapshot.gpus or snapshot.problem or snapshot.unknowns
    assert snapshot.host_total_bytes > 0
    assert "None" not in metrics_text(snapshot)
    assert not any("None" in remark.text for remark in (*snapshot.warnings, *snapshot.unknowns))


def test_a_card_that_does_not_say_how_much_memory_it_has() -> None:
    """As chips do that share the machine's memory."""
    machine = Machine(trace("one_gpu"))

    def refuse(*arguments: object, **options: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    machine.nvml.nvmlDeviceGetMemoryInfo = refuse  # type: ignore[assignment]
    snapshot = machine.play(until_s=1)
    assert not snapshot.gpus
    assert [remark.text for remark in snapshot.unknowns] == [
        "GPU 1 (NVIDIA H200) does not say how much memory it has."
    ]


def test_containers_that_hide_programs() -> None:
    reading = trace("five_gpus")[0]
    hidden = replace(reading, gpus=tuple(replace(gpu, processes=()) for gpu in reading.gpus))
    snapshot = Machine([hidden]).play()
    assert all(gpu.own_bytes is None and gpu.other_bytes is None for gpu in snapshot.gpus)
    assert [remark.code for remark in snapshot.unknowns] == ["programs_hidden"]
    assert not codes(snapshot), "nobody is accused"


def test_wsl_gives_no_amounts() -> None:
    reading = trace("one_gpu")[0]
    gpu = replace(
        reading.gpus[0], processes=(GpuProcess(pid=9, name="python3", num_bytes=None, is_ours=True),)
    )
    snapshot = Machine([replace(reading, gpus=(gpu,))], is_wsl=True).play()
    assert snapshot.gpus[0].own_bytes is None
    assert [remark.code for remark in snapshot.unknowns] == ["wsl"]


def test_a_driver_that_dies_and_comes_back() -> None:
    reading = trace("five_gpus")[0]
    dead = replace(reading, gpus=(), problem="dead")
    machine = Machine([reading, replace(dead, time_s=1.0), replace(reading, time_s=2.0)])
    assert len(machine.play(until_s=0).gpus) == 5
    machine.nvml.position = 1
    machine.monitor.read()
    snapshot = machine.look()
    assert not snapshot.gpus
    assert "stopped answering" in snapshot.problem
    assert snapshot.host_total_bytes > 0, "the machine's own memory is still told"
    machine.nvml.position = 2
    machine.monitor.read()
    assert machine.nvml.num_inits == 1, "not asked again at once"
    machine.now += 6
    machine.monitor.read()
    snapshot = machine.look()
    assert len(snapshot.gpus) == 5
    assert not snapshot.problem


def test_a_card_that_falls_off_the_bus() -> None:
    reading = trace("five_gpus")[0]
    lost = Unreadable(index=2, name="NVIDIA H800", code="lost", reason="")
    others = tuple(gpu for gpu in reading.gpus if gpu.index != 2)
    machine = Machine([reading, replace(reading, time_s=0.5, gpus=others, unreadable=(lost,))])
    snapshot = machine.play()
    assert [gpu.index for gpu in snapshot.gpus] == [0, 1, 3, 4]
    assert [remark.text for remark in snapshot.unknowns] == [
        "GPU 3 is gone: it was unplugged or fell off the bus."
    ]


def test_cards_that_are_unplugged_and_plugged_in() -> None:
    reading = trace("eight_gpus")[0]
    counts = [8, 6, 8]
    machine = Machine(
        [replace(reading, time_s=float(n), gpus=reading.gpus[:count]) for n, count in enumerate(counts)]
    )
    for number, count in enumerate(counts):
        assert len(machine.play(until_s=number).gpus) == count


def test_slices_of_a_divided_card() -> None:
    reading = trace("five_gpus")[0]
    machine = Machine([reading])
    machine.nvml.mig_slices = {0: [0, 1], 1: [4]}
    snapshot = machine.play()
    assert [gpu.total_bytes for gpu in snapshot.gpus] == [80 * GIB] * 3
    assert [remark.code for remark in snapshot.unknowns] == ["slices"]


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver:
        tries = 0

        def nvmlInit(self) -> None:  # noqa: N802
            self.tries += 1
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    nvml = NoDriver()
    reader = NvmlReader(own_pids=lambda _: (), nvml=nvml)
    assert reader.read(0.0).problem == "This machine has no NVIDIA driver."
    reader.read(30.0)
    assert nvml.tries == 1
    reader.read(61.0)
    assert nvml.tries == 2


def test_a_driver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(trace("one_gpu"))
    machine.play(until_s=1)
    hangs, released = threading.Event(), threading.Event()

    def hang() -> int:
        hangs.set()
        released.wait(30)
        return 1

    monkeypatch.setattr(machine.nvml, "nvmlDeviceGetCount", hang)
    machine.monitor.start()
    assert hangs.wait(30)
    machine.now = 22.0
    snapshot = machine.monitor.snapshot()
    released.set()
    machine.monitor.close()
    assert snapshot.problem == "The graphics driver has not answered for 20 s."
    assert not snapshot.gpus
    assert snapshot.host_total_bytes > 0


def test_the_thread_reads_and_ends() -> None:
    nvml = ReplayedNvml(trace("one_gpu"))
    monitor = HardwareMonitor(reader=nvml.reader())
    monitor.snapshot()
    nvml.position = 150
    monitor.start()
    deadline = time.monotonic() + 30
    while monitor.snapshot().gpus[0].used_bytes != nvml.now.gpus[0].used_bytes:
        assert time.monotonic() < deadline, "the thread does not read"
        time.sleep(0.05)
    monitor.close()
    monitor.close()
    assert "hardware" not in [thread.name for thread in threading.enumerate()]


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    readings = trace("five_gpus")
    write_trace(tmp_path / "copy.jsonl", readings)
    assert read_trace(tmp_path / "copy.jsonl") == readings


def test_recording(tmp_path: Path) -> None:
    machine = Machine(trace("one_gpu"))
    count = record(tmp_path / "new.jsonl", seconds=0.25, monitor=machine.monitor)
    readings = read_trace(tmp_path / "new.jsonl")
    assert len(readings) == count > 0
    assert readings[0].time_s == 0
    assert readings[0].gpus[0].used_bytes == machine.nvml.readings[0].gpus[0].used_bytes


HEADER = '{"format": "liveavatar-hardware-trace", "version": 1}\n'
DAMAGED = {
    "empty": "",
    "no reading": HEADER,
    "other version": HEADER.replace("1", "9"),
    "not JSON": "hello\n",
    "no object": "[]\n",
    "cut": (TRACES / "one_gpu.jsonl").read_text()[:700],
    "unknown field": HEADER + '{"time_s": 0, "colour": 1}\n',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_recordings(text: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=str(path)):
        read_trace(path)


def test_doctor_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "machine.jsonl"
    assert cli.main(["doctor", "--record", str(path), "--seconds", "0.2"]) == 0
    assert str(path) in capsys.readouterr().out
    assert read_trace(path)[0].host.total_bytes > 0
    assert cli.main(["doctor", "--record", str(path), "--seconds", "0"]) == 2
    assert cli.main(["doctor", "--record", str(tmp_path / "no" / "folder"), "--seconds", "1"]) == 2
    assert "Nothing was recorded" in capsys.readouterr().err


def test_metrics() -> None:
    text = metrics_text(Machine(trace("five_gpus")).play())
    assert f'liveavatar_gpu_memory_bytes{{gpu="3",name="NVIDIA H800",kind="others"}} {46 * GIB}\n' in text
    assert 'liveavatar_gpu_link_bytes_per_second{gpu="0",name="NVIDIA H800",link="nvlink",direction=' in text
    assert 'liveavatar_warning{code="other_programs",gpu="3"} 1\n' in text
    assert "None" not in text
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_metrics_escape_what_a_name_may_hold() -> None:
    reading = trace("one_gpu")[0]
    odd = replace(reading, gpus=(replace(reading.gpus[0], name='a "b"\\'),))
    assert 'name="a \\"b\\"\\\\"' in metrics_text(Machine([odd]).play())


def test_metrics_without_a_graphics_card() -> None:
    text = metrics_text(Machine([Reading(time_s=0, gpus=(), host=HOST)]).play())
    assert "liveavatar_gpus 0\n" in text
    assert "gpu_memory" not in text
