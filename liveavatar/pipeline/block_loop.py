"""One video, block by block: a composition of generators, the same on one device as on many.

    blocks of noise and speech  ->  denoise  ->  [denoise  ->  ...]  ->  decode

A *block* is 3 latent frames denoised together, a *clip* is as many blocks as attention looks back over. What flows is
a `BlockMessage`. Stages in one process are joined by plain iteration; a stream that ends early was stopped.

From the second clip on, the model's own first latent frame is the reference: colours no longer drift away from what
it makes of the picture. The last stage publishes that frame, and every stage takes it up before the second clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.models.s2v.config import CLIP_BLOCKS, FRAMES_PER_BLOCK
from liveavatar.models.vae import StreamingVae
from liveavatar.pipeline.decode import WARM_UP_LATENTS, decode_blocks
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import ClipNoise


@dataclass(frozen=True, kw_only=True)
class BlockMessage:
    """All that a stage needs of one block."""

    block: int  # counted from the start of the video
    latents: Tensor  # [16, 3, h, w]: noise, partly denoised or clean
    speech: Tensor  # [A, 25, C, 12]


class SinkRefresh(Protocol):
    """The way of a video's new reference from the last stage to all stages."""

    def publish(self, reference: Tensor) -> None:
        """Send the latents [1, 16, 1, h, w]; called once, by the last stage, after the first block."""

    def receive(self) -> Tensor:
        """Return the latents; called once by every stage, unless the video has no block at all."""


class LocalRefresh:
    """The refresh where the last stage is the only one."""

    def publish(self, reference: Tensor) -> None:
        """Keep the latents."""
        self._reference = reference

    def receive(self) -> Tensor:
        """Return the latents that were published."""
        return self._reference


class KeptReference:
    """No refresh: the reference is the model's own already, in a video that goes on after a break."""

    def __init__(self, reference: Tensor) -> None:
        self._reference = reference

    def publish(self, reference: Tensor) -> None:
        """Ignore what a later block could offer: colours would begin to drift."""

    def receive(self) -> Tensor:
        """Return the latents [1, 16, 1, h, w] that were the reference all the time."""
        return self._reference


def noise_blocks(
    speech_blocks: Iterable[Tensor], clip_noise: ClipNoise, *, blocks_per_clip: int = CLIP_BLOCKS
) -> Iterator[BlockMessage]:
    """Yield a message of pure noise for each block of speech, for as long as there is speech."""
    for block, speech in enumerate(speech_blocks):
        clip, index = divmod(block, blocks_per_clip)
        if index == 0:
            noise = clip_noise(clip)
        yield BlockMessage(block=block, latents=block_of(noise, index), speech=speech)


def denoise_blocks(
    messages: Iterable[BlockMessage],
    denoiser: BlockDenoiser,
    sink: SinkLatents,
    refresh: SinkRefresh,
    *,
    blocks_per_clip: int = CLIP_BLOCKS,
    masks: Tensor | None = None,
) -> Iterator[BlockMessage]:
    """Yield each message with the latents this stage makes of it."""
    messages = iter(messages)
    denoiser.set_sink(sink)
    num_blocks = 0
    for message in islice(messages, blocks_per_clip):
        denoised = _denoise(message, denoiser, masks)
        if message.block == 0 and denoiser.is_last:
            refresh.publish(denoised.latents[None, :, :1])
        num_blocks += 1
        yield denoised
    if num_blocks:
        own_reference = refresh.receive()  # also where the video is over: nothing published may be left over
    if num_blocks == blocks_per_clip:
        denoiser.set_sink(SinkLatents(reference=own_reference, motion=sink.motion))
        for message in messages:
            yield _denoise(message, denoiser, masks)


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
    decode_stream: torch.cuda.Stream | None = None,
    goes_on: bool = False,
    between: Callable[[Iterator[BlockMessage]], Iterator[BlockMessage]] = iter,
) -> Iterator[Tensor]:
    """Yield the 12 pictures [1, 3, 12, H, W] of each block of speech: the loop where one device does everything.

    `goes_on`: the sink's motion are the latest pictures of a video that was broken off, not the still portrait. The
    decoder starts from their end, and the reference stays. `between` sees the blocks on their way to the decoder.
    """
    refresh: SinkRefresh = KeptReference(sink.reference) if goes_on else LocalRefresh()
    messages = noise_blocks(speech_blocks, clip_noise, blocks_per_clip=blocks_per_clip)
    denoised = denoise_blocks(messages, denoiser, sink, refresh, blocks_per_clip=blocks_per_clip, masks=masks)
    return decode_blocks(
        vae,
        sink.motion[:, :, -WARM_UP_LATENTS:] if goes_on else sink.motion,
        (message.latents for message in between(denoised)),
        num_skipped_pictures=num_skipped_pictures,
        latents_per_decode=latents_per_decode,
        stream=decode_stream,
    )


def block_of(clip_latents: Tensor, index: int) -> Tensor:
    """Return the latents of one block of a clip."""
    return clip_latents[:, index * FRAMES_PER_BLOCK : (index + 1) * FRAMES_PER_BLOCK]


def _denoise(message: BlockMessage, denoiser: BlockDenoiser, masks: Tensor | None) -> BlockMessage:
    return replace(message, latents=denoiser.denoise(message.latents, message.speech, message.block, masks))
