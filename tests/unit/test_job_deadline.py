"""How long an engine may be silent depends on how the video is made."""

from __future__ import annotations

import dataclasses

import pytest

from liveavatar.config import Deadlines
from liveavatar.core.events import Chunk, PlanChanged, Progress
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan, ModelFiles, PlanChange
from liveavatar.engines.s2v.rank_setup import LINK_DEADLINE_S
from liveavatar.planning.layouts import parallel_plans
from liveavatar.planning.wishes import EVERYTHING
from liveavatar.service import job_deadline
from liveavatar.service.job_deadline import JobDeadline

LIMITS = Deadlines()
ONE = ExecutionPlan(
    engine="s2v",
    width=704,
    height=384,
    model=ModelFiles(checkpoint="", lora="", cache=""),
    parallel=ParallelPlan(step_split=(4,)),
    block_s=1.0,
)
FIVE = dataclasses.replace(
    ONE, parallel=ParallelPlan(step_split=(1, 1, 1, 1), decoder_has_own_rank=True), block_s=0.25
)
CHUNK = Chunk(job_id="", data=b"", frames_done=12)
CHANGE = PlanChange(first_frame=12, cause="asked", before="", after="", reason="")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(job_deadline, "time", clock)
    return clock


def limit(deadline: JobDeadline, clock: Clock) -> float:
    """Return after how many whole seconds of silence the deadline passes."""
    start = clock.now
    while not deadline.has_passed():
        clock.now += 1
    return clock.now - start - 1


def test_each_rank_has_time_to_compile_when_the_first_block_reaches_it(clock: Clock) -> None:
    assert limit(JobDeadline(LIMITS, ONE), clock) == LIMITS.first_chunk_model_s
    further = LIMITS.next_rank_s
    assert limit(JobDeadline(LIMITS, FIVE), clock) == LIMITS.first_chunk_model_s + 4 * further
    assert LIMITS.loading_s(FIVE) == LIMITS.loading_s(ONE) + 4 * further
    tensor = dataclasses.replace(ONE, parallel=ParallelPlan(step_split=(4,), tensor=8))
    assert LIMITS.loading_s(tensor) == LIMITS.loading_s(ONE), "all of them compile at the same time"


def test_a_plan_with_slow_blocks_does_not_count_as_hung(clock: Clock) -> None:
    for plan, expected in [(ONE, 30), (dataclasses.replace(ONE, block_s=20.0), 100)]:
        deadline = JobDeadline(LIMITS, plan)
        deadline.take(CHUNK)
        assert limit(deadline, clock) == expected
        deadline.take(Progress(job_id="", stage="generating", frames_done=24, num_frames=48))
        assert limit(deadline, clock) == expected
    parts = dataclasses.replace(ONE, parallel=ParallelPlan(step_split=(4,), layer_parts=4), block_s=4.0)
    deadline = JobDeadline(LIMITS, parts)
    deadline.take(CHUNK)
    assert limit(deadline, clock) == 80, "four blocks come at a time"


def test_blocks_under_way_are_finished_before_a_stop_counts_as_hung(clock: Clock) -> None:
    for plan, expected in [(ONE, 13), (dataclasses.replace(FIVE, block_s=1.0), 25)]:
        deadline = JobDeadline(LIMITS, plan)
        deadline.take(CHUNK)
        deadline.stopping()
        deadline.take(CHUNK)
        assert limit(deadline, clock) == expected


def test_after_a_change_there_is_time_to_compile_again(clock: Clock) -> None:
    deadline = JobDeadline(LIMITS, ONE)
    deadline.take(CHUNK)
    deadline.take(PlanChanged(job_id="", change=CHANGE, plan=dataclasses.replace(ONE, width=384, height=256)))
    assert limit(deadline, clock) == LIMITS.first_chunk_model_s
    deadline.take(CHUNK)
    assert limit(deadline, clock) == LIMITS.chunk_s


def test_ranks_wait_for_each_other_longer_than_the_supervisor_waits_for_them() -> None:
    for parallel in parallel_plans(EVERYTHING.max_ranks, 4):
        plan = dataclasses.replace(ONE, parallel=parallel, block_s=30.0)
        waits = (LIMITS.loading_s(plan), LIMITS.first_pictures_s(plan), LIMITS.next_pictures_s(plan))
        assert max(waits) < LINK_DEADLINE_S
