"""Any plan is valid or rejected with a reason; a valid one leaves no work undone and no rank alone."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from liveavatar.core.parallel import ParallelPlan
from liveavatar.models.s2v import S2VTransformer
from liveavatar.parallel.layers import keep_layers, layers_of_part
from liveavatar.parallel.tensor import TensorGroup, share_heads
from liveavatar.pipeline.wiring import wires
from tests.parallel.plan_run import CONFIG

NUM_LAYERS = CONFIG["num_layers"]

plans = st.fixed_dictionaries(
    {
        "step_split": st.lists(st.integers(0, 5), max_size=5).map(tuple),
        "tensor": st.integers(0, 8),
        "layer_parts": st.integers(0, 6),
        "weights_sharded": st.booleans(),
        "decoder_has_own_rank": st.booleans(),
    }
)


def problem_of(choices: dict[str, object]) -> str | None:
    """Return why a plan cannot be carried out, None if it can; checks it then."""
    try:
        plan = ParallelPlan(**choices)  # type: ignore[arg-type]
        shares = {
            (part, lane): share_of(plan, part, lane)
            for part in range(plan.layer_parts)
            for lane in range(plan.tensor)
        }
    except ValueError as error:
        return str(error)
    check_places(plan, shares)
    check_wires(plan)
    return None


def share_of(plan: ParallelPlan, part: int, lane: int) -> tuple[range, int]:
    """Return the layers and the number of heads that a rank is left with."""
    with torch.device("meta"):
        model = S2VTransformer(**CONFIG)
    layers = layers_of_part(NUM_LAYERS, plan.layer_parts, part)
    if plan.layer_parts > 1:
        keep_layers(model, layers)
    if plan.tensor > 1:
        share_heads(model, TensorGroup(rank=lane, num_ranks=plan.tensor))
    assert [int(name) for name, _ in model.blocks.named_children()] == list(layers)
    return layers, model.num_local_heads


def check_places(plan: ParallelPlan, shares: dict[tuple[int, int], tuple[range, int]]) -> None:
    """Every head of every layer at every step is computed once; somebody listens, somebody decodes."""
    heads: Counter[tuple[int, int]] = Counter()
    places = [plan.place(rank) for rank in range(plan.world_size)]
    for place in places:
        if place.stage is not None:
            layers, num_heads = shares[place.layer_part, place.lane]
            for layer in layers:
                for step in place.stage.steps:
                    heads[layer, step] += num_heads
    assert heads == {
        (layer, step): CONFIG["num_heads"] for layer in range(NUM_LAYERS) for step in range(plan.num_steps)
    }
    assert [place.rank for place in places if place.is_source] == [plan.source_rank]
    assert [place.rank for place in places if place.decodes] == [plan.world_size - 1]


def check_wires(plan: ParallelPlan) -> None:
    """Blocks reach every rank from the source along one way only, and no wire leads nowhere."""
    connections = wires(plan)
    assert len(set(connections)) == len(connections)
    forward = [wire for wire in connections if wire.kind not in ("feed", "back")]
    inlets = Counter(wire.receiver for wire in forward)
    assert inlets == dict.fromkeys(range(1, plan.world_size), 1)
    assert all(0 <= wire.sender < wire.receiver < plan.world_size for wire in forward)
    feeds = [wire for wire in connections if wire.kind == "feed"]
    assert [(wire.sender, wire.receiver) for wire in feeds] == (
        [(plan.source_rank, 0)] if plan.decoder_has_own_rank else []
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plans)
def test_random_plans_are_valid_or_rejected_with_a_reason(choices: dict[str, object]) -> None:
    problem = problem_of(choices)
    assert problem is None or len(problem.split()) > 4


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 2), min_size=1, max_size=2).map(tuple),
    st.sampled_from([1, 2, 4, 5]),
    st.integers(1, NUM_LAYERS),
    st.booleans(),
)
def test_plans_that_the_model_allows_are_valid(
    split: tuple[int, ...], tensor: int, layer_parts: int, own_decoder: bool
) -> None:
    choices = {
        "step_split": split,
        "tensor": tensor,
        "layer_parts": layer_parts,
        "decoder_has_own_rank": own_decoder,
    }
    assert problem_of(choices) is None
