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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.parallel import MAX_STEPS, KvPrecision
from liveavatar.models.s2v import S2VTransformer, TokenGrid, routing_masks
from liveavatar.models.s2v.audio_injector import AudioCondition
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import SinkDistance
from liveavatar.pipeline.schedule import euler_step, noise_schedule


class SinkSource(Protocol):
    """Where a part gets the sink's tokens from."""

    def receive_sink(self) -> Tensor:
        """Wait for the tokens that the part before left."""


class SinkTarget(Protocol):
    """Where a part leaves the sink's tokens."""

    def send_sink(self, tokens: Tensor) -> None:
        """Send them on."""


class PartDenoiser:
    """Takes a block through one step in this part's layers.

    `before` and `behind` lead to the neighbouring parts; None where this part is the first or the last.
    """

    def __init__(
        self,
        model: S2VTransformer,
        *,
        grid: TokenGrid,
        text: Tensor,
        sink_distance: SinkDistance,
        before: SinkSource | None,
        behind: SinkTarget | None,
        num_steps: int = MAX_STEPS,
        steps: range,
        blocks_per_clip: int = CLIP_BLOCKS,
        kv_precision: KvPrecision = "bf16",
        host_caches: HostCaches | None = None,
    ) -> None:
        self.num_steps, self.steps = num_steps, steps
        self.visits = len(steps)
        self._model = model
        self._before, self._behind = before, behind
        self._sigmas, timesteps = noise_schedule(num_steps)
        self._times = {step: model.encode_time(timesteps[step]) for step in steps}
        self._text = model.encode_text(text)
        allocate = model.allocate_caches if host_caches is None else host_caches.allocate
        caches = allocate(grid, len(steps), capacity_blocks=blocks_per_clip, precision=kv_precision)
        self._caches = dict(zip(steps, caches, strict=True))
        self._sink_distance = sink_distance
        self._audio: dict[int, Mapping[int, AudioCondition]] = {}  # of the blocks that take turns

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute this part's share of what all later blocks are reminded of."""
        if self._before is None:
            dtype = self._model.compute_dtype
            tokens = self._model.embed_sink(sink.reference[0].to(dtype), sink.motion[0].to(dtype))
        else:
            tokens = self._before.receive_sink()
        tokens = self._model.prefill_layers(tokens, self._text, list(self._caches.values()))
        if self._behind is not None:
            self._behind.send_sink(tokens)

    def advance(self, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        """Return the message with tokens for the next part, or with the latents after the step."""
        step, cache = message.step, self._caches[message.step]
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
        latents = euler_step(
            message.latents, velocity, sigma=self._sigmas[step], next_sigma=self._sigmas[step + 1]
        )
        return replace(message, latents=latents, step=step + 1, tokens=None)

    def _hear(self, message: BlockMessage) -> Mapping[int, AudioCondition]:
        """Return what the injections of this part need of a block's speech: computed at its first visit."""
        if message.step == self.steps.start:
            self._audio[message.block] = self._model.encode_audio(message.speech)
        is_last_visit = message.step == self.steps[-1]
        return self._audio.pop(message.block) if is_last_visit else self._audio[message.block]


def take_turns(
    fresh: Iterable[BlockMessage],
    returning: Iterator[BlockMessage],
    *,
    num_parts: int,
    num_steps: int,
    blocks_per_clip: int = CLIP_BLOCKS,
) -> Iterator[BlockMessage]:
    """Yield what the first part has to do: fresh blocks, and those that come back from the last part.

    The first clip is brought to its end before the second begins: the sink is refreshed between them.
    """
    fresh = iter(fresh)
    steps_left: deque[int] = deque()  # of the blocks under way, the one whose turn it is first
    num_taken = 0
    while True:
        if len(steps_left) < num_parts and not (num_taken == blocks_per_clip and steps_left):
            message = next(fresh, None)
            if message is not None:
                num_taken += 1
                steps_left.append(num_steps - 1)
                yield message
                continue
        if not steps_left:
            return
        left = steps_left.popleft()
        if left:
            yield next(returning)
            steps_left.append(left - 1)
