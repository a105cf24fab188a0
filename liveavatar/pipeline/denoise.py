"""A stage: the transformer with the caches of consecutive denoising steps of one video.

Shapes: latents [16, 3, h, w]; speech [A, 25, C, 12].
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.parallel import MAX_STEPS, KvPrecision
from liveavatar.models.s2v import S2VTransformer, TokenGrid, routing_masks
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.models.s2v.kv_cache import KVCache
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import SinkDistance
from liveavatar.pipeline.schedule import euler_step, home_steps, noise_schedule, steps_of_stage


class Denoiser(Protocol):
    """What the block loop asks of a stage, or of a part of its layers."""

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute what all later blocks are reminded of; the blocks already in memory stay."""

    def advance(self, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        """Return the message with the work of this denoiser done."""

    def is_last_visit(self, message: BlockMessage) -> bool:
        """Whether the message that was advanced last, given as it came, does not come here again."""


class StageMemory:
    """Prompt, schedule and caches of a stage: what it has of one video, in all its layers or in a part of them.

    `num_steps` counts the steps of the whole schedule, `steps` are those of this stage; all, if not given. Blocks may
    be made in fewer steps than that. A step attends to what earlier blocks left at its own noise level, so it uses the
    cache of the step that it belongs to (`schedule.home_steps`), and is made by the stage that has it; a stage that
    has none of them lets the block pass.
    """

    def __init__(
        self,
        model: S2VTransformer,
        *,
        grid: TokenGrid,
        text: Tensor,
        sink_distance: SinkDistance,
        num_steps: int = MAX_STEPS,
        steps: range | None = None,
        blocks_per_clip: int = CLIP_BLOCKS,
        kv_precision: KvPrecision = "bf16",
        host_caches: HostCaches | None = None,
    ) -> None:
        """`host_caches` allocates the caches in host memory; without it they are where the model is."""
        self._model, self._sink_distance = model, sink_distance
        self.max_steps, self._home_range = num_steps, range(num_steps) if steps is None else steps
        self._text = model.encode_text(text)
        allocate = model.allocate_caches if host_caches is None else host_caches.allocate
        caches = allocate(
            grid, len(self._home_range), capacity_blocks=blocks_per_clip, precision=kv_precision
        )
        self._caches = dict(zip(self._home_range, caches, strict=True))
        self._set_schedule(num_steps)

    @property
    def _all_caches(self) -> list[KVCache]:
        """Return all caches, also those of steps that are left out at the moment."""
        return list(self._caches.values())

    @property
    def kept_tensors(self) -> dict[str, list[Tensor]]:
        """Return what is kept for the video, by the names of the forecast."""
        layers = [layer for cache in self._all_caches for layer in cache.working_layers]
        return {
            "key-value caches": [tensor for layer in layers for tensor in layer.tensors],
            "sink keys": [layer.reference_k_SHK for layer in layers],
            "prompt keys": [tensor for layer in self._text for tensor in layer],
        }

    def _cache(self, step: int) -> KVCache:
        """Return the cache of a step of the present schedule."""
        return self._caches[self._homes[step]]

    def set_steps(self, num_steps: int) -> None:
        """Run later blocks in another number of steps, at most `max_steps`.

        More than before takes a stage that has all steps: a step that comes back takes over the cache of the nearest
        noise level, for its own has missed blocks.
        """
        if num_steps == self.num_steps:
            return
        in_use = [home for home in self._homes if home in self._caches]
        levels = noise_schedule(self.max_steps).sigmas
        for home in home_steps(num_steps, self.max_steps):
            if home in self._caches and home not in in_use:
                assert len(self._caches) == self.max_steps, "steps come back only where one stage has all"
                nearest = min(in_use, key=lambda used: abs(levels[used] - levels[home]))
                self._caches[home].copy_from(self._caches[nearest])
        self._set_schedule(num_steps)

    def _euler_step(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
        """Return the latents after a step of the present schedule."""
        return euler_step(latents, velocity, sigma=self._sigmas[step], next_sigma=self._sigmas[step + 1])

    def _set_schedule(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self._homes = home_steps(num_steps, self.max_steps)
        self.steps = steps_of_stage(self._home_range, num_steps, self.max_steps)
        self._sigmas, timesteps = noise_schedule(num_steps)
        self._times = {step: self._model.encode_time(timesteps[step]) for step in self.steps}


class BlockDenoiser(StageMemory):
    """Brings blocks, in order, from the noise level of its first step to that behind its last."""

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute what all later blocks are reminded of; the blocks already in memory stay."""
        dtype = self._model.compute_dtype
        reference, motion = sink.reference[0].to(dtype), sink.motion[0].to(dtype)
        self._model.prefill(reference, motion, self._text, self._all_caches)

    def advance(self, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        """Return the message after all steps of this stage."""
        self.set_steps(message.num_steps)
        if not self.steps:
            return message
        latents = self.denoise(message.latents, message.speech, message.block, masks)
        return replace(message, latents=latents, step=self.steps.stop)

    def is_last_visit(self, message: BlockMessage) -> bool:
        """Every block comes here once."""
        return True

    def denoise(self, latents: Tensor, speech: Tensor, block: int, masks: Tensor | None = None) -> Tensor:
        """Return the latents of the block, counted from the start of the video, after this stage's steps.

        For several actors, `masks` [A, frames, rows, columns, 1].
        """
        audio = self._model.encode_audio(speech)
        routing = None if masks is None else routing_masks(masks)
        for step in self.steps:
            cache = self._cache(step)
            position = cache.locate(block, self._sink_distance(block, step))
            velocity = self._model(
                latents, self._times[step], self._text, audio, position, cache, actor_masks_AFS1=routing
            )
            latents = self._euler_step(latents, velocity, step)
        return latents
