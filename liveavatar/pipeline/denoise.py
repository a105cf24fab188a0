"""A stage: the transformer with the caches of consecutive denoising steps of one video.

Shapes: latents [16, 3, h, w]; speech [A, 25, C, 12].
"""

from __future__ import annotations

from collections.abc import Sequence
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
from liveavatar.pipeline.schedule import euler_step, noise_schedule


class Denoiser(Protocol):
    """What the block loop asks of a stage, or of a part of its layers."""

    num_steps: int  # of the whole schedule
    visits: int  # messages per block that it takes

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute what all later blocks are reminded of; the blocks already in memory stay."""

    def advance(self, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        """Return the message with the work of this denoiser done."""


class BlockDenoiser:
    """Brings blocks, in order, from the noise level of its first step to that behind its last.

    `num_steps` counts the steps of the whole schedule, `steps` are those of this stage; all, if not given.
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
        self._model = model
        self.num_steps, self.steps = num_steps, range(num_steps) if steps is None else steps
        self.visits = 1
        self._set_schedule(num_steps)
        self._text = model.encode_text(text)
        allocate = model.allocate_caches if host_caches is None else host_caches.allocate
        caches = allocate(grid, len(self.steps), capacity_blocks=blocks_per_clip, precision=kv_precision)
        self._caches = dict(zip(self.steps, caches, strict=True))
        self._spare_caches: list[KVCache] = []
        self._sink_distance = sink_distance

    @property
    def kept_tensors(self) -> dict[str, list[Tensor]]:
        """Return what is kept for the video, by the names of the forecast."""
        caches = [*self._caches.values(), *self._spare_caches]
        layers = [layer for cache in caches for layer in cache.working_layers]
        return {
            "key-value caches": [tensor for layer in layers for tensor in layer.tensors],
            "sink keys": [layer.reference_k_SHK for layer in layers],
            "prompt keys": [tensor for layer in self._text for tensor in layer],
        }

    @property
    def max_steps(self) -> int:
        """Return for how many steps there are caches."""
        return len(self._caches) + len(self._spare_caches)

    def set_steps(self, num_steps: int) -> None:
        """Run later blocks in another number of steps, at most `max_steps`. Only for a stage that has all steps.

        A step attends to what earlier blocks left at its own noise level. Where the new schedule has a level that
        the old one had not, it takes over the cache of the nearest; first and last level are in every schedule of
        two steps or more.
        """
        if not 1 <= num_steps <= self.max_steps:
            raise ValueError(f"{num_steps} steps asked for, there are caches for {self.max_steps}")
        old_levels = self._sigmas
        self._set_schedule(num_steps)
        self._caches = self._rearranged_caches(old_levels, num_steps)
        self.num_steps, self.steps = num_steps, range(num_steps)

    def _set_schedule(self, num_steps: int) -> None:
        self._sigmas, timesteps = noise_schedule(num_steps)
        self._times = {step: self._model.encode_time(timestep) for step, timestep in enumerate(timesteps)}

    def _rearranged_caches(self, old_levels: Sequence[float], num_steps: int) -> dict[int, KVCache]:
        """Return the caches of the new steps; spare ones get the content of those that two steps ask for."""
        nearest = [
            min(self._caches, key=lambda old: abs(old_levels[old] - level))
            for level in self._sigmas[:num_steps]
        ]
        spare = [cache for step, cache in self._caches.items() if step not in nearest] + self._spare_caches
        caches = {}
        for step, source in enumerate(nearest):
            caches[step] = self._caches[source]
            if source in nearest[:step]:
                caches[step] = spare.pop()
                caches[step].copy_from(self._caches[source])
        self._spare_caches = spare
        return caches

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute what all later blocks are reminded of; the blocks already in memory stay."""
        dtype = self._model.compute_dtype
        reference, motion = sink.reference[0].to(dtype), sink.motion[0].to(dtype)
        self._model.prefill(reference, motion, self._text, [*self._caches.values(), *self._spare_caches])

    def advance(self, message: BlockMessage, masks: Tensor | None = None) -> BlockMessage:
        """Return the message after all steps of this stage."""
        latents = self.denoise(message.latents, message.speech, message.block, masks)
        return replace(message, latents=latents, step=self.steps.stop)

    def denoise(self, latents: Tensor, speech: Tensor, block: int, masks: Tensor | None = None) -> Tensor:
        """Return the latents of the block, counted from the start of the video, after this stage's steps.

        For several actors, `masks` [A, frames, rows, columns, 1].
        """
        audio = self._model.encode_audio(speech)
        routing = None if masks is None else routing_masks(masks)
        for step in self.steps:
            cache = self._caches[step]
            position = cache.locate(block, self._sink_distance(block, step))
            velocity = self._model(
                latents, self._times[step], self._text, audio, position, cache, actor_masks_AFS1=routing
            )
            latents = euler_step(
                latents, velocity, sigma=self._sigmas[step], next_sigma=self._sigmas[step + 1]
            )
        return latents
