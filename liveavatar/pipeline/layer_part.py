"""A part of a stage: some of its layers, for all of its denoising steps.

A block passes through the parts once per step. The first part takes as many blocks at a time as there are parts, and
lets them take turns: while part 2 has step 1 of a block, part 1 has step 1 of the next.

    part 0   b0 step 1 | b1 step 1 | b0 step 2 | b1 step 2 | b2 step 1 | ...
    part 1             | b0 step 1 | b1 step 1 | b0 step 2 | b1 step 2 | ...

A block needs of earlier blocks only what they left in the same layer at the same step, and there blocks stay in
order. So the turns change no number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.models.s2v import S2VTransformer, routing_masks
from liveavatar.models.s2v.audio_injector import AudioCondition
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.pipeline.denoise import StageMemory
from liveavatar.pipeline.message import BlockMessage


class SinkSource(Protocol):
    """Where a part gets the sink's tokens from."""

    def receive_sink(self) -> Tensor:
        """Wait for the tokens that the part before left."""


class SinkTarget(Protocol):
    """Where a part leaves the sink's tokens."""

    def send_sink(self, tokens: Tensor) -> None:
        """Send them on."""


class PartDenoiser(StageMemory):
    """Takes a block through one step in this part's layers."""

    def __init__(
        self,
        model: S2VTransformer,
        *,
        before: SinkSource | None,
        behind: SinkTarget | None,
        **settings: Any,
    ) -> None:
        """`before` and `behind` lead to the neighbouring parts; None where this part is the first or the last."""
        super().__init__(model, **settings)
        self._before, self._behind = before, behind
        self._audio: dict[int, Mapping[int, AudioCondition]] = {}  # of the blocks that take turns

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute this part's share of what all later blocks are reminded of."""
        if self._before is None:
            dtype = self._model.compute_dtype
            tokens = self._model.embed_sink(sink.reference[0].to(dtype), sink.motion[0].to(dtype))
        else:
            tokens = self._before.receive_sink()
        tokens = self._model.prefill_layers(tokens, self._text, self._all_caches)
        if self._behind is not None:
            self._behind.send_sink(tokens)

    def advance(self, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        """Return the message with tokens for the next part, or with the latents after the step."""
        self.set_steps(message.num_steps)
        if not self.steps:
            return message
        step, cache = message.step, self._cache(message.step)
        tokens = self._model.embed(message.latents) if message.tokens is None else message.tokens
        tokens = self._model.run_layers(
            tokens,
            self._times[step],
            self._text,
            self._hear(message),
            cache.locate(message.block, self._sink_distance(message.block, step)),
            cache,
            None if masks is None else routing_masks(masks),
        )
        if self._behind is not None:
            return replace(message, tokens=tokens)
        velocity = self._model.unembed(tokens, self._times[step], message.latents.shape)
        latents = self._euler_step(message.latents, velocity, step)
        return replace(message, latents=latents, step=step + 1, tokens=None)

    def is_last_visit(self, message: BlockMessage) -> bool:
        """A block comes here once per step, and once where it is let pass."""
        return not self.steps or message.step == self.steps[-1]

    def _hear(self, message: BlockMessage) -> Mapping[int, AudioCondition]:
        """Return what the injections of this part need of a block's speech: computed at its first visit."""
        if message.step == self.steps.start:
            self._audio[message.block] = self._model.encode_audio(message.speech)
        if self.is_last_visit(message):
            return self._audio.pop(message.block)
        return self._audio[message.block]


def take_turns(
    fresh: Iterable[BlockMessage],
    returning: Iterator[BlockMessage],
    *,
    num_parts: int,
    visits: Callable[[int], int],
    blocks_per_clip: int = CLIP_BLOCKS,
) -> Iterator[BlockMessage]:
    """Yield what the first part has to do: fresh blocks, and those that come back from the last part.

    `visits` says how often a block of so many steps in all comes here. The first clip is brought to its end before
    the second begins: the sink is refreshed between them. Blocks under way are brought to their end before one with
    another number of steps begins: it would overtake them where it leaves out a step.
    """
    fresh = iter(fresh)
    visits_left: deque[int] = deque()  # of the blocks under way, the one whose turn it is first
    waiting: BlockMessage | None = None  # the next fresh block
    num_taken = num_steps = 0
    while True:
        is_clip_ending = num_taken == blocks_per_clip and visits_left
        if waiting is None and len(visits_left) < num_parts and not is_clip_ending:
            waiting = next(fresh, None)
        if waiting is not None and (waiting.num_steps == num_steps or not visits_left):
            message, waiting = waiting, None
            num_taken, num_steps = num_taken + 1, message.num_steps
            visits_left.append(visits(num_steps) - 1)
            yield message
        elif visits_left:
            left = visits_left.popleft()
            if left:
                yield next(returning)
                visits_left.append(left - 1)
        else:
            return
