"""One video on one device, block by block: the plainest way from conditions to frames.

A *block* is 3 latent frames denoised together, a *clip* is as many blocks as attention looks back over. Frames
come out with every block (`stream_blocks`), or with every clip (`generate_clips`), whose decoder sees the end of
the frames before it encoded anew, as the published single-GPU pipeline does.

Shapes: latents [16, frames, h, w] in the transformer, [1, 16, frames, h, w] in the autoencoder; speech
[A, 25, C, frames] at 25 per second; pictures [1, 3, frames, H, W] in -1..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.models.s2v import S2VTransformer, TokenGrid, routing_masks
from liveavatar.models.s2v.config import (
    CLIP_BLOCKS,
    FRAMES_PER_BLOCK,
    LATENT_CHANNELS,
)
from liveavatar.models.s2v.rope import sink_jitter
from liveavatar.models.vae import FRAMES_PER_LATENT, StreamingVae, VaeCache
from liveavatar.pipeline.schedule import euler_step, noise_schedule

PICTURES_PER_BLOCK = FRAMES_PER_BLOCK * FRAMES_PER_LATENT
WARM_UP_LATENTS = 7  # of the motion before the video that a streaming decoder is shown first
_MOTION_PICTURES = 73  # most that a finished clip adds to the motion

# (block counted from the start of the video, denoising step) -> how far ahead the reference stands
SinkDistance = Callable[[int, int], int]
# clip -> noise [16, frames of a clip, h, w]
ClipNoise = Callable[[int], Tensor]


class SeededRandomness:
    """The random choices of a video, each a function of the seed and of what it is for: order does not matter."""

    def __init__(self, seed: int, *, blocks_per_clip: int = CLIP_BLOCKS) -> None:
        self._seed = seed
        self._num_frames = blocks_per_clip * FRAMES_PER_BLOCK

    def sink_distance(self, block: int, step: int) -> int:
        """Return how many latent frames the reference is kept ahead, as in training drawn anew every time."""
        return sink_jitter(seed=self._seed, block_index=block, step=step)

    def clip_noise(self, clip: int, *, height: int, width: int, like: Tensor) -> Tensor:
        """Draw a clip's noise on the device and in the dtype of `like`; values differ between kinds of device."""
        generator = torch.Generator(like.device).manual_seed(self._seed + clip)
        shape = (LATENT_CHANNELS, self._num_frames, height, width)
        return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


class BlockDenoiser:
    """The transformer with the memory of one video: noise goes in, clean latents come out, in order."""

    def __init__(
        self,
        model: S2VTransformer,
        *,
        grid: TokenGrid,
        text: Tensor,
        sink_distance: SinkDistance,
        num_steps: int = 4,
        blocks_per_clip: int = CLIP_BLOCKS,
    ) -> None:
        self._model = model
        self._schedule = noise_schedule(num_steps)
        self._times = [model.encode_time(timestep) for timestep in self._schedule.timesteps]
        self._text = model.encode_text(text)
        self._caches = model.allocate_caches(grid, num_steps, capacity_blocks=blocks_per_clip)
        self._sink_distance = sink_distance

    def set_sink(self, sink: SinkLatents) -> None:
        """Compute what all later blocks are reminded of; the blocks already in memory stay."""
        dtype = self._model.compute_dtype
        reference, motion = sink.reference[0].to(dtype), sink.motion[0].to(dtype)
        self._model.prefill(reference, motion, self._text, self._caches)

    def denoise(self, noise: Tensor, speech: Tensor, block: int, masks: Tensor | None = None) -> Tensor:
        """Return the latents [16, 3, h, w] of the block, counted from the start of the video.

        `speech` [A, 25, C, 12] and, for several actors, `masks` [A, frames, rows, columns, 1].
        """
        audio = self._model.encode_audio(speech)
        routing = None if masks is None else routing_masks(masks)
        latents = noise
        levels = zip(self._schedule.sigmas, self._schedule.sigmas[1:], strict=False)
        for step, (sigma, next_sigma) in enumerate(levels):
            cache = self._caches[step]
            position = cache.locate(block, self._sink_distance(block, step))
            velocity = self._model(
                latents, self._times[step], self._text, audio, position, cache, actor_masks_AFS1=routing
            )
            latents = euler_step(latents, velocity, sigma=sigma, next_sigma=next_sigma)
        return latents


def stream_blocks(
    denoiser: BlockDenoiser,
    vae: StreamingVae,
    sink: SinkLatents,
    speech_blocks: Iterable[Tensor],
    clip_noise: ClipNoise,
    *,
    blocks_per_clip: int = CLIP_BLOCKS,
    num_skipped_pictures: int = 0,
    latents_per_decode: int = FRAMES_PER_BLOCK,
    masks: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the 12 pictures of each block of speech [A, 25, C, 12], for as long as there is speech.

    From the second clip on, the model's own first latent frame is the reference: colours no longer drift away
    from what it makes of the picture. The published pipeline skips the first 3 pictures, and with them 120 ms
    between picture and sound; skip none to keep both together.
    """
    denoiser.set_sink(sink)
    cache: VaeCache
    _, cache = vae.decode_next(sink.motion[:, :, :WARM_UP_LATENTS], None)
    own_reference = sink.reference
    for block, speech in enumerate(speech_blocks):
        clip, block_in_clip = divmod(block, blocks_per_clip)
        if block_in_clip == 0:
            noise = clip_noise(clip)
            if clip == 1:
                denoiser.set_sink(SinkLatents(reference=own_reference, motion=sink.motion))
        latents = denoiser.denoise(_block_of(noise, block_in_clip), speech, block, masks)[None]
        pictures, cache = _decode(vae, latents, cache, latents_per_decode)
        if block == 0:
            own_reference = latents[:, :, :1]
            pictures = pictures[:, :, num_skipped_pictures:]
        yield pictures


def generate_clips(
    denoiser: BlockDenoiser,
    vae: StreamingVae,
    sink: SinkLatents,
    past_pictures: Tensor,
    speech: Tensor,
    clip_noise: ClipNoise,
    *,
    blocks_per_clip: int = CLIP_BLOCKS,
    num_skipped_pictures: int = 0,
    refresh_sink: bool = True,
    masks: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the pictures of each clip of speech [A, 25, C, whole clips].

    `past_pictures` [1, 3, 1 + 4n, H, W] are those before the video. `refresh_sink`: from the second clip on,
    reference and motion are the model's own, taken from the first clip.
    """
    denoiser.set_sink(sink)
    motion = sink.motion
    own_reference = sink.reference
    pictures_per_clip = blocks_per_clip * PICTURES_PER_BLOCK
    for clip, clip_speech in enumerate(torch.split(speech, pictures_per_clip, dim=-1)):
        if clip > 0:
            motion = vae.encode(past_pictures, frames_per_call=PICTURES_PER_BLOCK)
        if clip == 1 and refresh_sink:
            denoiser.set_sink(SinkLatents(reference=own_reference, motion=motion))
        noise = clip_noise(clip)
        blocks = [
            denoiser.denoise(_block_of(noise, index), block_speech, clip * blocks_per_clip + index, masks)
            for index, block_speech in enumerate(torch.split(clip_speech, PICTURES_PER_BLOCK, dim=-1))
        ]
        latents = torch.cat(blocks, dim=1)[None]
        if clip == 0:
            own_reference = latents[:, :, :1]
        decoded = vae.decode(torch.cat([motion, latents], dim=2), latents_per_call=FRAMES_PER_BLOCK)
        pictures = decoded[:, :, -pictures_per_clip:]
        pictures = pictures[:, :, num_skipped_pictures if clip == 0 else 0 :]
        yield pictures
        latest = pictures[:, :, -_MOTION_PICTURES:]
        past_pictures = torch.cat([past_pictures[:, :, latest.shape[2] :], latest], dim=2)


def _decode(
    vae: StreamingVae, latents: Tensor, cache: VaeCache, latents_per_call: int
) -> tuple[Tensor, VaeCache]:
    """Decode a block, with less memory and more time when it goes in several calls."""
    pieces = []
    for part in torch.split(latents, latents_per_call, dim=2):
        pictures, cache = vae.decode_next(part, cache)
        pieces.append(pictures)
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)), cache


def _block_of(clip_latents: Tensor, index: int) -> Tensor:
    return clip_latents[:, index * FRAMES_PER_BLOCK : (index + 1) * FRAMES_PER_BLOCK]
