"""From what a person asked for to what an engine can use."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.note import Note
from liveavatar.core.parallel import MAX_STEPS
from liveavatar.core.request import AUTO, ENGINES, GenerationRequest, ValidatedRequest
from liveavatar.core.sizes import parse_size
from liveavatar.intake.audio import import_audio
from liveavatar.intake.image import import_image, write_poster

MAX_PROMPT_CHARACTERS = 2000
_MAX_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Intake:
    """A usable request and notes about what was done to its inputs."""

    request: ValidatedRequest
    notes: tuple[Note, ...]


def validate(request: GenerationRequest, *, job_id: str, job_dir: Path, max_audio_s: float) -> Intake:
    """Check everything and bring the files into `job_dir` (which exists), with a poster for lists.

    Raises InputRejected with the first thing that cannot be used.
    """
    _check_choices(request)
    image_path, audio_path = job_dir / "portrait.png", job_dir / "voice.wav"
    notes = import_image(Path(request.image_path), image_path)
    audio = import_audio(Path(request.audio_path), audio_path, max_seconds=max_audio_s)
    write_poster(image_path, job_dir / "poster.jpg")
    return Intake(
        request=ValidatedRequest(
            job_id=job_id,
            image_path=str(image_path),
            audio_path=str(audio_path),
            audio_seconds=audio.seconds,
            prompt=_clean_prompt(request.prompt),
            seed=request.seed,
            face_clicks=request.face_clicks,
            whole_picture=request.whole_picture,
            num_steps=request.num_steps,
            pin_size=request.pin_size,
        ),
        notes=(*notes, *audio.notes),
    )


def _check_choices(request: GenerationRequest) -> None:
    if request.size != AUTO:
        parse_size(request.size)
    if request.engine not in (AUTO, *ENGINES):
        raise InputRejected(
            Diagnosis(
                code="unknown_engine",
                title=f"There is no engine “{request.engine}”.",
                cause=f"Known engines are {', '.join(ENGINES)}.",
                remedy="Choose one of them, or auto.",
                facts={"engine": request.engine, "engines": ", ".join(ENGINES)},
            )
        )
    if not 0 <= request.seed <= _MAX_SEED:
        raise InputRejected(
            Diagnosis(
                code="bad_seed",
                title=f"The seed {request.seed} cannot be used.",
                cause=f"Seeds are whole numbers from 0 to {_MAX_SEED}.",
                remedy="Choose another seed.",
                facts={"seed": request.seed, "largest": _MAX_SEED},
            )
        )
    check_num_steps(request.num_steps)
    if len(request.prompt) > MAX_PROMPT_CHARACTERS:
        raise InputRejected(
            Diagnosis(
                code="prompt_too_long",
                title=f"The prompt has {len(request.prompt)} characters.",
                cause=f"At most {MAX_PROMPT_CHARACTERS} are read.",
                remedy="Shorten it.",
                facts={"length": len(request.prompt), "longest": MAX_PROMPT_CHARACTERS},
            )
        )


def check_num_steps(num_steps: int | None) -> None:
    """Raise InputRejected for a number of denoising steps that the model does not work with."""
    if num_steps is not None and not 1 <= num_steps <= MAX_STEPS:
        raise InputRejected(
            Diagnosis(
                code="bad_steps",
                title=f"{num_steps} denoising steps cannot be run.",
                cause=f"The model was made for {MAX_STEPS} steps and works with 1 to {MAX_STEPS}.",
                remedy="Choose another number of steps, or leave it open.",
                facts={"num_steps": num_steps, "most": MAX_STEPS},
            )
        )


def _clean_prompt(prompt: str) -> str:
    """Return the prompt in one normal form, without control characters."""
    kept = (
        char if unicodedata.category(char) != "Cc" else " " for char in unicodedata.normalize("NFC", prompt)
    )
    return " ".join("".join(kept).split())
