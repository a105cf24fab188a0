"""What a person wants of a job there is: to have it made once more from its files, or the rest of it otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from liveavatar.core import wire
from liveavatar.core.job import Job, JobState
from liveavatar.core.request import FaceClicks, GenerationRequest, Point, ValidatedRequest

if TYPE_CHECKING:
    from liveavatar.service.facade import Studio


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What should be different the next time."""

    face_clicks: FaceClicks | None = None
    whole_picture: bool = False


def parse_clicks(value: Any) -> FaceClicks | None:
    """Read face clicks from parsed JSON. Raise ValueError that says what is wrong with it.

    The form is {"mouth_left": [x, y], "mouth_right": [x, y], "chin": [x, y], "eyes": [[x, y], ...]}, with
    fractions of the picture's width and height. None and an empty object mean no clicks.
    """
    if not value:
        return None
    if not isinstance(value, dict):
        raise ValueError("clicks must be an object with mouth_left, mouth_right, chin and, if known, eyes")
    missing = [name for name in ("mouth_left", "mouth_right", "chin") if name not in value]
    if missing:
        raise ValueError(f"clicks lack {' and '.join(missing)}")
    eyes = value.get("eyes") or []
    if not isinstance(eyes, list):
        raise ValueError("eyes must be a list of points")
    return FaceClicks(
        mouth_left=_point(value["mouth_left"], "mouth_left"),
        mouth_right=_point(value["mouth_right"], "mouth_right"),
        chin=_point(value["chin"], "chin"),
        eyes=tuple(_point(eye, "eyes") for eye in eyes),
    )


def parse_wishes(value: Any) -> Wishes:
    """Read {"clicks": ..., "whole_picture": ...}. Raise ValueError when it is something else."""
    if not isinstance(value, dict):
        raise ValueError("the body must be a JSON object")
    return Wishes(
        face_clicks=parse_clicks(value.get("clicks")), whole_picture=bool(value.get("whole_picture", False))
    )


def parse_adjustment(value: Any) -> dict[str, Any]:
    """Read {"steps": 3} or {"size": "384*256"} or both. Raise ValueError when it is something else."""
    if not isinstance(value, dict) or not value or set(value) - {"steps", "size"}:
        raise ValueError("the body must be a JSON object with steps, size or both")
    steps, size = value.get("steps"), value.get("size")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool)):
        raise ValueError(f"steps must be a whole number, got {steps!r}")
    if size is not None and not isinstance(size, str):
        raise ValueError(f"size must be text like 384*256, got {size!r}")
    return {"num_steps": steps, "size": size}


def submit_again(studio: Studio, job: Job, wishes: Wishes) -> Job:
    """Queue the job's request once more and drop the old job if it failed and left nothing to watch."""
    old = _request_of(job)
    request = GenerationRequest(
        image_path=old.image_path,
        audio_path=old.audio_path,
        prompt=old.prompt,
        size=job.size_asked,
        engine=job.engine,
        seed=old.seed,
        num_steps=old.num_steps,
        pin_size=old.pin_size,
        face_clicks=None if wishes.whole_picture else wishes.face_clicks or old.face_clicks,
        whole_picture=wishes.whole_picture or old.whole_picture,
    )
    new_job = studio.submit(request, owner=job.owner)
    if job.state is JobState.FAILED and not job.has_video:
        studio.delete(job.id)
    return new_job


def _request_of(job: Job) -> ValidatedRequest:
    return wire.from_json(ValidatedRequest, json.loads(job.request_json))


def _point(value: Any, name: str) -> Point:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not is_pair or not all(isinstance(part, int | float) and 0 <= part <= 1 for part in value):
        raise ValueError(f"{name} must be [x, y] with both between 0 and 1, got {value!r}")
    return float(value[0]), float(value[1])
