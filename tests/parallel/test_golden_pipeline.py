"""The published five-GPU run on five real processes."""

from __future__ import annotations

from pathlib import Path

from liveavatar.core.parallel import ParallelPlan
from tests.parallel.golden_run import repeat
from tests.parallel.rank_pool import RankPool
from tests.parity.golden import load_case
from tests.parity.run import failures

MANIFEST = Path(__file__).parents[1] / "golden" / "e2e_tpp_public.json"


def test_five_ranks_repeat_the_recorded_run(pool: RankPool) -> None:
    plan = ParallelPlan(step_split=(1, 1, 1, 1), decoder_has_own_rank=True)
    *silent, errors = pool.call(repeat, plan.world_size, plan=plan, manifest=MANIFEST)
    assert silent == [{}] * 4
    assert {"latents", "frames"} <= errors.keys()
    assert not failures(load_case(MANIFEST), errors), errors
