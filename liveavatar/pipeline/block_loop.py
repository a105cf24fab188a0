"""One video, block by block: a composition of generators, the same on one device as on many.

    blocks of noise and speech  ->  denoise  ->  [denoise  ->  ...]  ->  decode

A *block* is 3 latent frames denoised together, a *clip* is as many blocks as attention looks back over. What flows is
a `BlockMessage`. Within a process, one generator iterates over the next; between ranks, a link (links.py) carries the
messages. Only the first rank decides whether a block is made and in how many steps: the message carries that, so all
change with the same block. To stop, it sends no further block, and the end of the stream reaches all others in order.

From the second clip on, the model's own first latent frame is the reference: colours no longer drift away from what
it makes of the picture. The last stage publishes that frame, and every stage takes it up before the second clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.models.s2v.config import CLIP_BLOCKS, FRAMES_PER_BLOCK
from liveavatar.models.vae import StreamingVae
from liveavatar.pipeline.decode import WARM_UP_LATENTS, decode_blocks
from liveavatar.pipeline.denoise import Denoiser
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import ClipNoise

# What the first rank makes of a block that is to begin: None ends the stream instead.
Admit = Callable[[BlockMessage], BlockMessage | None]


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
    speech_blocks: Iterable[Tensor],
    clip_noise: ClipNoise,
    *,
    num_steps: Callable[[], int],
    blocks_per_clip: int = CLIP_BLOCKS,
) -> Iterator[BlockMessage]:
    """Yield a message of pure noise for each block of speech, for as long as there is speech.

    `num_steps` is asked for every block.
    """
    for block, speech in enumerate(speech_blocks):
        clip, index = divmod(block, blocks_per_clip)
        if index == 0:
            noise = clip_noise(clip)
        latents = block_of(noise, index)
        yield BlockMessage(block=block, num_steps=num_steps(), latents=latents, speech=speech)


def admitted(messages: Iterable[BlockMessage], admit: Admit) -> Iterator[BlockMessage]:
    """Yield the messages as they are admitted, until they end or one is not."""
    for message in messages:
        if (taken := admit(message)) is None:
            return
        yield taken


def denoise_blocks(
    messages: Iterable[BlockMessage],
    denoiser: Denoiser,
    sink: SinkLatents,
    refresh: SinkRefresh,
    *,
    blocks_per_clip: int = CLIP_BLOCKS,
    masks: Tensor | None = None,
    in_step: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[BlockMessage]:
    """Yield each message with the denoiser's work done.

    `in_step` is entered for the first clip and for all others together: there ranks that gather weights wait for each
    other. The sink is refreshed as soon as the first clip is done, while a stage would wait for the next block.
    """
    messages = iter(messages)
    denoiser.set_sink(sink)
    has_begun = clip_is_done = False
    with in_step():
        for message in messages:
            has_begun = True
            done = denoiser.advance(message, masks)
            if done.block == 0 and done.step == done.num_steps:
                refresh.publish(done.latents[None, :, :1])
            clip_is_done = message.block == blocks_per_clip - 1 and denoiser.is_last_visit(message)
            yield done
            if clip_is_done:
                break
    if has_begun:
        own_reference = refresh.receive()  # also where the video is over: nothing published may be left over
    if not clip_is_done:
        return
    denoiser.set_sink(SinkLatents(reference=own_reference, motion=sink.motion))
    with in_step():
        for message in messages:
            yield denoiser.advance(message, masks)


def stream_blocks(
    denoiser: Denoiser,
    vae: StreamingVae,
    sink: SinkLatents,
    speech_blocks: Iterable[Tensor],
    clip_noise: ClipNoise,
    *,
    num_steps: Callable[[], int],
    blocks_per_clip: int = CLIP_BLOCKS,
    num_skipped_pictures: int = 0,
    latents_per_decode: int = FRAMES_PER_BLOCK,
    masks: Tensor | None = None,
    goes_on: bool = False,
    between: Callable[[Iterator[BlockMessage]], Iterator[BlockMessage]] = iter,
) -> Iterator[Tensor]:
    """Yield the 12 pictures [1, 3, 12, H, W] of each block of speech: the loop where one device does everything.

    `goes_on`: the sink's motion are the latest pictures of a video that was broken off, not the still portrait. The
    decoder starts from their end, and the reference stays. `between` sees the blocks on their way to the decoder.
    """
    refresh: SinkRefresh = KeptReference(sink.reference) if goes_on else LocalRefresh()
    messages = noise_blocks(speech_blocks, clip_noise, num_steps=num_steps, blocks_per_clip=blocks_per_clip)
    denoised = denoise_blocks(messages, denoiser, sink, refresh, blocks_per_clip=blocks_per_clip, masks=masks)
    return decode_blocks(
        vae,
        sink.motion[:, :, -WARM_UP_LATENTS:] if goes_on else sink.motion,
        (message.latents for message in between(denoised)),
        num_skipped_pictures=num_skipped_pictures,
        latents_per_decode=latents_per_decode,
    )


def block_of(clip_latents: Tensor, index: int) -> Tensor:
    """Return the latents of one block of a clip."""
    return clip_latents[:, index * FRAMES_PER_BLOCK : (index + 1) * FRAMES_PER_BLOCK]
