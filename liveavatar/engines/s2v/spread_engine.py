"""One rank of an engine that several ranks make up: it loads what its role needs and does its share of each video.

Every rank runs `generate` for every video. The rank that decodes yields the events of the job; the others yield what
they measured with every block. Only rank 0 asks whether to stop.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from liveavatar.core.engine import OnLoadStage
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
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan, PlanChange
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.adaptive import loaded_otherwise
from liveavatar.engines.s2v.compiling import compile_parts, compiled_or_not
from liveavatar.engines.s2v.history import History
from liveavatar.engines.s2v.memory import with_margin
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import can_multiply_in_8_bits, load_rank_parts, plan_device
from liveavatar.engines.s2v.rank_setup import join, use_own_card
from liveavatar.engines.s2v.spread_video import ShareDone, SpreadVideo
from liveavatar.engines.s2v.video_file import VideoFile, silent_request
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning import ladder

_WARM_UP_BLOCKS_ON_CARD, _WARM_UP_BLOCKS = 5, 1


class SpreadEngine:
    """A rank of the engine, ready for videos once it exists."""

    def __init__(
        self, plan: ExecutionPlan, on_stage: OnLoadStage, available_bytes: Callable[[], int]
    ) -> None:
        """Meet the other ranks, load, and make a short silent video together.

        `available_bytes` says how much this process may hold in all. Where a rank has less than was planned with, all
        load their weights as small as they must be.
        """
        assert plan.parallel is not None, "a plan for several ranks says how it is spread"
        self._available_bytes = available_bytes
        self._rank = join(plan.parallel, use_own_card(plan_device(plan)))
        self._plan = plan = self._fitted(plan)
        self._parts = load_rank_parts(plan, self._rank)
        self._meter = Meter(self._rank.device)
        on_card = self._rank.device.type == "cuda"
        if on_card:
            self._compile(plan)
        on_stage("compiling" if on_card else "warming")
        with tempfile.TemporaryDirectory(prefix="liveavatar-") as folder:
            num_blocks = _WARM_UP_BLOCKS_ON_CARD if on_card else _WARM_UP_BLOCKS
            request = silent_request(Path(folder), num_blocks * PICTURES_PER_BLOCK)
            for _ in self.generate(request, plan, should_stop=lambda: False, take_wish=lambda: None):
                pass

    def _compile(self, plan: ExecutionPlan) -> None:
        """Have the networks compiled where that is sure to work: a rank that gives up would leave the others waiting.

        Layers that talk to other cards in between are left as they are.
        """
        ones = torch.ones(64, device=self._rank.device)
        _, why_not = compiled_or_not(lambda: torch.compile(torch.sin)(ones))
        if why_not:
            return
        assert plan.parallel is not None, "a plan for several ranks says how it is spread"
        talks_between = plan.parallel.tensor > 1 or plan.parallel.weights_sharded
        compile_parts(
            None if talks_between else self._parts.transformer,
            self._parts.vae,
            Path(plan.model.cache) / "compiled" if plan.model else None,
        )

    def measure(self) -> Telemetry:
        """Return what stays on this rank's card between two videos."""
        self._meter.begin_video()
        self._meter.note_resident(self._parts.kept_tensors)
        return self._meter.report(is_block=False)

    def generate(
        self,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        *,
        should_stop: Callable[[], bool],
        take_wish: Callable[[], Adjust | None],
    ) -> Iterator[EngineEvent]:
        """Do this rank's share of a video; yield its events on the rank that decodes, on others what they measured.

        The steps of the stages may differ from those it was loaded for.
        """
        self._meter.begin_video()
        loaded = dataclasses.replace(plan, precision=self._plan.precision)
        with VideoFile(request) as file:
            history = History()
            if request.made_path is not None and self._rank.place.decodes:
                history = file.go_on(Path(request.made_path))
            video = SpreadVideo(
                self._rank,
                self._parts,
                loaded,
                request,
                num_blocks=-(-file.num_frames // PICTURES_PER_BLOCK),
                history=history,
                available_bytes=self._available_bytes,
                take_wish=take_wish,
                should_stop=should_stop,
                meter=self._meter,
            )
            if not self._rank.place.decodes:
                for made in video.make():
                    if isinstance(made, ShareDone):  # the rank that decodes tells of changes
                        yield self._meter.report(is_block=True)
                return
            yield _progress(request, "preparing", file)
            if loaded != plan:
                change = loaded_otherwise(plan, loaded)
                yield PlanChanged(job_id=request.job_id, change=change, plan=loaded)
            yield from self._fill(file, video, request)

    def _fill(self, file: VideoFile, video: SpreadVideo, request: ValidatedRequest) -> Iterator[EngineEvent]:
        """Put pictures and sound into the file until no more come."""
        job_id = request.job_id
        for piece in video.make():
            if isinstance(piece, PlanChange):
                yield PlanChanged(job_id=job_id, change=piece, plan=video.plan)
            elif isinstance(piece, Note):
                yield Notice(job_id=job_id, note=piece)
            elif not isinstance(piece, ShareDone):
                data = file.add(piece, video.plan)
                yield _progress(request, "generating", file)
                yield self._meter.report(is_block=True)
                if data:
                    yield Chunk(job_id=job_id, data=data, frames_done=file.num_done)
        yield Chunk(job_id=job_id, data=file.finish(), frames_done=file.num_done)
        if file.num_done == file.num_frames:
            yield Finished(job_id=job_id, num_frames=file.num_frames)
        else:
            yield Cancelled(job_id=job_id)

    def close(self) -> None:
        """End the connections to the other ranks."""
        self._rank.leave()

    def _fitted(self, plan: ExecutionPlan) -> ExecutionPlan:
        """Return the plan with weights, and if that is not enough a size, for which every rank has room now."""
        available = self._rank.gather(self._available_bytes())
        if not ladder.short_ranks(plan, available):
            return plan
        if all(self._rank.gather(int(can_multiply_in_8_bits()))):
            plan = dataclasses.replace(plan, precision="fp8")
        return ladder.fit_ranks(
            plan,
            (plan.width, plan.height),
            [with_margin(each) for each in available],
            [ladder.free_caches, ladder.keep_weights_in_8_bits, ladder.stream_weights],
        )


def _progress(request: ValidatedRequest, stage: str, file: VideoFile) -> Progress:
    return Progress(
        job_id=request.job_id,
        stage=stage,
        frames_done=file.num_done,
        num_frames=file.num_frames,
    )
