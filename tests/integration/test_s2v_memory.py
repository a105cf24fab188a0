"""Memory runs out, is taken by others, comes back: the video is whole, in one file, and the receipt says what it is."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import Adjust, Chunk, EngineEvent, Finished, Notice, PlanChanged, Progress
from liveavatar.core.job import JobState
from liveavatar.core.memory import GIB
from liveavatar.core.plan import FPS, ExecutionPlan, PlanChange
from liveavatar.core.request import GenerationRequest, ValidatedRequest
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.engines.s2v.parts import Parts
from liveavatar.intake.validate import validate
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning import choice, s2v_request
from liveavatar.planning.ladder import needed_bytes
from liveavatar.planning.planner import plan_request
from liveavatar.planning.s2v_request import plan_s2v
from liveavatar.service.facade import Studio
from liveavatar.service.s2v_setup import find_s2v
from tests.conftest import wait_for_end, wait_until
from tests.fakes.allocation_limit import AllocationLimit
from tests.fakes.limited_s2v_worker import AREA_BY_AVAILABLE, AREAS, MIB, load_light_parts
from tests.planning.test_s2v_request import card, setup
from tests.tiny_checkpoint import write_tiny_checkpoint

# Measured with AllocationLimit, thin autoencoder: 20.1 MB at 128x64, and 17.9 MB to go on there after a break; 13.0 MB
# are enough for both at 64x64. With an autoencoder of width 4: 13.9 MB at 64x64, less than 13.4 MB in small pieces.
FITS_ALL, FITS_SMALL, FITS_NOTHING = 30e6, 14e6, 5e6
FITS_PIECES_ONLY = 13.6e6
PLENTY = 1000 * MIB

Voice = Callable[[float], Path]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return AppConfig(
        data_dir=tmp_path_factory.mktemp("studio"),
        ckpt_dir=checkpoint,
        worker_module="tests.fakes.limited_s2v_worker",
    )


@pytest.fixture(scope="module", autouse=True)
def _tiny_sizes() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny convolutions on several threads mostly wait for each other
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "AUTO_AREAS", AREAS)
        patch.setattr(s2v_request, "AREA_BY_FREE_MEMORY", AREA_BY_AVAILABLE)
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def wide_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _ramp(tmp_path_factory.mktemp("picture") / "wide.png", 128, 64)


def _ramp(path: Path, width: int, height: int) -> Path:
    rows, columns = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    channels = np.stack(np.broadcast_arrays(rows, columns, 128), axis=-1)
    Image.fromarray(channels.astype(np.uint8)).save(path)
    return path


def is_block(event: EngineEvent) -> bool:
    return isinstance(event, Progress) and event.stage == "generating"


class LimitedEngine:
    """An engine in this process whose memory the test sets before every block."""

    def __init__(
        self, plan: ExecutionPlan, load_parts: Callable[[ExecutionPlan], Parts] = load_light_parts
    ) -> None:
        self.limit_bytes: float = math.inf
        self.events: list[EngineEvent] = []
        self.available_bytes = PLENTY
        self._engine = S2vEngine(load_parts, available_bytes=lambda: self.available_bytes)
        self._engine.load(plan)

    def make(
        self,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        before_block: Callable[[LimitedEngine, int], None] = lambda engine, block: None,
    ) -> list[EngineEvent]:
        """Return the job's events, which are in `events` also where it fails."""
        events = self.events = list[EngineEvent]()

        def should_stop() -> bool:
            before_block(self, sum(is_block(event) for event in events))
            return False

        try:
            with AllocationLimit(lambda: self.limit_bytes):
                for event in self._engine.generate(request, plan, should_stop=should_stop):
                    events.append(event)
        finally:
            self.limit_bytes = math.inf
        return events

    def adjust(self, **wishes: object) -> None:
        self._engine.adjust(Adjust(job_id="a", **wishes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small_plan(config: AppConfig) -> ExecutionPlan:
    setup = find_s2v(config, HardwareMonitor().snapshot())
    setup = dataclasses.replace(setup, host_free_bytes=PLENTY)
    return plan_request(engine="s2v", size="auto", picture_width=64, picture_height=64, s2v=setup)


@pytest.fixture(scope="module")
def plan(small_plan: ExecutionPlan) -> ExecutionPlan:
    return dataclasses.replace(small_plan, width=128)


@pytest.fixture(scope="module")
def engine(small_plan: ExecutionPlan) -> LimitedEngine:
    return LimitedEngine(small_plan)


@pytest.fixture
def make_job(wide_picture: Path, make_voice: Voice, tmp_path: Path) -> Callable[..., ValidatedRequest]:
    def make(num_blocks: float, **changes: object) -> ValidatedRequest:
        voice = make_voice(num_blocks * PICTURES_PER_BLOCK / FPS)
        request = GenerationRequest(image_path=str(wide_picture), audio_path=str(voice), prompt="she smiles")
        validated = validate(request, job_id="a", job_dir=tmp_path, max_audio_s=60).request
        return dataclasses.replace(validated, **changes)  # type: ignore[arg-type]

    return make


def changes_of(events: list[EngineEvent]) -> list[PlanChange]:
    return [event.change for event in events if isinstance(event, PlanChanged)]


def video_of(events: list[EngineEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Chunk))


def check_file(data: bytes | Path, path: Path, *, size: tuple[int, int], num_frames: int) -> None:
    """One size, every picture, and sound as long as they are."""
    if isinstance(data, bytes):
        path.write_bytes(data)
    with av.open(str(path if isinstance(data, bytes) else data)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        packets = [packet for packet in container.demux(video, audio) if packet.pts is not None]
        video_s = sum(float(p.duration * p.time_base) for p in packets if p.stream is video)
        audio_s = sum(float(p.duration * p.time_base) for p in packets if p.stream is audio)
    with av.open(str(path if isinstance(data, bytes) else data)) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert set(sizes) == {size}
    assert len(sizes) == num_frames
    assert video_s == pytest.approx(num_frames / FPS)
    assert abs(audio_s - video_s) <= 0.05


def test_down_the_ladder_and_up_again_with_the_next_job(
    engine: LimitedEngine, plan: ExecutionPlan, make_job: Callable[..., ValidatedRequest], tmp_path: Path
) -> None:
    def memory_shrinks(engine: LimitedEngine, block: int) -> None:
        engine.limit_bytes = FITS_ALL if block < 2 else FITS_SMALL

    events = engine.make(make_job(4.5), plan, memory_shrinks)
    assert events[-1] == Finished(job_id="a", num_frames=54)
    check_file(video_of(events), tmp_path / "video.mp4", size=(128, 64), num_frames=54)
    notices = [event.note.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1, "the first rung is taken once"
    assert "given back, and it is tried again" in notices[0]
    pieces, caches, smaller = changes_of(events)
    assert {(change.first_frame, change.cause) for change in (pieces, caches, smaller)} == {
        (24, "memory_full")
    }
    assert "decoded in small pieces" in pieces.after
    assert "8-bit caches" in caches.after
    assert smaller.before == caches.after
    assert smaller.after.startswith("64x64")
    assert re.fullmatch(r"Memory ran out: \d+\.\d\d MiB more were asked for than is free\.", smaller.reason)
    assert "would have to be closed" in smaller.remedy

    again = engine.make(make_job(0.5), plan)
    assert not changes_of(again)
    check_file(video_of(again), tmp_path / "again.mp4", size=(128, 64), num_frames=6)


def test_decoding_in_small_pieces_can_be_enough(
    small_plan: ExecutionPlan, make_job: Callable[..., ValidatedRequest]
) -> None:
    def tight(engine: LimitedEngine, block: int) -> None:
        engine.limit_bytes = FITS_PIECES_ONLY

    events = LimitedEngine(small_plan, partial(load_light_parts, width=4)).make(
        make_job(1.5), small_plan, tight
    )
    assert isinstance(events[-1], Finished)
    assert [change.after.split(", ")[2] for change in changes_of(events)] == ["decoded in small pieces"]


def test_a_pinned_size_fails_and_keeps_what_was_made(
    engine: LimitedEngine,
    small_plan: ExecutionPlan,
    make_job: Callable[..., ValidatedRequest],
    tmp_path: Path,
) -> None:
    def memory_shrinks(engine: LimitedEngine, block: int) -> None:
        engine.limit_bytes = FITS_ALL if block < 2 else FITS_NOTHING

    videos = []
    for _ in range(2):
        with pytest.raises(EngineFailed) as caught:
            engine.make(make_job(4, pin_size=True), small_plan, memory_shrinks)
        assert caught.value.diagnosis.code == "graphics_memory_full"
        assert "let the size shrink" in caught.value.diagnosis.remedy
        videos.append(video_of(engine.events))
    check_file(videos[0], tmp_path / "video.mp4", size=(64, 64), num_frames=24)
    assert videos[0] == videos[1], "the same events make the same video"


def test_steps_change_at_a_block_and_the_size_at_a_clip(
    engine: LimitedEngine,
    small_plan: ExecutionPlan,
    make_job: Callable[..., ValidatedRequest],
    tmp_path: Path,
) -> None:
    def wish(engine: LimitedEngine, block: int) -> None:
        if block == 1:
            engine.adjust(num_steps=2, size="384*256")
        if block == 2:
            engine.adjust(num_steps=3)

    events = engine.make(make_job(5), small_plan, wish)
    assert isinstance(events[-1], Finished)
    check_file(video_of(events), tmp_path / "video.mp4", size=(64, 64), num_frames=60)
    changes = changes_of(events)
    assert [(change.first_frame, change.cause) for change in changes] == [
        (12, "asked"),
        (24, "asked"),
        (48, "asked"),
    ]
    assert [change.after.split(",")[:2] for change in changes] == [
        ["64x64", " 2 steps"],
        ["64x64", " 3 steps"],
        ["128x64", " 3 steps"],
    ]


def test_weights_that_were_loaded_smaller_are_told_of_with_every_video(
    small_plan: ExecutionPlan, make_job: Callable[..., ValidatedRequest]
) -> None:
    in_8_bits = dataclasses.replace(small_plan, precision="fp8")
    engine = LimitedEngine(in_8_bits)
    (change,) = changes_of(engine.make(make_job(0.5), small_plan))
    assert (change.first_frame, change.cause) == (0, "loaded")
    assert "8-bit weights" in change.after
    assert not changes_of(engine.make(make_job(0.5), in_8_bits))


def test_what_is_loaded_fits_into_what_is_free_now() -> None:
    planned = plan_s2v(setup(card("H200")), size="720*400", picture=(1280, 720))
    loaded: list[ExecutionPlan] = []

    def load(plan: ExecutionPlan) -> Parts:
        loaded.append(plan)
        raise EngineFailed(Diagnosis(code="seen", title="Seen.", cause="", remedy=""))

    for available in (140 * GIB, 30 * GIB):
        with pytest.raises(EngineFailed, match="Seen"):
            S2vEngine(load, available_bytes=partial(int, available)).load(planned)
    as_planned, fitted = loaded
    assert as_planned == planned
    assert needed_bytes(planned) > 30 * GIB >= needed_bytes(fitted)


def test_another_program_takes_memory_between_clips(
    config: AppConfig, wide_picture: Path, make_voice: Voice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the whole app: a planned shrink and its receipt; a pinned size goes on and breaks off."""
    memory = tmp_path / "memory.json"

    def set_memory(**changes: float) -> None:
        content = {"available_bytes": PLENTY, "limit_bytes": FITS_ALL} | changes
        memory.with_suffix(".new").write_text(json.dumps(content))
        memory.with_suffix(".new").rename(memory)

    def request(seconds: float, **fields: object) -> GenerationRequest:
        return GenerationRequest(
            image_path=str(wide_picture), audio_path=str(make_voice(seconds)), prompt="she smiles",
            engine="s2v", **fields,  # type: ignore[arg-type]
        )  # fmt: skip

    set_memory(hold_before_block=2)
    monkeypatch.setenv("FAKE_MEMORY", str(memory))
    studio = Studio(config)
    studio.start()
    try:
        job = studio.submit(request(2.4))
        wait_until(lambda: studio.job(job.id).frames_done >= PICTURES_PER_BLOCK, timeout_s=120)
        studio.adjust(job.id, num_steps=3)
        wait_until(memory.with_suffix(".wished").exists)
        set_memory(available_bytes=50 * MIB)
        whole = wait_for_end(studio, job.id, timeout_s=120)
        assert whole.state is JobState.FINISHED, whole.diagnosis
        assert whole.size_made == "128*64"
        asked, taken = whole.changes
        assert (asked.cause, taken.cause, taken.first_frame) == ("asked", "memory_taken", 48)
        assert taken.after.startswith("64x64, 3 steps")
        assert taken.note().values["available_bytes"] == taken.available_bytes > 0
        assert all(change.note() in whole.notes for change in whole.changes)
        video = studio.video_path(job.id)
        assert video is not None
        check_file(video, tmp_path / "unused", size=(128, 64), num_frames=60)

        set_memory(available_bytes=50 * MIB, hold_before_block=2)
        pinned = studio.submit(request(2.4, pin_size=True))
        wait_until(lambda: studio.job(pinned.id).frames_done >= PICTURES_PER_BLOCK, timeout_s=120)
        set_memory(available_bytes=50 * MIB, limit_bytes=FITS_NOTHING)
        broken = wait_for_end(studio, pinned.id, timeout_s=120)
        assert broken.state is JobState.FAILED
        assert broken.diagnosis is not None
        assert broken.diagnosis.code == "graphics_memory_full"
        assert broken.size_made == "128*64"
        assert any("may break off" in note.text for note in broken.notes)
        kept = studio.video_path(broken.id)
        assert kept is not None
        check_file(kept, tmp_path / "unused", size=(128, 64), num_frames=broken.frames_done)
    finally:
        studio.close()
