"""What the meter makes of the allocator's numbers, on an allocator that is played by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from liveavatar.core.events import Telemetry
from liveavatar.engines.s2v.meter import Meter, held_bytes


class Allocator:
    """Stands for the allocator of one graphics card."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allocated = self.peak = 0
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: self.allocated)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: self.peak + 7)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.peak)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: self._reset())
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="0000-1111", name="a card")
        )

    def work(self, *, needs: int, leaves: int = 0) -> None:
        """Take memory for a moment and keep some of it."""
        self.peak = max(self.peak, self.allocated + needs)
        self.allocated += leaves

    def _reset(self) -> None:
        self.peak = self.allocated


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    return Allocator(monkeypatch)


def sizes(report: Telemetry) -> dict[str, int]:
    return {item.name: item.num_bytes for item in report.momentary}


def test_stages_inside_of_each_other_are_told_apart(allocator: Allocator) -> None:
    meter = Meter(torch.device("cuda"))
    allocator.work(needs=1000, leaves=1000)

    def denoise() -> Iterator[int]:
        for block in range(3):
            allocator.work(needs=100 + 10 * block)
            yield block

    def decode(blocks: Iterator[int]) -> Iterator[int]:
        allocator.work(needs=900)  # before the first block: nobody's
        for block in blocks:
            allocator.work(needs=300, leaves=20)
            yield block

    meter.begin_video()
    reports = [
        meter.report(is_block=True)
        for _ in meter.watch(decode(meter.watch(denoise(), "activations")), "decoder working memory")
    ]
    assert sizes(reports[0]) == {"activations": 100, "decoder working memory": 300}
    assert sizes(reports[2]) == {"activations": 120, "decoder working memory": 300}, "the most so far"
    assert [report.peak_bytes for report in reports] == [1900, 1320, 1340], "each since the one before"
    assert reports[0].gpu == "GPU-0000-1111"
    assert all(report.block_s is not None and report.block_s >= 0 for report in reports)


def test_a_new_video_starts_anew(allocator: Allocator) -> None:
    meter = Meter(torch.device("cuda"))
    allocator.work(needs=500)
    list(meter.watch(iter([1]), "activations"))
    meter.report(is_block=True)
    meter.begin_video()
    report = meter.report(is_block=False)
    assert report.momentary == ()
    assert report.peak_bytes == 0
    assert report.block_s is None


def test_on_the_processor_only_time_is_measured() -> None:
    meter = Meter(torch.device("cpu"))
    meter.note_resident({"weights": [torch.ones(4)]})
    assert list(meter.watch(iter([1, 2]), "activations")) == [1, 2]
    report = meter.report(is_block=True)
    assert (report.gpu, report.reserved_bytes, report.items, report.momentary) == ("", 0, (), ())
    assert report.block_s is not None


def test_of_shared_weights_only_this_ranks_part_counts(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        rows = torch.ones(4, 2)
        shared = DTensor.from_local(rows, DeviceMesh("cpu", [0]), [Shard(0)])
        assert held_bytes([shared, rows[1:], torch.ones(3), torch.ones(9, device="meta")], "cpu") == 32 + 12
    finally:
        dist.destroy_process_group()
