"""The built-in engine in a real worker process: from files to a video that plays."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.core.events import Cancelled, Chunk, Finished
from liveavatar.core.job import Job, JobState
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import FaceClicks, GenerationRequest, ValidatedRequest
from liveavatar.engines.portrait.engine import CHUNK_FRAMES, PortraitEngine
from liveavatar.intake.validate import validate
from liveavatar.service.facade import Studio
from tests.conftest import REPOSITORY, wait_for_end

SAMPLES = REPOSITORY / "assets" / "samples"
PORTRAITS = sorted((SAMPLES / "portraits").glob("*.jpg"))
VOICES = sorted((SAMPLES / "voices").glob("*.wav"))
SHARED = REPOSITORY.parent / "shared" / "samples"


@pytest.fixture(scope="module")
def real_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = Studio(AppConfig(data_dir=tmp_path_factory.mktemp("studio")))
    studio.start()
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def short_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a sample voice."""
    path = tmp_path_factory.mktemp("voice") / "short.wav"
    samples, rate = soundfile.read(VOICES[0])
    soundfile.write(path, samples[rate // 2 : rate // 2 + 2 * rate], rate)
    return path


Make = Callable[..., Job]


@pytest.fixture
def make(real_studio: Studio, short_voice: Path) -> Make:
    """Make a video and return the ended job."""

    def run(**changes: object) -> Job:
        fields = {
            "image_path": str(PORTRAITS[0]),
            "audio_path": str(short_voice),
            "size": "384*256",
            **changes,
        }
        job = real_studio.submit(GenerationRequest(**fields))  # type: ignore[arg-type]
        return wait_for_end(real_studio, job.id, timeout_s=180)

    return run


def check_video(path: Path, *, seconds: float) -> None:
    """The video has every frame, sound as long as the picture, and both as long as the voice."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.duration is not None
        assert audio.duration is not None
        video_s, audio_s = float(video.duration * video.time_base), float(audio.duration * audio.time_base)  # type: ignore[operator]
        num_frames = sum(1 for _ in container.decode(video=0))
    assert video.average_rate == 25
    assert num_frames == np.ceil(round(seconds * 25, 3))
    assert abs(video_s - audio_s) <= 0.04
    assert abs(video_s - seconds) <= 0.04


@pytest.mark.parametrize("portrait", PORTRAITS, ids=lambda path: path.stem)
def test_every_sample_portrait_speaks(real_studio: Studio, make: Make, portrait: Path) -> None:
    job = make(image_path=str(portrait), size="auto")
    assert job.state is JobState.FINISHED, job.diagnosis
    video = real_studio.video_path(job.id)
    assert video is not None
    check_video(video, seconds=job.audio_seconds)


def test_the_seed_decides(real_studio: Studio, make: Make) -> None:
    digests = []
    for seed in (5, 5, 6):
        video = real_studio.video_path(make(seed=seed).id)
        assert video is not None
        digests.append(hashlib.sha256(video.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_without_a_face_the_operator_is_asked(real_studio: Studio, make: Make, picture: Path) -> None:
    job = make(image_path=str(picture))
    assert job.state is JobState.FAILED
    assert job.diagnosis is not None
    assert job.diagnosis.code == "no_face"
    assert (real_studio.config.data_dir / "jobs" / job.id / "portrait.png").exists(), "nothing is lost"

    still = make(image_path=str(picture), whole_picture=True)
    assert still.state is JobState.FINISHED
    assert any("whole picture" in note.text for note in still.notes)

    clicks = FaceClicks(
        mouth_left=(0.4, 0.6), mouth_right=(0.6, 0.6), chin=(0.5, 0.85), eyes=((0.4, 0.3), (0.6, 0.3))
    )
    assert make(image_path=str(picture), face_clicks=clicks).state is JobState.FINISHED

    upside_down = FaceClicks(mouth_left=(0.4, 0.6), mouth_right=(0.6, 0.6), chin=(0.5, 0.2))
    refused = make(image_path=str(picture), face_clicks=upside_down)
    assert refused.diagnosis is not None
    assert refused.diagnosis.code == "bad_clicks"


def test_of_several_faces_the_largest_speaks(make: Make, tmp_path: Path) -> None:
    with Image.open(PORTRAITS[0]) as one, Image.open(PORTRAITS[1]) as other:
        pair = Image.new("RGB", (1200, 600), "grey")
        pair.paste(one.convert("RGB").resize((600, 600 * one.height // one.width)), (0, 0))
        pair.paste(other.convert("RGB").resize((450, 450 * other.height // other.width)), (660, 60))
    pair.save(tmp_path / "pair.png")
    job = make(image_path=str(tmp_path / "pair.png"))
    assert job.state is JobState.FINISHED
    assert any("2 faces" in note.text for note in job.notes), job.notes


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [("🎉🎉", "Nothing in the"), ("a castle by the sea", "Nothing in the"), ("calm, smiling", "From the prompt")],
)  # fmt: skip
def test_what_the_prompt_did_is_said(make: Make, prompt: str, sentence: str) -> None:
    job = make(prompt=prompt)
    assert job.state is JobState.FINISHED
    assert any(sentence in note.text for note in job.notes), job.notes


def test_chunks_are_short_and_stop_is_obeyed(short_voice: Path, tmp_path: Path) -> None:
    request = GenerationRequest(image_path=str(PORTRAITS[0]), audio_path=str(short_voice))
    intake = validate(request, job_id="a", job_dir=tmp_path, max_audio_s=60)
    engine, plan = PortraitEngine(), ExecutionPlan(engine="portrait", width=384, height=256)
    engine.load(plan)
    assert CHUNK_FRAMES / 25 <= 0.5
    chunks = 0

    def should_stop() -> bool:
        return chunks >= 1

    data = b""
    for event in engine.generate(intake.request, plan, should_stop=should_stop):
        last = event
        if isinstance(event, Chunk):
            data += event.data
            chunks += 1
    assert isinstance(last, Cancelled)
    (tmp_path / "partial.mp4").write_bytes(data)
    with av.open(str(tmp_path / "partial.mp4")) as container:
        assert CHUNK_FRAMES <= sum(1 for _ in container.decode(video=0)) < 50
    engine.close()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the trial portraits do not lie beside the repository")
def test_every_trial_portrait_with_two_voices(tmp_path: Path) -> None:
    """Ten portraits, two voices each, half a second: a valid MP4 every time."""
    portraits = sorted(path for path in SHARED.iterdir() if path.suffix in (".jpg", ".png"))
    voices = sorted(SHARED.glob("*.wav"))
    assert len(portraits) == 10
    assert len(voices) == 5
    engine, plan = PortraitEngine(), ExecutionPlan(engine="portrait", width=384, height=256)
    engine.load(plan)
    for number, (portrait, which) in enumerate(itertools.product(portraits, (0, 1))):
        voice = voices[(number // 2 + which * 2) % 5]
        short = tmp_path / "short.wav"
        samples, rate = soundfile.read(voice, frames=48_000, start=8000, always_2d=True)
        soundfile.write(short, samples[: rate // 2], rate)
        folder = tmp_path / str(number)
        folder.mkdir()
        whole = GenerationRequest(image_path=str(portrait), audio_path=str(short), whole_picture=True)
        intake = validate(whole, job_id="a", job_dir=folder, max_audio_s=60)
        data, last = _collect(engine, intake.request, plan)
        assert isinstance(last, Finished), portrait.name
        (folder / "video.mp4").write_bytes(data)
        with av.open(str(folder / "video.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == 13, portrait.name


def _collect(engine: PortraitEngine, request: ValidatedRequest, plan: ExecutionPlan) -> tuple[bytes, object]:
    data, last = b"", None
    for event in engine.generate(request, plan, should_stop=lambda: False):
        last = event
        if isinstance(event, Chunk):
            data += event.data
    return data, last
