"""The s2v engine: portrait, voice and prompt in, endless video out, block by block of 12 pictures."""

from __future__ import annotations

import dataclasses
import logging
import queue
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from liveavatar.conditioning.audio_file import stream_16k
from liveavatar.conditioning.image import prepare_picture
from liveavatar.core.engine import OnLoadStage, not_shown
from liveavatar.core.errors import EngineFailed
from liveavatar.core.events import (
    Adjust,
    Cancelled,
    Chunk,
    EngineEvent,
    Finished,
    Notice,
    PlanChanged,
    Progress,
    Telemetry,
)
from liveavatar.core.memory import gb_text
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan, PlanChange
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.adaptive import AdaptiveVideo, loaded_otherwise
from liveavatar.engines.s2v.compiling import compile_parts, compiled_or_not
from liveavatar.engines.s2v.memory import give_back, measure_available, with_margin
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import Parts, can_multiply_in_8_bits, load_parts
from liveavatar.engines.s2v.spread_engine import SpreadEngine
from liveavatar.engines.s2v.video import speech_blocks
from liveavatar.engines.s2v.video_file import VideoFile, silent_request
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning.ladder import Ladder, needed_bytes

log = logging.getLogger(__name__)

# On a card: until the window is full and the sink was refreshed, so that all memory was asked for once.
_WARM_UP_BLOCKS_ON_CARD, _WARM_UP_BLOCKS = 5, 1


class S2vEngine:
    """Implements `liveavatar.core.engine.Engine`."""

    def __init__(
        self,
        load_parts: Callable[[ExecutionPlan], Parts] = load_parts,
        available_bytes: Callable[[], int] = measure_available,
    ) -> None:
        """Load and measure as an operator needs it. Others may measure without a checkpoint, or set limits.

        `load_parts` makes the networks of a plan; `available_bytes` says how much this process may hold in all.
        """
        self._load_parts = load_parts
        self._available_bytes = available_bytes
        self._parts: Parts | None = None
        self._spread: SpreadEngine | None = (
            None  # in place of parts where several ranks make a video together
        )
        self.why_not_compiled = ""  # empty where the networks are compiled, or need not be
        self._meter = Meter(torch.device("cpu"))
        self._wishes: queue.SimpleQueue[Adjust] = queue.SimpleQueue()

    def load(self, plan: ExecutionPlan, on_stage: OnLoadStage = not_shown) -> Telemetry:
        """Load all networks and make a short silent video: first calls are slow, and what is wrong shows here.

        Where less memory is free than was planned with, the weights are loaded as small as they must be.
        """
        on_stage("reading")
        if plan.parallel is not None and plan.parallel.world_size > 1:
            self._spread = SpreadEngine(plan, on_stage, self._available_bytes)
            return self._spread.measure()
        plan = self._fitted(plan)
        self._parts = self._load_parts(plan)
        self._meter = Meter(self._parts.transformer.device)
        on_card = self._parts.transformer.device.type == "cuda"
        if on_card:
            compile_parts(
                self._parts.transformer,
                self._parts.vae,
                Path(plan.model.cache) / "compiled" if plan.model else None,
            )
        on_stage("compiling" if on_card else "warming")
        num_blocks = _WARM_UP_BLOCKS_ON_CARD if on_card else _WARM_UP_BLOCKS
        events, self.why_not_compiled = compiled_or_not(lambda: self._make_silent_video(plan, num_blocks))
        loaded = self.measure()
        peaks = [event.peak_bytes for event in (*events, loaded) if isinstance(event, Telemetry)]
        if on_card:
            log.info("%s of graphics memory at the peak", gb_text(max(peaks)))
        return dataclasses.replace(loaded, peak_bytes=max(peaks))

    def _make_silent_video(self, plan: ExecutionPlan, num_blocks: int) -> list[EngineEvent]:
        with tempfile.TemporaryDirectory(prefix="liveavatar-") as folder:
            request = silent_request(Path(folder), num_blocks * PICTURES_PER_BLOCK)
            return list(self.generate(request, plan, should_stop=lambda: False))

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Yield the video in chunks of one block. The same request and events give the same bytes on a machine.

        Where memory runs short, the rest of the video is made by a more frugal plan (`adaptive.AdaptiveVideo`), in the
        same file. Raises EngineFailed with code `graphics_memory_full` when none is left.
        """
        try:
            if self._spread is not None:
                yield from self._spread.generate(
                    request,
                    plan,
                    should_stop=should_stop,
                    take_wish=lambda: self._wish_for(request.job_id),
                )
            else:
                yield from self._video(request, plan, should_stop)
        finally:
            give_back()  # the next video may have another size

    def adjust(self, wish: Adjust) -> None:
        """Keep the wish for the running video, which looks for it before every block."""
        self._wishes.put(wish)

    def measure(self) -> Telemetry:
        """Return what stays on the card of this rank between two videos."""
        give_back()  # an error holds what was computed for as long as it is handled
        if self._spread is not None:
            return self._spread.measure()
        assert self._parts is not None, "load comes first"
        self._meter.begin_video()
        self._meter.note_resident(self._parts.kept_tensors)
        return self._meter.report(is_block=False)

    def close(self) -> None:
        """Give the memory back."""
        self._parts = None
        if self._spread is not None:
            self._spread.close()

    def _video(
        self, request: ValidatedRequest, plan: ExecutionPlan, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        assert self._parts is not None, "load comes first"
        assert request.made_path is None, "one rank goes on by itself where memory runs short"
        job_id = request.job_id
        self._meter.begin_video()
        with VideoFile(request) as file:
            yield Progress(job_id=job_id, stage="preparing", frames_done=0, num_frames=file.num_frames)
            loaded = self._parts.as_loaded(plan)
            if loaded != plan:
                yield PlanChanged(job_id=job_id, change=loaded_otherwise(plan, loaded), plan=loaded)
            if self.why_not_compiled:
                yield Notice(job_id=job_id, note=_uncompiled(self.why_not_compiled))
            usable_kv = self._parts.usable_kv(plan.kv_precision)
            if usable_kv != plan.kv_precision:
                loaded = dataclasses.replace(loaded, kv_precision=usable_kv)
                text = f"Attention works in 16 bits instead of 8: {self._parts.why_no_8_bit_attention}."
                yield Notice(job_id=job_id, note=Note(code="attention_in_16_bits", text=text))
            video = AdaptiveVideo(
                self._parts,
                loaded,
                _RequestConditions(request, self._parts, -(-file.num_frames // PICTURES_PER_BLOCK)),
                pin_size=request.pin_size,
                available_bytes=self._available_bytes,
                take_wish=lambda: self._wish_for(job_id),
                meter=self._meter,
            )
            try:
                yield from self._fill(file, video, job_id, should_stop)
            except EngineFailed:
                yield Chunk(job_id=job_id, data=file.finish(), frames_done=file.num_done)
                raise

    def _fill(
        self, file: VideoFile, video: AdaptiveVideo, job_id: str, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Put pictures and sound into the file until it is whole or shall end."""
        made = video.make()
        while file.num_done < file.num_frames:
            if should_stop():
                yield Chunk(job_id=job_id, data=file.finish(), frames_done=file.num_done)
                yield Cancelled(job_id=job_id)
                return
            piece = next(made)
            if isinstance(piece, PlanChange):
                yield PlanChanged(job_id=job_id, change=piece, plan=video.plan)
            elif isinstance(piece, Note):
                yield Notice(job_id=job_id, note=piece)
            else:
                data = file.add(piece, video.plan)
                done = file.num_done
                yield Progress(
                    job_id=job_id, stage="generating", frames_done=done, num_frames=file.num_frames
                )
                yield self._meter.report(is_block=True)
                if data:
                    yield Chunk(job_id=job_id, data=data, frames_done=done)
        yield Chunk(job_id=job_id, data=file.finish(), frames_done=file.num_frames)
        yield Finished(job_id=job_id, num_frames=file.num_frames)

    def _fitted(self, plan: ExecutionPlan) -> ExecutionPlan:
        """Return the plan with weights, and if that is not enough a size, that fit into what is free now."""
        if not plan.budgets or needed_bytes(plan) <= self._available_bytes():
            return plan
        if can_multiply_in_8_bits():
            plan = dataclasses.replace(plan, precision="fp8")
        ladder = Ladder(plan, (plan.width, plan.height))
        ladder.fit(with_margin(self._available_bytes()))
        return ladder.plan

    def _wish_for(self, job_id: str) -> Adjust | None:
        """Return the next wish for this video; what came too late for another one is dropped."""
        while not self._wishes.empty():
            wish = self._wishes.get()
            if wish.job_id == job_id:
                return wish
        return None


class _RequestConditions:
    """Implements `adaptive.Conditions` for a request's files."""

    def __init__(self, request: ValidatedRequest, parts: Parts, num_blocks: int) -> None:
        self.seed, self.prompt, self.num_blocks = request.seed, request.prompt, num_blocks
        self._image_path, self._audio_path = request.image_path, Path(request.audio_path)
        self._audio_encoder = parts.audio_encoder
        with Image.open(request.image_path) as picture:
            self.picture_size = picture.size

    def reference(self, height: int, width: int) -> Tensor:
        """Return the portrait [3, height, width] in -1..1."""
        with Image.open(self._image_path) as picture:
            return prepare_picture(picture, height, width)

    def speech(self, first_block: int) -> Iterator[Tensor]:
        """Yield the features of each block from `first_block` on; the file is heard from its beginning."""
        return speech_blocks(
            self._audio_encoder,
            stream_16k(self._audio_path),
            num_blocks=self.num_blocks,
            first_block=first_block,
        )


def _uncompiled(reason: str) -> Note:
    text = f"The model runs slower than it could: it could not be compiled. {reason}"
    return Note(code="uncompiled", text=text, values={"reason": reason})
