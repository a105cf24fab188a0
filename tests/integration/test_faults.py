"""What happens when processes die, hang, or the disk is full: real processes, real signals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import psutil
import pytest

from liveavatar.config import AppConfig
from liveavatar.core.errors import InputRejected, LiveAvatarError
from liveavatar.core.job import JobState
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import GenerationRequest, ValidatedRequest
from liveavatar.service.facade import Studio
from tests.conftest import FAST_DEADLINES, REPOSITORY, wait_for_end, wait_until

MakeRequest = Callable[..., GenerationRequest]


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def engine_processes(parent: int) -> list[psutil.Process]:
    """Return those that were started as a module: PyTorch's compiler has worker processes, too, by a file's name."""
    children = psutil.Process(parent).children()
    started = [(child, child.as_dict(["cmdline"], ad_value=[])["cmdline"]) for child in children]
    return [child for child, command in started if command[1:2] == ["-m"] and "worker" in command[2]]


def test_finished_job_has_whole_video(studio: Studio, make_request: MakeRequest) -> None:
    job = studio.submit(make_request("notice", seconds=4.0))
    job = wait_for_end(studio, job.id)
    assert job.state is JobState.FINISHED
    assert job.frames_done == job.num_frames == 100
    assert [note.text for note in job.notes] == ["A sentence for the operator."]
    video = studio.video_path(job.id)
    assert video is not None
    assert count_frames(video) == 100
    data = video.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "the index must come first"


class StudioThatChangesItsMind(Studio):
    """Decides otherwise every time it plans, as it may when cards or free memory come and go."""

    num_plans = 0

    def _plan_for(self, engine: str, size: str, request: ValidatedRequest) -> ExecutionPlan:
        self.num_plans += 1
        plan = super()._plan_for(engine, size, request)
        return dataclasses.replace(plan, decisions=(Note(code="plan", text=f"Plan {self.num_plans}."),))


def test_a_job_tells_of_the_plan_that_made_it_only(fake_config: AppConfig, make_request: MakeRequest) -> None:
    studio = StudioThatChangesItsMind(fake_config)
    studio.start()
    try:
        job = wait_for_end(studio, studio.submit(make_request()).id)
        assert [note.text for note in job.notes] == [f"Plan {studio.num_plans}."]
        assert studio.num_plans > 1
    finally:
        studio.close()


def test_jobs_run_in_order_and_queued_ones_can_be_cancelled(
    studio: Studio, make_request: MakeRequest
) -> None:
    jobs = [studio.submit(make_request("slow", seconds=seconds)) for seconds in (120.0, 2.0, 2.0)]
    assert studio.queue_position(jobs[2].id) in (2, 3)
    studio.stop(jobs[1].id)
    assert studio.job(jobs[1].id).state is JobState.CANCELLED
    studio.stop(jobs[0].id)
    ends = [wait_for_end(studio, job.id) for job in jobs]
    assert [job.state for job in ends] == [JobState.CANCELLED, JobState.CANCELLED, JobState.FINISHED]
    assert ends[0].ended_at is not None
    assert ends[2].started_at is not None
    assert ends[2].started_at >= ends[0].ended_at


def test_stop_keeps_a_playable_partial(studio: Studio, make_request: MakeRequest) -> None:
    job = studio.submit(make_request("slow", seconds=120.0))
    wait_until(lambda: studio.job(job.id).frames_done >= 50)
    studio.stop(job.id)
    job = wait_for_end(studio, job.id)
    assert job.state is JobState.CANCELLED
    video = studio.video_path(job.id)
    assert video is not None
    assert 50 <= count_frames(video) < job.num_frames


@pytest.mark.parametrize(
    ("prompt", "code"), [("crash", "engine_crashed"), ("exit", "engine_exited"), ("raise", "engine_error")]
)
def test_failing_engine_fails_the_job_only(
    studio: Studio, make_request: MakeRequest, prompt: str, code: str
) -> None:
    job = wait_for_end(studio, studio.submit(make_request(prompt)).id)
    assert job.state is JobState.FAILED
    assert job.diagnosis is not None
    assert job.diagnosis.code == code
    assert job.has_video
    after = wait_for_end(studio, studio.submit(make_request()).id)
    assert after.state is JobState.FINISHED


def test_killed_worker_fails_the_job_long_before_its_deadline(
    studio: Studio, make_request: MakeRequest
) -> None:
    job = studio.submit(make_request("slow", seconds=120.0))
    wait_until(lambda: studio.job(job.id).frames_done >= 50)
    worker = engine_processes(os.getpid())[0]
    worker.kill()
    killed_at = time.time()
    job = wait_for_end(studio, job.id)
    assert job.state is JobState.FAILED
    assert job.ended_at is not None
    assert job.ended_at - killed_at < FAST_DEADLINES.chunk_s / 2
    assert job.diagnosis is not None
    assert job.diagnosis.code == "engine_killed"
    video = studio.video_path(job.id)
    assert video is not None
    assert count_frames(video) > 0
    after = wait_for_end(studio, studio.submit(make_request()).id)
    assert after.state is JobState.FINISHED
    assert engine_processes(os.getpid())[0].pid != worker.pid


@pytest.mark.parametrize("prompt", ["hang", "hang-at-once"])
def test_hung_worker_is_ended_at_its_deadline(
    fake_config: AppConfig, make_request: MakeRequest, prompt: str
) -> None:
    deadlines = dataclasses.replace(fake_config.deadlines, first_chunk_s=3.0, chunk_s=2.0)
    studio = Studio(dataclasses.replace(fake_config, deadlines=deadlines))
    studio.start()
    try:
        job = wait_for_end(studio, studio.submit(make_request(prompt)).id)
        assert job.state is JobState.FAILED
        assert job.diagnosis is not None
        assert job.diagnosis.code == "engine_hung"
        stacks = (Path(job.diagnosis.facts["record"]) / "rank-0.stacks.txt").read_text()
        assert "in generate" in stacks, "the stack of the hung thread is recorded"
        assert wait_for_end(studio, studio.submit(make_request()).id).state is JobState.FINISHED
    finally:
        studio.close()


def test_engine_that_ignores_stop_is_ended(studio: Studio, make_request: MakeRequest) -> None:
    job = studio.submit(make_request("ignore-stop slow"))
    wait_until(lambda: studio.job(job.id).frames_done >= 20)
    studio.stop(job.id)
    job = wait_for_end(studio, job.id)
    assert job.state is JobState.CANCELLED
    assert job.has_video


@pytest.mark.parametrize(
    ("mode", "code"), [("raise", "no_weights"), ("exit", "engine_exited"), ("hang", "engine_hung")]
)
def test_engine_that_cannot_load(
    fake_config: AppConfig, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch, mode: str, code: str
) -> None:
    monkeypatch.setenv("FAKE_LOAD", mode)
    deadlines = dataclasses.replace(fake_config.deadlines, load_s=3.0)
    studio = Studio(dataclasses.replace(fake_config, deadlines=deadlines))
    studio.start()
    try:
        job_id = studio.submit(make_request()).id
        if mode == "hang":
            wait_until(
                lambda: studio.engine_status().loading == "reading"
            )  # meanwhile the page says what it does
        job = wait_for_end(studio, job_id)
        assert job.state is JobState.FAILED
        assert job.diagnosis is not None
        assert job.diagnosis.code == code
        assert not job.has_video
        monkeypatch.delenv("FAKE_LOAD")
        wait_until(lambda: studio.engine_status().state == "ready")  # started again by itself
        assert wait_for_end(studio, studio.submit(make_request()).id).state is JobState.FINISHED
    finally:
        studio.close()


def test_full_disk_keeps_what_was_written(fake_config: AppConfig, make_request: MakeRequest) -> None:
    studio = Studio(fake_config)
    try:
        job = studio.submit(make_request())
        (fake_config.data_dir / "jobs" / job.id / "media.mp4").symlink_to(
            "/dev/full"
        )  # every write: no space left
        studio.start()
        job = wait_for_end(studio, job.id)
        assert job.state is JobState.FAILED
        assert job.diagnosis is not None
        assert job.diagnosis.code == "disk_full"
        assert wait_for_end(studio, studio.submit(make_request()).id).state is JobState.FINISHED
    finally:
        studio.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_disk_that_fills_up_under_a_job(
    small_disk: Path, fake_config: AppConfig, make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    studio = Studio(dataclasses.replace(fake_config, data_dir=small_disk, min_free_bytes=1))
    try:
        studio.start()
        job = studio.submit(make_request("slow", seconds=15.0))
        media, ballast = small_disk / "jobs" / job.id / "media.mp4", small_disk / "ballast"
        wait_until(lambda: media.exists() and media.stat().st_size > 0)
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        wait_until(lambda: studio.job(job.id).state.is_terminal or "could not be recorded" in caplog.text)
        ballast.unlink()  # the operator makes room
        ended = wait_for_end(studio, job.id)
        assert ended.state is JobState.FAILED
        assert ended.diagnosis is not None
        assert ended.diagnosis.code == "disk_full"
        video = studio.video_path(job.id)
        assert video is not None
        assert count_frames(video) > 0
        studio.delete(job.id)
        assert wait_for_end(studio, studio.submit(make_request(seconds=1.0)).id).state is JobState.FINISHED
    finally:
        studio.close()


def test_almost_full_disk_takes_no_new_job(fake_config: AppConfig, make_request: MakeRequest) -> None:
    studio = Studio(dataclasses.replace(fake_config, min_free_bytes=1 << 60))
    try:
        with pytest.raises(InputRejected, match="disk is almost full"):
            studio.submit(make_request())
        assert studio.jobs() == []
    finally:
        studio.close()


def test_a_refused_request_leaves_nothing_behind(
    fake_config: AppConfig, make_request: MakeRequest, tmp_path: Path
) -> None:
    studio = Studio(fake_config)
    try:
        text = tmp_path / "text.wav"
        text.write_text("no recording")
        with pytest.raises(InputRejected, match="cannot be read"):
            studio.submit(dataclasses.replace(make_request(), audio_path=str(text)))
        assert studio.jobs() == []
        assert list((fake_config.data_dir / "jobs").iterdir()) == []
        assert text.read_text() == "no recording"
    finally:
        studio.close()


APP = """
import json, sys
from pathlib import Path
from liveavatar.config import AppConfig
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import GenerationRequest, ValidatedRequest
from liveavatar.service.facade import Studio
studio = Studio(AppConfig(data_dir=Path(sys.argv[1]), worker_module="tests.fakes.worker"))
studio.start()
job = studio.submit(GenerationRequest(**json.loads(sys.argv[2])))
print(job.id, flush=True)
while True:
    studio.read_media(job.id, 0)
"""


def test_killed_app_leaves_no_worker_and_its_job_is_recovered(
    fake_config: AppConfig, make_request: MakeRequest
) -> None:
    request = dataclasses.asdict(make_request("slow", seconds=60.0))
    app = subprocess.Popen(
        [sys.executable, "-c", APP, str(fake_config.data_dir), json.dumps(request)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert app.stdout is not None
    job_id = app.stdout.readline().strip()
    media = fake_config.data_dir / "jobs" / job_id / "media.mp4"
    wait_until(lambda: media.exists() and media.stat().st_size > 5_000)
    workers = engine_processes(app.pid)
    assert len(workers) == 1
    app.send_signal(signal.SIGKILL)
    app.communicate()
    wait_until(lambda: not workers[0].is_running() or workers[0].status() == psutil.STATUS_ZOMBIE)

    studio = Studio(fake_config)
    try:
        job = studio.job(job_id)
        assert job.state is JobState.FAILED
        assert job.diagnosis is not None
        assert job.diagnosis.code == "interrupted"
        video = studio.video_path(job_id)
        assert video is not None
        assert count_frames(video) > 0
    finally:
        studio.close()


def test_second_app_on_the_same_folder_is_told(studio: Studio, fake_config: AppConfig) -> None:
    with pytest.raises(LiveAvatarError, match="already running"):
        Studio(fake_config)


def test_deleting_a_running_job_stops_it(studio: Studio, make_request: MakeRequest) -> None:
    job = studio.submit(make_request("slow", seconds=60.0))
    wait_until(lambda: studio.job(job.id).frames_done >= 20)
    studio.delete(job.id)
    with pytest.raises(KeyError):
        studio.job(job.id)
    assert wait_for_end(studio, studio.submit(make_request()).id).state is JobState.FINISHED
    assert not (studio.config.data_dir / "jobs" / job.id).exists()
