"""The way down for a video that runs out of memory."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveavatar.core.hardware import Machine
from liveavatar.core.memory import GIB
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.planning import ladder
from liveavatar.planning.calibration import NOTHING_MEASURED
from liveavatar.planning.choice import choose, execution_plan, smaller_sizes
from liveavatar.planning.ladder import Ladder, describe, needed_bytes
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.s2v_request import plan_s2v
from tests.planning.test_s2v_request import PICTURE, card, setup


@pytest.fixture(scope="module")
def planned() -> ExecutionPlan:
    return plan_s2v(setup(card("H200")), size="720*400", picture=PICTURE)


@pytest.fixture(scope="module")
def plan(planned: ExecutionPlan) -> ExecutionPlan:
    """The plainest there is."""
    return dataclasses.replace(planned, precision="bf16")


def all_the_way_down(way: Ladder) -> list[ExecutionPlan]:
    plans = [way.plan]
    while way.climb_down():
        plans.append(way.plan)
    return plans


def test_what_runs_have_measured_counts_on_the_way_too() -> None:
    gpu = card("H200")
    learned = NOTHING_MEASURED.learned(gpu, "key-value caches", forecast=10, measured=13)
    choice = choose(Machine(gpus=(gpu,)), size="720*400", calibration=learned)
    plan, plain = execution_plan(choice), execution_plan(choose(Machine(gpus=(gpu,)), size="720*400"))
    caches = "key-value caches"
    assert ladder.budget_of(plan).item_bytes(caches) == plan.budgets[0].item_bytes(caches)
    assert plan.budgets[0].item_bytes(caches) == pytest.approx(1.3 * plain.budgets[0].item_bytes(caches))


def test_every_rung_once_and_the_dearest_last(plan: ExecutionPlan) -> None:
    plans = all_the_way_down(Ladder(plan, PICTURE))
    frugal = "decoded in small pieces, decoded in 2 tiles, prompt encoded on the processor"
    assert [describe(each) for each in plans] == [
        "704x384, 4 steps",
        "704x384, 4 steps",  # what was kept for later is given back
        "704x384, 4 steps, decoded in small pieces",
        "704x384, 4 steps, decoded in small pieces, decoded in 2 tiles",
        f"704x384, 4 steps, {frugal}",
        f"704x384, 4 steps, 8-bit caches, {frugal}",
        f"704x384, 4 steps, 8-bit caches, caches in host memory, {frugal}",
        f"640x384, 4 steps, 8-bit caches, caches in host memory, {frugal}",
        f"576x320, 4 steps, 8-bit caches, caches in host memory, {frugal}",
        f"384x256, 4 steps, 8-bit caches, caches in host memory, {frugal}",
        f"384x256, 4 steps, 8-bit weights, 8-bit caches, caches in host memory, {frugal}",
        "384x256, 4 steps, 8-bit weights, weights streamed from host memory, 8-bit caches, caches in host memory, "
        + frugal,
    ]
    needs = [needed_bytes(each) for each in plans]
    assert all(later <= earlier for earlier, later in itertools.pairwise(needs))
    assert needs[-1] < 0.2 * needs[0]


def test_rungs_that_must_not_be_used_are_left_out(plan: ExecutionPlan) -> None:
    way = Ladder(plan, PICTURE)
    way.skip(ladder.make_smaller)
    way.skip(ladder.keep_weights_in_8_bits)
    assert {(each.width, each.height, each.precision) for each in all_the_way_down(way)} == {
        (704, 384, "bf16")
    }


def test_a_picture_too_small_for_tiles_is_decoded_whole(plan: ExecutionPlan) -> None:
    tiny = dataclasses.replace(plan, width=128, height=128)
    assert ladder.decode_in_tiles(tiny, PICTURE) is None
    assert min(max(size.width, size.height) for size in smaller_sizes(VideoSize(704, 384), PICTURE)) >= 192


def test_a_rung_can_be_ruled_out_on_the_way(plan: ExecutionPlan) -> None:
    way = Ladder(plan, PICTURE)
    assert way.climb_down()
    way.skip(ladder.encode_prompt_on_processor)
    assert not any(each.offload.text_encoder for each in all_the_way_down(way))


@pytest.mark.parametrize(
    ("parallel", "precision", "resident"),
    [
        (ParallelPlan(step_split=(4,)), "fp8", 10),
        (ParallelPlan(step_split=(2, 2), decoder_has_own_rank=True), "fp8", 10),
        (ParallelPlan(step_split=(4,), layer_parts=8), "fp8", 1),
        (ParallelPlan(step_split=(4,), tensor=2), "fp8", None),
        (ParallelPlan(step_split=(2, 2), layer_parts=2), "fp8", None),
        (ParallelPlan(step_split=(2, 2), weights_sharded=True), "bf16", None),
    ],
)
def test_no_rung_leads_to_what_a_layout_cannot_do(
    plan: ExecutionPlan, parallel: ParallelPlan, precision: str, resident: int | None
) -> None:
    last = all_the_way_down(Ladder(dataclasses.replace(plan, parallel=parallel), PICTURE))[-1]
    assert (last.precision, last.offload.resident_blocks) == (precision, resident)


def test_the_forecast_of_the_plan_itself_is_the_planners(planned: ExecutionPlan) -> None:
    """Less the text encoder, which has given its memory back when pictures are made."""
    text = planned.budgets[0].item_bytes("text encoder")
    assert text > 0
    assert needed_bytes(planned) == pytest.approx(planned.budgets[0].needed_bytes - text, rel=0.005)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    size=st.sampled_from(["1280*720", "720*400", "576*320", "384*256", "544*544"]),
    steps=st.integers(1, 4),
    available=st.floats(1, 140),
    more=st.floats(0, 40),
)
def test_what_is_walked_down_to_fits_and_more_memory_never_means_less(
    size: str, steps: int, available: float, more: float
) -> None:
    plan = plan_s2v(setup(card("B200")), size=size, picture=PICTURE, num_steps=steps)
    ways = [Ladder(plan, PICTURE) for _ in range(2)]
    for way, gib in zip(ways, (available, available + more), strict=True):
        way.fit(int(gib * GIB))
        is_lowest = not way.climb_down()
        assert is_lowest or needed_bytes(plan) <= gib * GIB or needed_bytes(way.plan) <= gib * GIB
    less, enough = (each.plan for each in ways)
    assert less.width * less.height <= enough.width * enough.height


@pytest.fixture(scope="module")
def over_five_cards() -> ExecutionPlan:
    """Four stages and a decoder on a card of its own."""
    plan = execution_plan(choose(parse_machine("5xH800"), size="720*400", picture=PICTURE))
    assert plan.parallel is not None
    assert plan.parallel.describe() == "timestep pipeline 1+1+1+1, own decoder card"
    return dataclasses.replace(plan, precision="bf16")


def test_ranks_take_what_helps_the_one_that_is_short(over_five_cards: ExecutionPlan) -> None:
    plan = over_five_cards
    room = [needed_bytes(plan, rank) for rank in range(5)]
    assert ladder.fit_ranks(plan, PICTURE, room) == plan
    decoder_is_short = ladder.fit_ranks(plan, PICTURE, [*room[:4], room[4] - 1])
    assert describe(decoder_is_short) == "704x384, 4 steps, decoded in small pieces"
    stage_is_short = ladder.fit_ranks(plan, PICTURE, [*room[:2], room[2] - 1, *room[3:]])
    assert describe(stage_is_short) == "704x384, 4 steps, 8-bit caches"
    assert ladder.short_ranks(plan, [0] * 5) == [0, 1, 2, 3, 4]
    least = ladder.fit_ranks(plan, PICTURE, [0] * 5, [ladder.make_smaller])
    assert (least.width, least.height, least.offload.caches) == (704, 384, True)


@pytest.mark.parametrize("pin_size", [False, True])
@pytest.mark.parametrize("rank", [1, 4])
def test_after_a_shortage_the_rank_needs_less_until_nothing_is_left(
    over_five_cards: ExecutionPlan, rank: int, pin_size: bool
) -> None:
    plan: ExecutionPlan | None = over_five_cards
    plans = []
    while plan is not None:
        plans.append(plan)
        plan = ladder.after_shortage(plan, rank, PICTURE, pin_size=pin_size)
    assert len(plans) > 1
    needs = [needed_bytes(each, rank) for each in plans]
    assert all(later < earlier for earlier, later in itertools.pairwise(needs))
    assert len({(each.width, each.height) for each in plans}) == 1 or not pin_size
    assert all(each.same_engine(dataclasses.replace(plans[0], tiled_vae=each.tiled_vae)) for each in plans)


def test_after_a_shortage_without_a_forecast_the_picture_is_smaller(over_five_cards: ExecutionPlan) -> None:
    plan = dataclasses.replace(over_five_cards, budgets=())
    smaller = ladder.after_shortage(plan, 0, PICTURE, pin_size=False)
    assert smaller == ladder.make_smaller(plan, PICTURE) != plan
    assert ladder.after_shortage(plan, 0, PICTURE, pin_size=True) is None
