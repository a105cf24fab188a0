"""From conditions to pictures: one endless video, block by block, in memory that does not grow.

Needs no media library, so that benchmarks run the very same path on a bare machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.conditioning.audio import AudioEncoder
from liveavatar.conditioning.audio_stream import AudioFeatureStream
from liveavatar.conditioning.reference import SinkCache, SinkLatents
from liveavatar.conditioning.resample import Floats
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.meter import Meter
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.vae import FRAMES_PER_LATENT, StreamingVae
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.pipeline.block_loop import stream_blocks
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.delivery import Pictures, pictures_on_host
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import ContinuedRandomness, SeededRandomness

_PIXELS_PER_LATENT = 8


def speech_blocks(
    encoder: AudioEncoder, sound: Iterable[Floats], *, num_blocks: int, first_block: int = 0
) -> Iterator[Tensor]:
    """Yield the features [1, 25, C, 12] of blocks `first_block` to `num_blocks` of 16 kHz sound; after it, silence."""
    stream = AudioFeatureStream(encoder, frames_per_block=PICTURES_PER_BLOCK, first_block=first_block)
    block = first_block
    for features in _features(stream, sound):
        if block == num_blocks:
            return
        yield features
        block += 1
    for _ in range(block, num_blocks):
        yield torch.zeros(1, encoder.num_states, encoder.num_channels, PICTURES_PER_BLOCK)


def _features(stream: AudioFeatureStream, sound: Iterable[Floats]) -> Iterator[Tensor]:
    for samples in sound:
        yield from stream.push(samples)
    yield from stream.flush()


@dataclass(frozen=True, kw_only=True)
class Past:
    """What a video that goes on knows of its pictures, in the size that it goes on with."""

    first: Pictures  # [1, H, W, 3]: the model's own first picture, its reference for colours
    latest: Pictures  # [73, H, W, 3]: motion, at the beginning of a video still pictures first
    num_blocks: int  # made so far


class PictureStream:
    """The pictures of one video from some block on, all in one size: 12 per block of speech.

    The same arguments give the same pictures. All of the video's memory is held by this object.
    """

    def __init__(
        self,
        transformer: S2VTransformer,
        vae: StreamingVae,
        plan: ExecutionPlan,
        *,
        reference: Tensor,
        text: Tensor,
        speech: Iterable[Tensor],
        seed: int,
        past: Past | None = None,
        meter: Meter,
        host_caches: HostCaches | None = None,
        sinks: SinkCache | None = None,
    ) -> None:
        """Prepare; nothing large is computed before the first picture is asked for.

        `reference` [3, height, width] of the plan in -1..1, `text` [num_tokens, width]; `speech` begins with the first
        block to be made.
        """
        self._grid = TokenGrid(
            latent_height=plan.height // _PIXELS_PER_LATENT, latent_width=plan.width // _PIXELS_PER_LATENT
        )
        self._like = torch.empty(0, device=transformer.device, dtype=transformer.compute_dtype)
        self._num_steps = plan.num_steps
        self.num_begun = past.num_blocks if past else 0  # a card is one ahead of what is handed out
        self._randomness = ContinuedRandomness(SeededRandomness(seed), self.num_begun)
        # Encoded before the caches are there: both together would be the highest point of the whole video.
        sink = (
            sink_of_past(vae, past, plan.latents_per_decode)
            if past
            else (sinks or SinkCache()).plain_sink(vae, reference, latents_per_call=plan.latents_per_decode)
        )
        self._denoiser = BlockDenoiser(
            transformer,
            grid=self._grid,
            text=text,
            sink_distance=self._randomness.sink_distance,
            num_steps=plan.num_steps,
            kv_precision=plan.kv_precision,
            host_caches=host_caches,
        )
        meter.note_resident(self._denoiser.kept_tensors)
        blocks = stream_blocks(
            self._denoiser,
            vae,
            sink,
            self._counted(speech),
            self._clip_noise,
            num_steps=lambda: self._num_steps,
            latents_per_decode=plan.latents_per_decode,
            goes_on=past is not None,
            between=lambda denoised: meter.watch(denoised, "activations"),
        )
        self._pictures = pictures_on_host(meter.watch(blocks, "decoder working memory"))

    @property
    def max_steps(self) -> int:
        """Return the largest number of steps that `set_steps` takes."""
        return self._denoiser.max_steps

    def set_steps(self, num_steps: int) -> None:
        """Make all blocks that have not been begun in so many steps."""
        self._num_steps = num_steps

    def __iter__(self) -> Iterator[Pictures]:
        return self

    def __next__(self) -> Pictures:
        """Return the 12 pictures of the next block."""
        return next(self._pictures)

    def _counted(self, speech: Iterable[Tensor]) -> Iterator[Tensor]:
        for features in speech:
            self.num_begun += 1
            yield features.to(self._like.device)

    def _clip_noise(self, clip: int) -> Tensor:
        grid = self._grid
        return self._randomness.clip_noise(
            clip, height=grid.latent_height, width=grid.latent_width, like=self._like
        )


def sink_of_past(vae: StreamingVae, past: Past, latents_per_call: int) -> SinkLatents:
    """Encode what was made: the model's own first picture as the reference, its latest pictures as the motion."""
    first, latest = (
        torch.from_numpy(pictures).permute(3, 0, 1, 2)[None].float().div_(127.5).sub_(1)
        for pictures in (past.first, past.latest)
    )
    return SinkLatents(
        reference=vae.encode(first),
        motion=vae.encode(latest, frames_per_call=FRAMES_PER_LATENT * latents_per_call),
    )
