"""A video clip by clip, as the published single-GPU pipeline makes it.

Every clip's decoder sees the end of the frames before it encoded anew. Frames come out with every clip; see
block_loop.py for the way that lets them out with every block.

Shapes: latents [1, 16, frames, h, w]; speech [A, 25, C, frames] at 25 per second; pictures [1, 3, frames, H, W] in
-1..1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.models.s2v.config import CLIP_BLOCKS, FRAMES_PER_BLOCK
from liveavatar.models.vae import StreamingVae
from liveavatar.pipeline.block_loop import block_of
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import ClipNoise

_MOTION_PICTURES = 73  # most that a finished clip adds to the motion


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
            denoiser.denoise(block_of(noise, index), block_speech, clip * blocks_per_clip + index, masks)
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
