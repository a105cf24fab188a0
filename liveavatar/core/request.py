"""What a person asks for, before and after it was checked."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float]

AUDIO_RATE = 48_000  # Hz, of every job's voice and video
ENGINES = ("portrait", "s2v")
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class FaceClicks:
    """Where the operator says the face is, as fractions (x, y) of the picture, 0..1 from the top left.

    Left and right are those of the picture. `eyes` holds the centres of no, one or two eyes.
    """

    mouth_left: Point
    mouth_right: Point
    chin: Point
    eyes: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        for name, (x, y) in [
            ("mouth_left", self.mouth_left),
            ("mouth_right", self.mouth_right),
            ("chin", self.chin),
        ]:
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise ValueError(f"{name} is ({x}, {y}); both must be within 0..1")
        if len(self.eyes) > 2:
            raise ValueError(f"at most two eyes can be given, got {len(self.eyes)}")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What a person asked for, unchecked."""

    image_path: str
    audio_path: str
    prompt: str = ""
    size: str = AUTO  # "720*400", or "auto" to follow the portrait's shape
    engine: str = AUTO
    seed: int = 0
    num_steps: int | None = (
        None  # denoising steps of the s2v engine, 1 to 4; None: as many as it was made for
    )
    pin_size: bool = False  # fail rather than make a smaller picture where memory is short
    face_clicks: FaceClicks | None = None  # only needed when no face is found by itself
    whole_picture: bool = False  # move the picture as a whole when no face is found, instead of failing


@dataclass(frozen=True, kw_only=True)
class ValidatedRequest:
    """A request that the engine can use as it is. Both files belong to the job and are never changed."""

    job_id: str
    image_path: str  # RGB PNG, upright, no alpha, at most 4096 pixels a side
    audio_path: str  # mono 16-bit WAV at AUDIO_RATE
    audio_seconds: float
    prompt: str
    seed: int
    face_clicks: FaceClicks | None
    whole_picture: bool
    num_steps: int | None = None
    pin_size: bool = False
    made_path: str | None = (
        None  # the growing file of this very video, where it broke off: the rest is to be made
    )
