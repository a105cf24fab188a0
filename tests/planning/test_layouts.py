from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveavatar.core.parallel import ParallelPlan
from liveavatar.planning import layouts, model_spec
from liveavatar.planning.candidates import candidates
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.model_spec import VideoSize

SIZE = VideoSize(704, 384)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(num_gpus=st.integers(1, 20), num_steps=st.integers(1, 4))
def test_every_plan_shares_out_all_the_work(num_gpus: int, num_steps: int) -> None:
    plans = layouts.parallel_plans(num_gpus, num_steps)
    assert len(set(plans)) == len(plans)
    assert [plan.world_size for plan in plans] == sorted(plan.world_size for plan in plans)
    for plan in plans:
        stages = list(plan.stages())
        steps = [
            step for stage in stages for step in range(stage.first_step, stage.first_step + stage.num_steps)
        ]
        assert steps == list(range(num_steps))
        ranks = [rank for stage in stages for rank in stage.ranks]
        assert ranks == list(range(plan.num_denoising_ranks))
        assert plan.decoder_rank == plan.world_size - 1 < num_gpus
        assert model_spec.NUM_HEADS % plan.tensor == 0
        groups = layouts.rank_groups(Configuration(parallel=plan, precision="bf16"), SIZE)
        roles = layouts.roles_by_rank(groups)
        assert len(roles) == plan.world_size
        shares = sum(role.num_steps * role.num_layers / role.tensor for role in roles)
        assert shares == pytest.approx(num_steps * model_spec.NUM_LAYERS)
        assert [role.latents_per_decode > 0 for role in roles].count(True) == 1
        assert [role.encodes_speech for role in roles].count(True) == 1


def test_splits_of_three_steps() -> None:
    assert layouts.step_splits(3) == [(3,), (2, 1), (1, 2), (1, 1, 1)]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (ParallelPlan(step_split=(4,)), "one card for all steps"),
        (
            ParallelPlan(step_split=(2, 2), tensor=2, decoder_has_own_rank=True),
            "timestep pipeline 2+2, tensor 2, own decoder card",
        ),
        (ParallelPlan(step_split=(4,), tensor=2, layer_parts=2), "tensor 2, layers 2"),
    ],
)
def test_plans_have_names(plan: ParallelPlan, words: str) -> None:
    assert plan.describe() == words


def test_ranks_say_what_they_do() -> None:
    plan = ParallelPlan(step_split=(3, 1), tensor=2, layer_parts=2, decoder_has_own_rank=True)
    configuration = Configuration(parallel=plan, precision="bf16")
    names = [layouts.role_name(configuration, rank) for rank in range(plan.world_size)]
    assert names[:3] == [
        "steps 1-3, layers 1-20, share 1/2", "steps 1-3, layers 1-20, share 2/2",
        "steps 1-3, layers 21-40, share 1/2",
    ]  # fmt: skip
    assert names[7:] == ["step 4, layers 21-40, share 2/2", "decoder"]


@pytest.mark.parametrize("split", [(), (2, 0)])
def test_stages_without_steps_are_refused(split: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="every stage needs a step"):
        ParallelPlan(step_split=split)


def test_caches_of_8_bit_attention_stay_on_the_card() -> None:
    variants = layouts.offload_variants(ParallelPlan(step_split=(4,)), "fp8", ("bf16", "int8"))
    assert {variant.offload.caches for variant in variants if variant.kv_precision == "bf16"} == {True, False}
    assert {variant.offload.caches for variant in variants if variant.kv_precision == "int8"} == {False}


def test_spare_cards_make_more_videos() -> None:
    found = candidates(parse_machine("4xH200"), SIZE)
    alone = next(each for each in found if each.configuration.parallel.world_size == 1)
    pairs = next(each for each in found if each.configuration.parallel == ParallelPlan(step_split=(2, 2)))
    assert (alone.streams, pairs.streams, found[0].streams) == (4, 2, 1)
