"""What the first of several ranks does with the operator's wishes: it alone decides, and the blocks carry it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from liveavatar.core.events import Adjust
from liveavatar.core.note import Note
from liveavatar.core.parallel import ParallelPlan
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.pipeline.message import BlockMessage
from liveavatar.planning.choice import fixed_size
from liveavatar.planning.model_spec import VideoSize


class Gate:
    """Lets the blocks of a video begin, one by one, or ends the stream.

    Fewer steps begin with the next block. More steps than the block before had, and another size, take a new stretch:
    caches of steps that were left out have missed blocks, and other sizes have other caches. It begins after a clip.
    """

    def __init__(
        self,
        *,
        num_steps: int,
        picture_size: tuple[int, int],
        take_wish: Callable[[], Adjust | None],
        should_stop: Callable[[], bool],
    ) -> None:
        """`picture_size` is the width and height of the portrait in pixels."""
        self.is_stopped = False
        self.num_begun = 0  # blocks of the whole video
        self.num_steps = num_steps
        self.wished_steps: int | None = None
        self.wished_size: VideoSize | None = None
        self._picture_size = picture_size
        self._take_wish, self._should_stop = take_wish, should_stop

    def begin_stretch(self, layout: ParallelPlan, size: VideoSize, num_steps: int) -> None:
        """Note what is carried out from now on; wishes that are taken up with it are done with."""
        self._layout, self._size, self.num_steps = layout, size, num_steps
        self.wished_steps = self.wished_size = None

    def admit(self, message: BlockMessage) -> BlockMessage | None:
        """Return the block as it is to be made; None ends the stretch before it."""
        if self._should_stop():
            self.is_stopped = True
            return None
        self._take_wishes()
        is_clip_over = message.block > 0 and message.block % CLIP_BLOCKS == 0
        if is_clip_over and (self.wished_steps is not None or self.wished_size is not None):
            return None
        self.num_begun += 1
        return dataclasses.replace(message, num_steps=self.num_steps)

    def _take_wishes(self) -> None:
        while (wish := self._take_wish()) is not None:
            if wish.size is not None:
                size, _ = fixed_size(wish.size, self._picture_size)
                self.wished_size = size if size != self._size else None
            if wish.num_steps is not None and not why_not(self._layout, wish.num_steps):
                self.wished_steps = wish.num_steps if wish.num_steps != self.num_steps else None
        wished = self.wished_steps
        if wished is not None and wished < self.num_steps and not self._layout.weights_sharded:
            self.num_steps, self.wished_steps = wished, None


def layout_for(layout: ParallelPlan, num_steps: int) -> ParallelPlan:
    """Return the layout that makes a stretch in so many steps: unchanged where steps can be left out.

    Ranks that share their weights make all steps together. Raises ValueError where that cannot be.
    """
    if num_steps <= layout.num_steps and not layout.weights_sharded:
        return layout
    return layout.with_steps(num_steps)


def why_not(layout: ParallelPlan, num_steps: int) -> Note | None:
    """Return why the ranks cannot make a video in so many steps, and what to do, or None."""
    try:
        layout_for(layout, num_steps)
    except ValueError:
        num_stages = len(layout.step_split)
        return Note(
            code="steps_stay",
            text=f"The number of steps stays: {num_stages} graphics cards that share their weights make equally many"
            f" of them, and {num_steps} cannot be shared out like that. Choose a multiple of {num_stages}.",
            values={"num_cards": num_stages, "num_steps": num_steps},
        )
    return None
