"""What the first rank lets begin, and when it ends a stretch."""

from __future__ import annotations

import pytest
import torch

from liveavatar.core.events import Adjust
from liveavatar.core.parallel import ParallelPlan
from liveavatar.engines.s2v.gate import Gate, layout_for, why_not
from liveavatar.pipeline.message import BlockMessage
from liveavatar.planning.model_spec import VideoSize

SIZE = VideoSize(704, 384)
TWO_STAGES = ParallelPlan(step_split=(2, 2))


class Begun:
    """A gate with a list of wishes."""

    def __init__(self, layout: ParallelPlan = TWO_STAGES) -> None:
        self.wishes: list[Adjust] = []
        self.is_stopped = False
        self.gate = Gate(
            num_steps=layout.num_steps,
            picture_size=(1280, 720),
            take_wish=lambda: self.wishes.pop(0) if self.wishes else None,
            should_stop=lambda: self.is_stopped,
        )
        self.gate.begin_stretch(layout, SIZE, layout.num_steps)

    def wish(self, num_steps: int | None = None, size: str | None = None) -> None:
        self.wishes.append(Adjust(job_id="a", num_steps=num_steps, size=size))

    def steps_of(self, block: int) -> int | None:
        """Return in how many steps the block is made; None where it is not."""
        message = BlockMessage(block=block, num_steps=4, latents=torch.empty(0), speech=torch.empty(0))
        admitted = self.gate.admit(message)
        return admitted.num_steps if admitted else None


def test_fewer_steps_at_once_and_more_after_the_clip() -> None:
    begun = Begun()
    assert begun.steps_of(0) == 4
    begun.wish(2)
    begun.wish(3)
    assert [begun.steps_of(block) for block in (1, 2)] == [3, 3]
    begun.wish(4)
    assert begun.steps_of(3) == 3
    assert begun.steps_of(4) is None
    assert (begun.gate.wished_steps, begun.gate.num_begun, begun.gate.is_stopped) == (4, 4, False)
    begun.gate.begin_stretch(TWO_STAGES, SIZE, 4)
    assert [begun.steps_of(block) for block in range(5)] == [4] * 5


def test_a_size_that_is_there_already_ends_nothing() -> None:
    begun = Begun()
    begun.wish(size="384*256")
    begun.wish(size="704*384")
    assert [begun.steps_of(block) for block in range(5)] == [4] * 5
    begun.wish(size="384*256")
    assert [begun.steps_of(block) for block in (5, 6, 7, 8)] == [4, 4, 4, None]
    assert begun.gate.wished_size == VideoSize(384, 256)


def test_a_stop_comes_before_everything() -> None:
    begun = Begun()
    begun.is_stopped = True
    assert begun.steps_of(0) is None
    assert (begun.gate.is_stopped, begun.gate.num_begun) == (True, 0)


def test_shared_weights_make_all_steps_of_a_stretch() -> None:
    begun = Begun(ParallelPlan(step_split=(2, 2), weights_sharded=True))
    begun.wish(3)
    assert begun.steps_of(0) == 4
    assert begun.gate.wished_steps is None
    begun.wish(2)
    assert [begun.steps_of(block) for block in (1, 2, 3, 4)] == [4, 4, 4, None]


@pytest.mark.parametrize(
    ("split", "sharded", "num_steps", "expected"),
    [
        ((2, 2), False, 1, (2, 2)),
        ((1, 1), False, 3, (2, 1)),
        ((1, 1), True, 4, (2, 2)),
        ((2, 2), True, 2, (1, 1)),
        ((2, 2), True, 3, None),
        ((2, 2), True, 1, None),
    ],
)
def test_layouts_for_other_steps(
    split: tuple[int, ...], sharded: bool, num_steps: int, expected: tuple[int, ...] | None
) -> None:
    layout = ParallelPlan(step_split=split, weights_sharded=sharded)
    assert (why_not(layout, num_steps) is None) == (expected is not None)
    if expected is not None:
        assert layout_for(layout, num_steps).step_split == expected
