"""The s2v engine: portrait, voice and prompt in, endless video out, block by block of 12 pictures."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from liveavatar.conditioning.audio_file import stream_16k
from liveavatar.conditioning.image import prepare_picture
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import Cancelled, Chunk, EngineEvent, Finished, Progress
from liveavatar.core.plan import FPS, ExecutionPlan
from liveavatar.core.request import AUDIO_RATE, ValidatedRequest
from liveavatar.engines.s2v.compiling import compile_parts
from liveavatar.engines.s2v.parts import Parts, load_parts
from liveavatar.engines.s2v.video import speech_blocks, stream_pictures
from liveavatar.media.encoder import StreamEncoder
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.delivery import Pictures
from liveavatar.pipeline.schedule import MAX_STEPS

log = logging.getLogger(__name__)

_SAMPLES_PER_PICTURE = AUDIO_RATE // FPS
# On a card: until the window is full and the sink was refreshed, so that all memory was asked for once.
_WARM_UP_BLOCKS_ON_CARD, _WARM_UP_BLOCKS = 5, 1


class S2vEngine:
    """Implements `liveavatar.core.engine.Engine`."""

    def __init__(self, load_parts: Callable[[ExecutionPlan], Parts] = load_parts) -> None:
        """`load_parts` makes the networks of a plan; another than the default measures without a checkpoint."""
        self._load_parts = load_parts
        self._parts: Parts | None = None

    def load(self, plan: ExecutionPlan) -> None:
        """Load all networks and make a short silent video: first calls are slow, and what is wrong shows here."""
        self._parts = self._load_parts(plan)
        on_card = self._parts.transformer.device.type == "cuda"
        if on_card:
            compile_parts(self._parts, Path(plan.model.cache) / "compiled" if plan.model else None)
        with tempfile.TemporaryDirectory(prefix="liveavatar-") as folder:
            num_blocks = _WARM_UP_BLOCKS_ON_CARD if on_card else _WARM_UP_BLOCKS
            request = _silent_request(Path(folder), num_blocks * PICTURES_PER_BLOCK)
            for _ in self.generate(request, plan, should_stop=lambda: False):
                pass
        if on_card:
            log.info("%.1f GB of graphics memory at the peak", torch.cuda.max_memory_allocated() / 1e9)

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Yield the video in chunks of one block. The same request gives the same bytes on the same machine.

        Raises EngineFailed with code `graphics_memory_full` when the card has too little memory after all.
        """
        try:
            yield from self._video(request, plan, should_stop)
            return
        except torch.OutOfMemoryError as error:
            diagnosis = _memory_full(plan, error)
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # the next video may have another size
        raise EngineFailed(diagnosis)  # not within `except`: the error's traceback would hold the memory

    def close(self) -> None:
        """Give the memory back."""
        self._parts = None

    @torch.inference_mode()
    def _video(
        self, request: ValidatedRequest, plan: ExecutionPlan, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        assert self._parts is not None, "load comes first"
        job_id = request.job_id
        with soundfile.SoundFile(request.audio_path) as voice:
            num_frames = -(-voice.frames // _SAMPLES_PER_PICTURE)
            yield Progress(job_id=job_id, stage="preparing", frames_done=0, num_frames=num_frames)
            text = self._parts.encode_prompt(request.prompt)
            yield Progress(job_id=job_id, stage="preparing", frames_done=0, num_frames=num_frames)
            blocks = _blocks(self._parts, request, plan, text=text, num_frames=num_frames)
            encoder = StreamEncoder(plan.width, plan.height, fps=plan.fps)
            for first in range(0, num_frames, PICTURES_PER_BLOCK):
                if should_stop():
                    yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=first)
                    yield Cancelled(job_id=job_id)
                    return
                done = min(first + PICTURES_PER_BLOCK, num_frames)
                pictures = next(blocks)[: done - first]
                sound = voice.read((done - first) * _SAMPLES_PER_PICTURE, dtype="int16")
                data = encoder.encode(pictures, sound)
                yield Progress(job_id=job_id, stage="generating", frames_done=done, num_frames=num_frames)
                if data:
                    yield Chunk(job_id=job_id, data=data, frames_done=done)
            yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=num_frames)
            yield Finished(job_id=job_id, num_frames=num_frames)


def _blocks(
    parts: Parts, request: ValidatedRequest, plan: ExecutionPlan, *, text: Tensor, num_frames: int
) -> Iterator[Pictures]:
    """Yield the pictures of the whole voice, the last block whole; nothing is computed before it is asked for."""
    with Image.open(request.image_path) as picture:
        reference = prepare_picture(picture, plan.height, plan.width)
    num_blocks = -(-num_frames // PICTURES_PER_BLOCK)
    return stream_pictures(
        parts.transformer,
        parts.vae,
        reference=reference,
        text=text,
        speech=speech_blocks(
            parts.audio_encoder, stream_16k(Path(request.audio_path)), num_blocks=num_blocks
        ),
        seed=request.seed,
        num_steps=sum(plan.parallel.step_split) if plan.parallel else MAX_STEPS,
        latents_per_decode=plan.latents_per_decode,
    )


def _silent_request(folder: Path, num_frames: int) -> ValidatedRequest:
    """Return a request for a silent video of a grey picture whose files lie in `folder`."""
    picture, voice = folder / "picture.png", folder / "voice.wav"
    Image.new("RGB", (256, 256), "grey").save(picture)
    soundfile.write(voice, np.zeros(num_frames * _SAMPLES_PER_PICTURE, np.int16), AUDIO_RATE)
    return ValidatedRequest(
        job_id="warm-up",
        image_path=str(picture),
        audio_path=str(voice),
        audio_seconds=num_frames / FPS,
        prompt="",
        seed=0,
        face_clicks=None,
        whole_picture=False,
    )


def _memory_full(plan: ExecutionPlan, error: torch.OutOfMemoryError) -> Diagnosis:
    log.error("out of graphics memory: %s", error)
    return Diagnosis(
        code="graphics_memory_full",
        title="The graphics card's memory is full.",
        cause=f"Making {plan.size} needs more than is free; other programs may be using the card.",
        remedy="Close other programs or choose a smaller picture size, then press Generate again.",
        facts={"needed_bytes": sum(budget.needed_bytes for budget in plan.budgets)},
    )
