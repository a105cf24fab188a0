"""What happens when the page or an API client asks for something."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image, UnidentifiedImageError

from liveavatar.core.errors import Diagnosis, InputRejected, LiveAvatarError
from liveavatar.core.job import Job
from liveavatar.core.request import AUTO, FaceClicks, GenerationRequest
from liveavatar.core.sizes import TIERS, size_for_picture
from ui import access
from ui.resubmit import parse_clicks
from ui.samples import Samples
from ui.state import Json, describe, diagnosis_json, hardware_json

if TYPE_CHECKING:
    from liveavatar.service.facade import Studio

_log = logging.getLogger(__name__)

_TIERS = {tier.name: tier for tier in TIERS}
_EXIF_ORIENTATION = 274
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

INTERNAL = Diagnosis(
    code="internal",
    title="Something went wrong inside the app.",
    cause="The details are in the app's log.",
    remedy="Please try again.",
)


class Callbacks:
    """Functions for Gradio's events. Page functions answer problems as values, API functions raise gr.Error."""

    def __init__(self, studio: Studio, samples: Samples) -> None:
        self._studio = studio
        self._samples = samples

    # ---- the page

    def submit_from_page(
        self,
        portrait: str | None,
        voice: str | None,
        prompt: str,
        size: str,
        exact_size: str,
        engine: str,
        seed: float | None,
        steps: str,
        pin_size: bool,
        request: gr.Request,
    ) -> Json:
        """Queue a video. Answer {"job": ...} or {"problem": diagnosis}; what was typed stays either way."""
        try:
            job = self._submit(
                portrait,
                voice,
                prompt,
                exact_size or size,
                engine,
                seed,
                steps=int(steps or 0),
                pin_size=pin_size,
                clicks=None,
                whole=False,
                request=request,
            )
        except LiveAvatarError as error:
            return {"problem": diagnosis_json(error.diagnosis)}
        except Exception:  # noqa: BLE001 - the page must always hear back
            _log.exception("a video could not be queued")
            return {"problem": diagnosis_json(INTERNAL)}
        return {"job": describe(self._studio, job)}

    def sample_files(self, choice: str) -> tuple[Any, Any]:
        """Return the portrait and voice for "portrait:<n>" or "voice:<n>"; the other field stays as it is."""
        kind, _, number = choice.partition(":")
        if kind == "voice":
            return gr.skip(), str(self._samples.voices[int(number)].path)
        portrait = self._samples.portraits[int(number)]
        return str(portrait.path), str(self._samples.voices[portrait.voice_index].path)

    def try_sample(self, choice: str, prompt: str, size: str, request: gr.Request) -> tuple[Any, Any, Json]:
        """Fill in a sample portrait with its voice and queue it at once."""
        portrait, voice = self.sample_files(choice)
        ticket = self.submit_from_page(portrait, voice, prompt, size, "", AUTO, 0, "", False, request)
        return portrait, voice, ticket

    def use_model(self, ckpt_dir: str, lora_path: str) -> Json:
        """Use another model from the next video on, or none; answer {"is_named": ...} or {"problem": diagnosis}."""
        try:
            self._studio.model.choose(ckpt_dir, lora_path)
        except InputRejected as rejection:
            return {"problem": diagnosis_json(rejection.diagnosis)}
        return {"is_named": bool(ckpt_dir.strip())}

    # ---- the API

    def submit(
        self,
        portrait: str,
        voice: str,
        prompt: str,
        size: str,
        seed: float,
        engine: str,
        clicks: str,
        whole_picture: bool,
        steps: float,
        pin_size: bool,
        request: gr.Request,
    ) -> Json:
        """Queue a video and return its job. Poll job_status, or read the live video from `media_url`."""
        try:
            face_clicks = parse_clicks(json.loads(clicks) if clicks.strip() else None)
        except ValueError as error:
            raise gr.Error(
                f"clicks: {error}.", title="The face clicks cannot be read", print_exception=False
            ) from error
        try:
            job = self._submit(
                portrait,
                voice,
                prompt,
                size,
                engine,
                seed,
                steps=int(steps or 0),
                pin_size=pin_size,
                clicks=face_clicks,
                whole=whole_picture,
                request=request,
            )
        except LiveAvatarError as error:
            raise gr.Error(str(error), title=error.diagnosis.title, print_exception=False) from error
        return self._public(job)

    def job_status(self, job_id: str, request: gr.Request) -> Json:
        """Return a job: state, frames, speed, place in the queue, problem."""
        return self._public(self._job(job_id, request))

    def cancel_job(self, job_id: str, request: gr.Request) -> Json:
        """Stop a waiting or running job. What was made of it is kept."""
        job = self._job(job_id, request)
        self._studio.stop(job.id)
        return self._public(self._studio.job(job.id))

    def list_jobs(self, request: gr.Request) -> list[Json]:
        """Return all jobs of the caller, newest first."""
        owner = access.owner_of_call(request, per_visitor=self._studio.config.per_visitor)
        listed = self._studio.jobs(owner if self._studio.config.per_visitor else None)
        return [self._public(job) for job in listed]

    def hardware(self) -> Json:
        """Return the memory of the machine's graphics cards and of the machine itself, in bytes."""
        return hardware_json(self._studio)

    # ---- shared

    def _submit(
        self,
        portrait: str | None,
        voice: str | None,
        prompt: str,
        size: str,
        engine: str,
        seed: float | None,
        *,
        steps: int,
        pin_size: bool,
        clicks: FaceClicks | None,
        whole: bool,
        request: gr.Request,
    ) -> Job:
        wanted = GenerationRequest(
            image_path=portrait or "",
            audio_path=voice or "",
            prompt=prompt or "",
            size=size_in_pixels(size or AUTO, portrait),
            engine=engine or AUTO,
            seed=int(seed or 0),
            num_steps=steps or None,
            pin_size=pin_size,
            face_clicks=clicks,
            whole_picture=whole,
        )
        owner = access.owner_of_call(request, per_visitor=self._studio.config.per_visitor)
        return self._studio.submit(wanted, owner=owner)

    def _job(self, job_id: str, request: gr.Request) -> Job:
        per_visitor = self._studio.config.per_visitor
        try:
            job = self._studio.job(job_id)
        except KeyError:
            job = None
        if job is None or (per_visitor and job.owner != access.owner_of_call(request, per_visitor=True)):
            raise gr.Error("There is no job with this id.", print_exception=False)
        return job

    def _public(self, job: Job) -> Json:
        base = f"/api/jobs/{job.id}"
        urls = {"media_url": f"{base}/media", "video_url": f"{base}/video", "poster_url": f"{base}/poster"}
        return describe(self._studio, job) | urls


def size_in_pixels(size: str, portrait: str | None) -> str:
    """Turn a tier's name into "720*400" in the portrait's shape; leave everything else as it is.

    A portrait that cannot be read yields "auto": the check of the portrait itself finds the words for that.
    """
    tier = _TIERS.get(size)
    if tier is None:
        return size
    try:
        with Image.open(Path(portrait or "")) as picture:
            width, height = picture.size
            if picture.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
                width, height = height, width
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return AUTO
    width, height = size_for_picture(width, height, tier)
    return f"{width}*{height}"
