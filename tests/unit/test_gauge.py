"""Whose memory it is on each card, by what the driver and the engine say together."""

from __future__ import annotations

from dataclasses import replace

from liveavatar.core.events import Telemetry
from liveavatar.core.memory import MemoryBudget, MemoryItem
from liveavatar.core.plan import ExecutionPlan
from liveavatar.monitoring.hardware import GpuSample, HardwareSnapshot
from liveavatar.service.gauge import CardGauge, card_gauges, fit_warnings
from liveavatar.service.measurements import Measurements

GIB = 1024**3
PORTRAIT = ExecutionPlan(engine="portrait", width=720, height=400)


def item(name: str, gib: float) -> MemoryItem:
    return MemoryItem(name=name, num_bytes=int(gib * GIB), basis="measured")


def card(index: int = 0, *, used: int = 40, own: int | None = 30, total: int = 80) -> GpuSample:
    return GpuSample(
        index=index,
        name="NVIDIA H800",
        uuid=f"GPU-{index}",
        total_bytes=total * GIB,
        used_bytes=used * GIB,
        free_bytes=(total - used) * GIB,
        utilisation=50,
        temperature=60,
        own_bytes=None if own is None else own * GIB,
    )


def machine(*gpus: GpuSample) -> HardwareSnapshot:
    return HardwareSnapshot(
        gpus=gpus, problem="", host_total_bytes=64 * GIB, host_available_bytes=40 * GIB, num_cores=8
    )


def report(rank: int = 0, gpu: str = "GPU-0", **fields: object) -> Telemetry:
    ordinary = {"reserved_bytes": 28 * GIB, "items": (item("weights", 15), item("key-value caches", 9))}
    return Telemetry(rank=rank, gpu=gpu, **(ordinary | fields))  # type: ignore[arg-type]


def plan(*needed: int) -> ExecutionPlan:
    budgets = tuple(
        MemoryBudget(
            rank=rank, role="all", gpu="H800", available_bytes=78 * GIB, items=(item("weights", gib),)
        )
        for rank, gib in enumerate(needed)
    )
    return replace(PORTRAIT, engine="s2v", budgets=budgets)


def parts(gauge: CardGauge) -> dict[str, float]:
    return {each.name: each.num_bytes / GIB for each in gauge.items}


def test_what_the_engine_names_and_the_rest_make_up_what_is_ours() -> None:
    (gauge,) = card_gauges(machine(card()), [report()], PORTRAIT)
    assert parts(gauge) == {"weights": 15, "key-value caches": 9, "working memory": 4, "CUDA context": 2}
    assert sum(parts(gauge).values()) * GIB == gauge.own_bytes
    assert gauge.other_bytes == 10 * GIB


def test_two_ranks_on_one_card_are_added_up() -> None:
    (gauge,) = card_gauges(machine(card(used=70, own=60)), [report(0), report(1)], plan(20, 30))
    assert parts(gauge)["weights"] == 30
    assert gauge.needed_bytes == 50 * GIB


def test_a_container_that_hides_programs_is_helped_by_the_engine() -> None:
    (gauge,) = card_gauges(machine(card(own=None)), [report()], PORTRAIT)
    assert gauge.own_bytes == 28 * GIB
    assert gauge.other_bytes == 12 * GIB
    (gauge,) = card_gauges(machine(card(own=None)), [], PORTRAIT)
    assert gauge.own_bytes is None
    assert gauge.other_bytes is None
    assert gauge.items == ()


def test_a_rank_is_found_by_the_card_it_reports() -> None:
    gauges = card_gauges(machine(card(0), card(1)), [report(0, gpu="GPU-1")], plan(20))
    assert [gauge.needed_bytes for gauge in gauges] == [None, 20 * GIB]
    assert [bool(gauge.items) for gauge in gauges] == [False, True]


def test_before_anything_is_reported_ranks_stand_on_cards_in_order() -> None:
    gauges = card_gauges(machine(card(0), card(1)), [], plan(20, 30, 40))
    assert [gauge.needed_bytes for gauge in gauges] == [20 * GIB, 30 * GIB]


def test_while_ranks_load_each_stands_on_the_card_planned_for_it() -> None:
    """The first rank has reported, the second not yet; the third is on another machine."""
    planned = plan(20, 30, 40)
    cards = [("GPU-2", ""), ("GPU-0", ""), ("GPU-1", "other")]
    budgets = [
        replace(budget, card=uuid, machine=where)
        for budget, (uuid, where) in zip(planned.budgets, cards, strict=True)
    ]
    here = machine(card(0), card(2))
    for reports in ([], [report(0, gpu="GPU-2")]):
        gauges = card_gauges(here, reports, replace(planned, budgets=tuple(budgets)))
        assert [gauge.needed_bytes for gauge in gauges] == [30 * GIB, 20 * GIB]


def test_a_rank_of_another_machine_or_of_the_processor_is_not_drawn() -> None:
    for gpu in ("GPU-elsewhere", ""):
        (gauge,) = card_gauges(machine(card()), [report(gpu=gpu)], plan(20))
        assert gauge.items == ()
        assert gauge.needed_bytes is None


def test_a_video_that_will_not_fit_is_told_with_numbers() -> None:
    crowded = card(1, used=76, own=30)
    gauges = card_gauges(machine(card(0), crowded), [], plan(35, 35))
    assert [gauge.missing_bytes for gauge in gauges] == [0, 1 * GIB]
    (remark,) = fit_warnings(gauges)
    assert remark.text == (
        "The next video needs 35.0 GB on GPU 2, where 34.0 GB are left. "
        "End other programs there, or a smaller picture is made."
    )
    assert remark.gpus == (1,)


def test_peaks_of_a_job() -> None:
    measurements = Measurements()
    measurements.take(report(items=(item("activations", 9),), reserved_bytes=90))
    measurements.begin_job()
    measurements.take(report(items=(item("activations", 2),), reserved_bytes=30, peak_bytes=20, block_s=0.5))
    measurements.take(report(items=(item("activations", 1),), reserved_bytes=20, peak_bytes=25, block_s=0.4))
    peaks = measurements.peaks_of_job()[0]
    assert peaks.items == {"activations": 2 * GIB}
    assert (peaks.reserved_bytes, peaks.peak_bytes, peaks.block_s) == (30, 25, [0.5, 0.4])
    assert measurements.latest()[0].block_s == 0.4
    measurements.clear()
    assert measurements.latest() == ()


def test_a_peak_that_the_driver_did_not_show_comes_from_the_engine() -> None:
    now = 0.0
    measurements = Measurements(clock=lambda: now)
    measurements.take(report(peak_bytes=60 * GIB))
    now = 4.0
    measurements.take(report(peak_bytes=28 * GIB))
    shown = card_gauges(machine(card()), [report()], PORTRAIT, recent_peaks=measurements.recent_peaks())
    assert shown[0].peak_bytes == 70 * GIB, "with the 10 GiB that are not ours"
    now = 11.0
    assert measurements.recent_peaks() == {0: 28 * GIB}
    now = 20.0
    assert measurements.recent_peaks() == {}
