"""python -m liveavatar generate: make one video without the page, along the same path.

Exit codes: 0 the video is whole, 1 it is not (a partial one is kept beside it), 2 the input cannot be used,
130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from liveavatar.config import AppConfig
from liveavatar.core.errors import Diagnosis, InputRejected, LiveAvatarError
from liveavatar.core.job import Job, JobState
from liveavatar.core.plan import PlanChange
from liveavatar.core.request import AUTO, ENGINES, FaceClicks, GenerationRequest
from liveavatar.core.sizes import SIZES
from liveavatar.service.facade import Studio

WHOLE, BROKEN, REJECTED, INTERRUPTED = 0, 1, 2, 130
_SETTINGS = ("ckpt_dir", "lora_path", "nnodes", "rdzv_endpoint")  # options in place of the environment's
_POLL_S = 0.1
_MACHINES_S = 600.0  # for other machines to join


def run(options: argparse.Namespace) -> int:
    """Make the video that the options ask for; return the exit code."""
    reporter = _JsonReporter() if options.json else _TerminalReporter()
    try:
        _check_target(options.out)
        config = _config(options)
        # Ranks on other machines read the portrait and the voice: these lie in the folder that they have in common.
        base = config.data_dir if config.rdzv_endpoint else None
        if base is not None:
            base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="liveavatar-", dir=base) as folder:
            config = dataclasses.replace(config, data_dir=Path(folder))
            return _generate(config, _request(options), options.out, reporter)
    except LiveAvatarError as error:
        reporter.failed(error.diagnosis, None)
        return REJECTED
    except KeyboardInterrupt:
        return INTERRUPTED


def _config(options: argparse.Namespace) -> AppConfig:
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    try:
        config = dataclasses.replace(AppConfig.from_environment(), **given)
    except ValueError as error:
        raise InputRejected(
            Diagnosis(
                code="bad_setting",
                title="The settings do not go together.",
                cause=f"{error}.",
                remedy="Change them.",
            )
        ) from error
    return dataclasses.replace(config, token_file=config.token_file or config.data_dir / "cluster.token")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--image", required=True, type=Path, help="the portrait")
    parser.add_argument(
        "--audio", required=True, type=Path, help="the voice (or a video whose sound is taken)"
    )
    parser.add_argument("--prompt", default="", help="mood, smile and look, for example “calm, smiling”")
    parser.add_argument("--size", default=AUTO, help=f"auto, {', '.join(SIZES)}")
    parser.add_argument(
        "--pin-size",
        action="store_true",
        help="fail rather than make a smaller picture where memory is short",
    )
    parser.add_argument(
        "--steps", type=int, help="denoising steps of the s2v engine, 4 to 1: fewer are faster and coarser"
    )
    parser.add_argument("--engine", default=AUTO, choices=(AUTO, *ENGINES))
    parser.add_argument(
        "--ckpt-dir", type=Path, help="the s2v model, folder Wan2.2-S2V-14B; see docs/models.md"
    )
    parser.add_argument(
        "--lora-path",
        type=Path,
        help="its liveavatar.safetensors, where that is not inside or beside the folder",
    )
    parser.add_argument(
        "--nnodes",
        type=int,
        help="machines to wait for, this one included (default 1); see docs/multi-gpu.md",
    )
    parser.add_argument(
        "--rdzv-endpoint", metavar="HOST:PORT", help="address of this machine where the others join"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same video")
    parser.add_argument(
        "--face",
        type=_clicks,
        metavar="POINTS",
        help="where the face is when it is not found: 'left mouth corner, right mouth corner, chin[, eye[, eye]]',"
        " each as x,y in fractions of the picture, separated by spaces: '.41,.60 .55,.60 .48,.75'",
    )
    parser.add_argument(
        "--whole-picture", action="store_true", help="move the whole picture when no face is found"
    )
    parser.add_argument("--out", required=True, type=Path, help="the MP4 file to write")
    parser.add_argument("--json", action="store_true", help="one JSON object per line on standard output")


def _clicks(text: str) -> FaceClicks:
    try:
        mouth_left, mouth_right, chin, *eyes = [
            (float(x), float(y)) for x, y in (point.split(",") for point in text.split())
        ]
        return FaceClicks(mouth_left=mouth_left, mouth_right=mouth_right, chin=chin, eyes=tuple(eyes))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"three to five points x,y are needed, got {text!r} ({error})"
        ) from error


def _request(options: argparse.Namespace) -> GenerationRequest:
    return GenerationRequest(
        image_path=str(options.image),
        audio_path=str(options.audio),
        prompt=options.prompt,
        size=options.size,
        engine=options.engine,
        seed=options.seed,
        num_steps=options.steps,
        pin_size=options.pin_size,
        face_clicks=options.face,
        whole_picture=options.whole_picture,
    )


def _check_target(target: Path) -> None:
    if target.suffix.lower() != ".mp4" or not target.absolute().parent.is_dir():
        raise InputRejected(
            Diagnosis(
                code="bad_target",
                title=f"The video cannot be written to “{target}”.",
                cause="The name must end in .mp4 and its folder must exist.",
                remedy="Choose another --out.",
            )
        )


def _generate(config: AppConfig, request: GenerationRequest, target: Path, reporter: _Reporter) -> int:
    studio = Studio(config)
    try:
        studio.start()
        _wait_for_machines(studio)
        job = studio.submit(request)
        reporter.accepted(job)
        try:
            job = _follow(studio, job, reporter)
        except KeyboardInterrupt:
            studio.stop(job.id)
            job = _follow(studio, job, reporter)
        return _deliver(studio, job, target, reporter)
    finally:
        studio.close()


def _wait_for_machines(studio: Studio) -> None:
    """Give the other machines time to join. Whether they must is for the request to be told."""
    deadline = time.monotonic() + _MACHINES_S
    while studio.num_missing_machines() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _follow(studio: Studio, job: Job, reporter: _Reporter) -> Job:
    """Report the job until it ends; return it."""
    num_notes = num_changes = 0
    while True:
        job = studio.job(job.id)
        for note in job.notes[num_notes:]:
            reporter.notice(note.text)
        for change in job.changes[num_changes:]:
            reporter.changed(change)
        num_notes, num_changes = len(job.notes), len(job.changes)
        reporter.progress(job)
        if job.state.is_terminal:
            return job
        time.sleep(_POLL_S)


def _deliver(studio: Studio, job: Job, target: Path, reporter: _Reporter) -> int:
    video = studio.video_path(job.id)
    if job.state is JobState.FINISHED and video is not None:
        shutil.copyfile(video, target)
        reporter.finished(job, target)
        return WHOLE
    partial = None
    if video is not None:
        partial = target.with_suffix(".partial.mp4")
        shutil.copyfile(video, partial)
    if job.state is JobState.CANCELLED:
        reporter.cancelled(partial)
        return INTERRUPTED
    assert job.diagnosis is not None, "a failed job says why"
    reporter.failed(job.diagnosis, partial)
    return BROKEN


class _TerminalReporter:
    """For people: a progress bar and sentences on standard error."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def accepted(self, job: Job) -> None:
        self._bar = tqdm(total=job.num_frames, unit=" frames", desc="Starting the engine", disable=None)

    def notice(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)

    def changed(self, change: PlanChange) -> None:
        """Say nothing: the notice of the same change is made for people."""

    def progress(self, job: Job) -> None:
        if self._bar is not None:
            if job.state is JobState.RUNNING:
                self._bar.set_description("Making the video", refresh=False)
            self._bar.update(job.frames_done - self._bar.n)
            if job.state.is_terminal:
                self._bar.close()

    def finished(self, job: Job, path: Path) -> None:
        sys.stderr.write(f"{path}: {job.num_frames / 25:.1f} seconds at {job.size_made}\n")

    def cancelled(self, partial: Path | None) -> None:
        sys.stderr.write("Stopped." + (f" The part already made is in {partial}.\n" if partial else "\n"))

    def failed(self, diagnosis: Diagnosis, partial: Path | None) -> None:
        sys.stderr.write(
            diagnosis.sentence() + (f" The part already made is in {partial}.\n" if partial else "\n")
        )


class _JsonReporter:
    """For machines: one JSON object per line on standard output."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", -1)

    def accepted(self, job: Job) -> None:
        self._emit("accepted", num_frames=job.num_frames, audio_seconds=job.audio_seconds, engine=job.engine)

    def notice(self, text: str) -> None:
        self._emit("notice", text=text)

    def changed(self, change: PlanChange) -> None:
        self._emit("changed", **dataclasses.asdict(change))

    def progress(self, job: Job) -> None:
        if (job.state, job.frames_done) != self._last:
            self._last = (job.state, job.frames_done)
            self._emit(
                "progress",
                state=job.state,
                frames_done=job.frames_done,
                num_frames=job.num_frames,
                fps=job.fps,
            )

    def finished(self, job: Job, path: Path) -> None:
        self._emit(
            "finished",
            path=str(path),
            size=job.size_made,
            num_frames=job.num_frames,
            size_asked=job.size_asked,
            changes=[dataclasses.asdict(change) for change in job.changes],
        )

    def cancelled(self, partial: Path | None) -> None:
        self._emit("cancelled", partial=str(partial) if partial else None)

    def failed(self, diagnosis: Diagnosis, partial: Path | None) -> None:
        self._emit("failed", partial=str(partial) if partial else None, **dataclasses.asdict(diagnosis))

    def _emit(self, event: str, **fields: object) -> None:
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()


_Reporter = _TerminalReporter | _JsonReporter
