"""The way down for a video that runs out of memory."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveavatar.core.memory import GIB
from liveavatar.core.plan import ExecutionPlan
from liveavatar.planning import ladder
from liveavatar.planning.ladder import Ladder, describe, needed_bytes
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


def test_every_rung_once_and_the_dearest_last(plan: ExecutionPlan) -> None:
    plans = all_the_way_down(Ladder(plan, PICTURE))
    assert [describe(each) for each in plans] == [
        "704x384, 4 steps",
        "704x384, 4 steps",  # what was kept for later is given back
        "704x384, 4 steps, decoded in small pieces",
        "704x384, 4 steps, decoded in small pieces, prompt encoded on the processor",
        "640x384, 4 steps, decoded in small pieces, prompt encoded on the processor",
        "384x256, 4 steps, decoded in small pieces, prompt encoded on the processor",
        "384x256, 4 steps, 8-bit weights, decoded in small pieces, prompt encoded on the processor",
    ]
    needs = [needed_bytes(each) for each in plans]
    assert all(later <= earlier for earlier, later in itertools.pairwise(needs))
    assert needs[-1] < 0.4 * needs[0]


def test_rungs_that_must_not_be_used_are_left_out(plan: ExecutionPlan) -> None:
    way = Ladder(plan, PICTURE)
    way.skip(ladder.make_smaller)
    way.skip(ladder.keep_weights_in_8_bits)
    assert {(each.width, each.height, each.precision) for each in all_the_way_down(way)} == {
        (704, 384, "bf16")
    }


def test_a_rung_can_be_ruled_out_on_the_way(plan: ExecutionPlan) -> None:
    way = Ladder(plan, PICTURE)
    assert way.climb_down()
    way.skip(ladder.encode_prompt_on_processor)
    assert not any(each.offload.text_encoder for each in all_the_way_down(way))


def test_the_forecast_of_the_plan_itself_is_the_planners(planned: ExecutionPlan) -> None:
    """Less the text encoder, which has given its memory back when pictures are made."""
    text = planned.budgets[0].item_bytes("text encoder")
    assert text > 0
    assert needed_bytes(planned) == pytest.approx(planned.budgets[0].needed_bytes - text, rel=0.005)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    size=st.sampled_from(["1280*720", "720*400", "384*256", "544*544"]),
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
