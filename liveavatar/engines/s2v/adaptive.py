"""One video that gets by with the memory there is: made by ever more frugal plans where it must be.

The video is made in *stretches*: block after block with one plan and one set of caches. A stretch ends at the end of a
clip when other programs have taken memory or the operator wishes another size, and at any block when an allocation
fails. The next one goes on with the block that comes after the last picture handed out.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import Adjust
from liveavatar.core.memory import gb_text
from liveavatar.core.note import Note
from liveavatar.core.plan import ChangeCause, ExecutionPlan, PlanChange
from liveavatar.engines.s2v.history import History
from liveavatar.engines.s2v.memory import give_back, with_margin
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import Parts, can_multiply_in_8_bits
from liveavatar.engines.s2v.video import PictureStream
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.delivery import Pictures
from liveavatar.planning import ladder
from liveavatar.planning.choice import fixed_size
from liveavatar.planning.ladder import Ladder, describe
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.s2v_request import size_for_free_memory

log = logging.getLogger(__name__)

REMEDY = (
    "Other programs that use this memory would have to be closed, or a smaller size or fewer steps chosen."
)


class Conditions(Protocol):
    """What a video is made from, in any size and from any block on."""

    seed: int
    prompt: str
    num_blocks: int
    picture_size: tuple[int, int]  # width and height of the portrait in pixels

    def reference(self, height: int, width: int) -> Tensor:
        """Return the portrait [3, height, width] in -1..1."""

    def speech(self, first_block: int) -> Iterator[Tensor]:
        """Yield the features of each block from `first_block` on."""


Made = Pictures | PlanChange | Note


class AdaptiveVideo:
    """Makes one video. `plan` is what is carried out now."""

    def __init__(
        self,
        parts: Parts,
        plan: ExecutionPlan,
        conditions: Conditions,
        *,
        pin_size: bool,
        available_bytes: Callable[[], int],
        take_wish: Callable[[], Adjust | None],
        meter: Meter,
    ) -> None:
        self._parts, self._conditions = parts, conditions
        self._pin_size = pin_size
        self._available_bytes, self._take_wish = available_bytes, take_wish
        self._meter = meter
        self._ladder = Ladder(plan, conditions.picture_size)
        if pin_size:
            self._ladder.skip(ladder.make_smaller)
        if not can_multiply_in_8_bits():
            self._ladder.skip(ladder.keep_weights_in_8_bits)
        if parts.transformer.device.type == "cpu":  # it computes in host memory already
            for rung in ladder.USING_HOST_MEMORY:
                self._ladder.skip(rung)
        self._text: Tensor | None = None
        self._wished_size: str | None = None
        self._wished_steps: int | None = None
        self._history = History()
        self._last_note: Note | None = None
        self._is_changed = False

    @property
    def plan(self) -> ExecutionPlan:
        """Return what is carried out now."""
        return self._ladder.plan

    @torch.inference_mode()
    def make(self) -> Iterator[Made]:
        """Yield the 12 pictures of every block in the size of `plan`, and each change of plan before it shows.

        Raises EngineFailed when memory runs out and there is no rung left.
        """
        while self._history.num_blocks < self._conditions.num_blocks:
            shortage, is_of_host = "", False
            try:
                yield from self._stretch()
            except torch.OutOfMemoryError as error:
                shortage = _words_for(error)
            except EngineFailed as failure:
                if failure.diagnosis.code != "host_memory_full" or not self.plan.offload.caches:
                    raise
                shortage, is_of_host = failure.diagnosis.cause.rstrip("."), True
            # Not within `except`: the error's traceback would hold the memory.
            if shortage:
                log.warning("out of memory with %s: %s", describe(self.plan), shortage)
                yield self._without_host_memory(shortage) if is_of_host else self._climb_down(shortage)

    def _stretch(self) -> Iterator[Made]:
        """Make blocks until the video is whole or the plan changes."""
        yield from self._check_memory()
        self._parts.shrink_weights(self.plan)
        stream = self._stream(self._encoded_prompt())
        for index in range(self._conditions.num_blocks - self._history.num_blocks):
            if index and index % CLIP_BLOCKS == 0:
                plan = self.plan
                yield from self._check_wishes_of_clip(stream)
                yield from self._check_memory()
                if self.plan != plan:
                    return
            yield from self._check_steps(stream)
            pictures = self._next_pictures(stream)
            self._history.add(pictures)
            yield pictures

    def _encoded_prompt(self) -> Tensor:
        if self._text is None:
            self._text = self._parts.encode_prompt(
                self._conditions.prompt, on_processor=self.plan.offload.text_encoder
            )
            self._ladder.skip(ladder.encode_prompt_on_processor)  # done with, and its memory given back
        return self._text

    def _next_pictures(self, stream: PictureStream) -> Pictures:
        if not self._is_changed:
            return next(stream)
        # A new size would be compiled first, for minutes in which no picture comes.
        with torch.compiler.set_stance("eager_on_recompile"):
            return next(stream)

    def _stream(self, text: Tensor) -> PictureStream:
        plan = self.plan
        reference = self._conditions.reference(plan.height, plan.width)
        self._meter.note_resident(self._parts.kept_tensors)
        return PictureStream(
            self._parts.transformer,
            self._parts.vae_for(plan),
            plan,
            reference=reference,
            text=text,
            speech=self._conditions.speech(self._history.num_blocks),
            seed=self._conditions.seed,
            past=self._history.past(backdrop_of(reference)),
            meter=self._meter,
            host_caches=self._parts.host_caches if plan.offload.caches else None,
            sinks=self._parts.sinks,
        )

    # ------------------------------------------------------------------------------ changes

    def _climb_down(self, shortage: str) -> Made:
        """Take the next rung. Raises EngineFailed when there is none."""
        give_back()
        before = self.plan
        if not self._ladder.climb_down():
            raise EngineFailed(_memory_full(before, shortage, pinned=self._pin_size))
        reason = f"Memory ran out: {shortage}."
        if self.plan == before:
            text = f"{reason} What was kept for later was given back, and it is tried again."
            return Note(code="tried_again", text=text)
        return self._change("memory_full", before, reason, REMEDY)

    def _without_host_memory(self, shortage: str) -> PlanChange:
        """Bring the caches back to the card: the machine has no room for them either."""
        give_back()
        before = self.plan
        for rung in ladder.USING_HOST_MEMORY:
            self._ladder.skip(rung)
        self._ladder.move_to(
            dataclasses.replace(before, offload=dataclasses.replace(before.offload, caches=False))
        )
        return self._change("memory_full", before, f"{shortage}.", REMEDY)

    def _check_memory(self) -> Iterator[Made]:
        """Take a more frugal plan where the present one is not going to fit."""
        before, available, needed = self.plan, self._available_bytes(), 0
        if before.budgets:
            needed = ladder.needed_bytes(before)
            if needed <= available:
                return
            reason = f"It needs {gb_text(needed)}; {gb_text(available)} are to be had."
            self._ladder.fit(with_margin(available))
        else:
            size = VideoSize(before.width, before.height)
            fitting = size_for_free_memory(available, size, self._conditions.picture_size)
            if fitting == size:
                return
            reason = f"{gb_text(available)} of memory are to be had."
            if not self._pin_size:
                self._ladder.move_to(dataclasses.replace(before, width=fitting.width, height=fitting.height))
        if self.plan != before:
            give_back()
            change = self._change("memory_taken", before, reason, REMEDY)
            yield dataclasses.replace(change, needed_bytes=needed, available_bytes=available)
        else:
            yield from self._once(may_break_off(reason, needed, available))

    def _check_steps(self, stream: PictureStream) -> Iterator[Made]:
        """Change the steps with this block, where there are caches for them."""
        self._take_wishes()
        wished = self._wished_steps
        if wished is not None and wished <= stream.max_steps:
            self._wished_steps = None
            if wished != self.plan.num_steps:
                stream.set_steps(wished)
                yield self._move_to(_with_steps(self.plan, wished), first_block=stream.num_begun)

    def _check_wishes_of_clip(self, stream: PictureStream) -> Iterator[Made]:
        """Take up a wish for another size, or for more steps than there are caches."""
        self._take_wishes()
        plan = self.plan
        if self._wished_steps is not None and self._wished_steps > stream.max_steps:
            plan, self._wished_steps = _with_steps(plan, self._wished_steps), None
        if self._wished_size is not None:
            size, _ = fixed_size(self._wished_size, self._conditions.picture_size)
            plan, self._wished_size = dataclasses.replace(plan, width=size.width, height=size.height), None
        if plan == self.plan:
            return
        needed, available = (
            ladder.needed_bytes(plan) if plan.budgets else 0,
            with_margin(self._available_bytes()),
        )
        if needed > available:
            text = (
                f"The video stays as it is: {describe(plan)} needs {gb_text(needed)},"
                f" and {gb_text(available)} are to be had."
            )
            yield from self._once(stays(text, describe(plan), needed, available))
        else:
            yield self._move_to(plan, first_block=self._history.num_blocks)

    def _take_wishes(self) -> None:
        while (wish := self._take_wish()) is not None:
            self._wished_size = wish.size or self._wished_size
            self._wished_steps = wish.num_steps or self._wished_steps

    def _move_to(self, plan: ExecutionPlan, *, first_block: int) -> PlanChange:
        before = self.plan
        self._ladder.move_to(plan)
        change = self._change("asked", before, "You asked for it.", "")
        return dataclasses.replace(change, first_frame=first_block * PICTURES_PER_BLOCK)

    def _change(self, cause: ChangeCause, before: ExecutionPlan, reason: str, remedy: str) -> PlanChange:
        self._is_changed = True
        return PlanChange(
            first_frame=self._history.num_blocks * PICTURES_PER_BLOCK,
            cause=cause,
            before=describe(before),
            after=describe(self.plan),
            reason=reason,
            remedy=remedy,
        )

    def _once(self, note: Note) -> Iterator[Made]:
        if note != self._last_note:
            self._last_note = note
            yield note


def backdrop_of(reference: Tensor) -> Pictures:
    """Return the still portrait [H, W, 3] of 0..255."""
    levels: Pictures = ((reference + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return levels


def _with_steps(plan: ExecutionPlan, num_steps: int) -> ExecutionPlan:
    assert plan.parallel is not None, "a plan for this engine says how it is spread"
    return dataclasses.replace(plan, parallel=plan.parallel.with_steps(num_steps))


def _words_for(error: torch.OutOfMemoryError) -> str:
    """Return how much was missing, as PyTorch says it among much else."""
    asked = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    return f"{asked[1]} more were asked for than is free" if asked else "more was asked for than is free"


def _memory_full(plan: ExecutionPlan, shortage: str, *, pinned: bool) -> Diagnosis:
    return Diagnosis(
        code="graphics_memory_full",
        title="The memory is full."
        if not torch.cuda.is_available()
        else "The graphics card's memory is full.",
        cause=f"While making {describe(plan)}, {shortage}.",
        remedy=(
            "Close other programs, or let the size shrink where memory is short, then press Generate again."
            if pinned
            else "Close other programs that use it, then press Generate again."
        ),
        facts={"needed_bytes": ladder.needed_bytes(plan) if plan.budgets else 0},
    )


def may_break_off(reason: str, needed: int, available: int) -> Note:
    """Return what is told where less than `needed` bytes are available; 0 where the need is not known."""
    return Note(
        code="may_break_off",
        text=f"{reason} The video goes on as it is and may break off.",
        values={"needed_bytes": needed or "", "available_bytes": available},
    )


def stays(text: str, plan: str, needed: int, available: int) -> Note:
    """Return why a wish for `plan` is not fulfilled; in bytes."""
    return Note(
        code="stays_as_it_is",
        text=text,
        values={"plan": plan, "needed_bytes": needed, "available_bytes": available},
    )


def loaded_otherwise(plan: ExecutionPlan, loaded: ExecutionPlan) -> PlanChange:
    """Return what is told of a video that is made by an engine which had to be loaded smaller than planned."""
    return PlanChange(
        first_frame=0,
        cause="loaded",
        before=describe(plan),
        after=describe(loaded),
        reason="When the engine was loaded, less memory was free than was planned with.",
        remedy="Other programs that use this memory would have to be closed before the engine starts.",
    )
