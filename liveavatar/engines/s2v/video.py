"""From conditions to pictures: one endless video, block by block, in memory that does not grow.

Needs no media library, so that benchmarks run the very same path on a bare machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from liveavatar.conditioning.audio import AudioEncoder
from liveavatar.conditioning.audio_stream import AudioFeatureStream
from liveavatar.conditioning.reference import plain_sink
from liveavatar.conditioning.resample import Floats
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.vae import StreamingVae
from liveavatar.pipeline.block_loop import stream_blocks
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.delivery import Pictures, pictures_on_host
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import SeededRandomness
from liveavatar.pipeline.schedule import MAX_STEPS

_PIXELS_PER_LATENT = 8
DECODE_BESIDE = False  # decode a block while the next one is denoised


def speech_blocks(encoder: AudioEncoder, sound: Iterable[Floats], *, num_blocks: int) -> Iterator[Tensor]:
    """Yield the features [1, 25, C, 12] of exactly `num_blocks` blocks of 16 kHz sound; after its end, silence."""
    stream = AudioFeatureStream(encoder, frames_per_block=PICTURES_PER_BLOCK)
    num_given = 0
    for features in _features(stream, sound):
        if num_given == num_blocks:
            return
        yield features
        num_given += 1
    for _ in range(num_given, num_blocks):
        yield torch.zeros(1, encoder.num_states, encoder.num_channels, PICTURES_PER_BLOCK)


def _features(stream: AudioFeatureStream, sound: Iterable[Floats]) -> Iterator[Tensor]:
    for samples in sound:
        yield from stream.push(samples)
    yield from stream.flush()


def stream_pictures(
    transformer: S2VTransformer,
    vae: StreamingVae,
    *,
    reference: Tensor,
    text: Tensor,
    speech: Iterable[Tensor],
    seed: int,
    num_steps: int = MAX_STEPS,
    latents_per_decode: int,
) -> Iterator[Pictures]:
    """Yield 12 RGB pictures [12, H, W, 3] per block of speech; the same arguments give the same pictures.

    `reference` [3, H, W] in -1..1 with sides that are multiples of 64, `text` [num_tokens, width]. All of the
    video's memory is held by this iterator and returned with it.
    """
    _, height, width = reference.shape
    grid = TokenGrid(latent_height=height // _PIXELS_PER_LATENT, latent_width=width // _PIXELS_PER_LATENT)
    device, dtype = transformer.device, transformer.compute_dtype
    randomness = SeededRandomness(seed)
    like = torch.empty(0, device=device, dtype=dtype)
    decode_stream: torch.cuda.Stream | None = None
    if DECODE_BESIDE and device.type == "cuda":
        decode_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    blocks = stream_blocks(
        BlockDenoiser(
            transformer, grid=grid, text=text, sink_distance=randomness.sink_distance, num_steps=num_steps
        ),
        vae,
        plain_sink(vae, reference),
        (features.to(device) for features in speech),
        lambda clip: randomness.clip_noise(
            clip, height=grid.latent_height, width=grid.latent_width, like=like
        ),
        latents_per_decode=latents_per_decode,
        decode_stream=decode_stream,
    )
    yield from pictures_on_host(blocks, decode_stream)
