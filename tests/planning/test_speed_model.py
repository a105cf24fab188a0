"""Predicted speed against what this engine was measured to make on one H200; docs/performance.md."""

from __future__ import annotations

import dataclasses

import pytest

from liveavatar.core.parallel import KvPrecision, ParallelPlan, Precision
from liveavatar.planning import speed_model
from liveavatar.planning.candidates import Candidate, candidates
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.memory_model import RankRole
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.wishes import Wishes

SIZE = VideoSize(704, 384)
H200 = parse_machine("1xH200").gpus[0]


def _candidate(gpus: str, plan: ParallelPlan, precision: Precision, kv: KvPrecision = "bf16") -> Candidate:
    wishes = Wishes(num_steps=plan.num_steps, precision=precision, kv_precision=kv)
    found = candidates(parse_machine(gpus), SIZE, wishes)
    return next(
        each
        for each in found
        if each.configuration.parallel == plan and each.configuration.precision == precision and each.fits
    )


@pytest.mark.parametrize(
    ("gpus", "plan", "precision", "kv", "fps"),
    [
        # Transformer and decoder on one card, without H.264.
        ("1xH200", ParallelPlan(step_split=(4,)), "fp8", "bf16", 17.3),
        ("1xH200", ParallelPlan(step_split=(4,)), "fp8", "int8", 18.6),
        ("1xH200", ParallelPlan(step_split=(2,)), "fp8", "bf16", 30.2),
        # Bounds computed from the measured stages: two steps each, decoder on the second; four and a decoder.
        ("2xH200", ParallelPlan(step_split=(2, 2)), "fp8", "bf16", 30.3),
        ("5xH200", ParallelPlan(step_split=(1, 1, 1, 1), decoder_has_own_rank=True), "fp8", "bf16", 78.2),
    ],
)
def test_measured_speeds(
    gpus: str, plan: ParallelPlan, precision: Precision, kv: KvPrecision, fps: float
) -> None:
    assert _candidate(gpus, plan, precision, kv).fps == pytest.approx(fps, rel=0.03)


def test_slower_cards_scale_part_by_part() -> None:
    half = dataclasses.replace(
        H200,
        bf16_flops=H200.bf16_flops / 2,
        fp8_flops=989.5e12,
        memory_bytes_per_s=H200.memory_bytes_per_s / 4,
    )
    fast = speed_model.step_seconds(H200, SIZE, "fp8", "bf16")
    slow = speed_model.step_seconds(half, SIZE, "fp8", "bf16")
    assert slow.matrix == pytest.approx(2 * fast.matrix)
    assert slow.attention == pytest.approx(2 * fast.attention)
    assert slow.memory == pytest.approx(4 * fast.memory)
    assert slow.gaps == fast.gaps


def test_a_card_without_8_bit_arithmetic_is_refused() -> None:
    with pytest.raises(ValueError, match="A10 cannot multiply in 8 bits"):
        speed_model.step_seconds(parse_machine("1xA10").gpus[0], SIZE, "fp8", "bf16")


def test_tensor_groups_pay_for_the_link() -> None:
    whole = speed_model.step_seconds(H200, SIZE, "bf16", "bf16")
    slow_link = dataclasses.replace(H200, link_bytes_per_s=12e9)
    on_nvlink = speed_model.rank_step(H200, RankRole(size=SIZE, num_steps=4, tensor=2), whole)
    on_pcie = speed_model.rank_step(slow_link, RankRole(size=SIZE, num_steps=4, tensor=2), whole)
    # 132 reductions of 32.4 MB, each rank sends as much as it holds: 4.28 GB.
    assert on_pcie.link == pytest.approx(4.28e9 / 12e9 + 40 * 7 * 20e-6, rel=0.01)
    assert on_nvlink.total < whole.total < on_pcie.total


def test_transfers_beside_the_work_count_when_they_are_longer() -> None:
    whole = speed_model.step_seconds(H200, SIZE, "bf16", "bf16")
    some = speed_model.rank_step(H200, RankRole(size=SIZE, num_steps=4, resident_blocks=35), whole)
    none = speed_model.rank_step(H200, RankRole(size=SIZE, num_steps=4, resident_blocks=0), whole)
    assert not some.waits
    assert none.waits
    assert none.beside == pytest.approx(40 * 0.703e9 / 54e9, rel=0.01)
    crowded = speed_model.rank_step(
        H200, RankRole(size=SIZE, num_steps=4, resident_blocks=0), whole, num_streaming=6
    )
    assert crowded.beside == pytest.approx(6 * 40 * 0.703e9 / speed_model.HOST_MEMORY_BYTES_PER_S, rel=0.01)


def test_fewer_steps_are_faster_and_the_first_block_is_cheaper() -> None:
    machine = parse_machine("1xH200")
    four, two = (candidates(machine, SIZE, Wishes(num_steps=steps))[0] for steps in (4, 2))
    assert two.fps > 1.5 * four.fps
    first = speed_model.step_seconds(H200, SIZE, "fp8", "bf16", window_blocks=1)
    assert first.total < speed_model.step_seconds(H200, SIZE, "fp8", "bf16").total
    assert four.details.first_frame_seconds == pytest.approx(
        speed_model.PORTRAIT_ENCODE_S
        + speed_model.prefill_seconds(H200, SIZE, "fp8")
        + 4 * first.total
        + speed_model.decode_seconds(H200, SIZE, 3)
        + speed_model.SPEECH_ENCODE_S
        + speed_model.DELIVERY_S
    )
