"""A stage: the transformer with the caches of consecutive denoising steps of one video.

Shapes: latents [16, 3, h, w]; speech [A, 25, C, 12].
"""

from __future__ import annotations

from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.models.s2v import S2VTransformer, TokenGrid, routing_masks
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.pipeline.randomness import SinkDistance
from liveavatar.pipeline.schedule import MAX_STEPS, euler_step, noise_schedule


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
    ) -> None:
        self._model = model
        self._steps = range(num_steps) if steps is None else steps
        self._sigmas, timesteps = noise_schedule(num_steps)
        self._times = {step: model.encode_time(timesteps[step]) for step in self._steps}
        self._text = model.encode_text(text)
        caches = model.allocate_caches(grid, len(self._steps), capacity_blocks=blocks_per_clip)
        self._caches = dict(zip(self._steps, caches, strict=True))
        self._sink_distance = sink_distance
        self.is_last = self._steps.stop == num_steps

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute what all later blocks are reminded of; the blocks already in memory stay."""
        dtype = self._model.compute_dtype
        reference, motion = sink.reference[0].to(dtype), sink.motion[0].to(dtype)
        self._model.prefill(reference, motion, self._text, list(self._caches.values()))

    def denoise(self, latents: Tensor, speech: Tensor, block: int, masks: Tensor | None = None) -> Tensor:
        """Return the latents of the block, counted from the start of the video, after this stage's steps.

        For several actors, `masks` [A, frames, rows, columns, 1].
        """
        audio = self._model.encode_audio(speech)
        routing = None if masks is None else routing_masks(masks)
        for step in self._steps:
            cache = self._caches[step]
            position = cache.locate(block, self._sink_distance(block, step))
            velocity = self._model(
                latents, self._times[step], self._text, audio, position, cache, actor_masks_AFS1=routing
            )
            latents = euler_step(
                latents, velocity, sigma=self._sigmas[step], next_sigma=self._sigmas[step + 1]
            )
        return latents
